"""Runs made by hand, with figures that a test can work out."""

import json
import math
from pathlib import Path
from typing import Any

from flexor_search.runs import CONFIRM, DONE, SEARCH, Measurement, Run

QUESTION = {"workload": "made", "budgets": ["0.7bpw"], "trials": 4, "seed": 0, "recipe_fields": {"epochs": 2}}


def made_run(folder: Path, measurements: list[Measurement], question: dict[str, Any] | None = None) -> Run:
    """A run folder that holds these measurements."""
    run = Run.start(folder, question or QUESTION, {"model": "m"})
    for measurement in measurements:
        run.append(measurement)
    return run


def measured(number: int, accuracy: float, bits: float, **changes: Any) -> Measurement:
    """One finished search training; anything can be changed."""
    fields = {
        "number": number,
        "phase": SEARCH,
        "kind": "proposed",
        "digest": f"d{number}",
        "label": f"{number}/20",
        "allocation": json.dumps({"layers": {}}),
        "budget": "0.7bpw",
        "bits_per_weight": bits,
        "nominal_bits_per_weight": bits,
        "payload_bits": int(1000 * bits),
        "file_bytes": int(200 + 125 * bits),
        "seed": 0,
        "epochs": 2,
        "images": 10,
        "state": DONE,
        "val_accuracy": accuracy,
        "val_loss": 1 - accuracy,
        "rungs": "",
        "train_seconds": 1.0,
        "reason": "",
    }
    return Measurement(**(fields | changes))


def failed(number: int, bits: float) -> Measurement:
    """A training whose loss was not a number."""
    return measured(number, math.nan, bits, state="failed", val_loss=math.nan, reason="the loss is nan, <b>sadly</b>")


def example(folder: Path) -> Run:
    """Search trials, a failure, and two confirmed allocations with three seeds each."""
    searched = [
        measured(0, 0.90, 0.7, kind="uniform"),
        measured(1, 0.80, 0.3, kind="uniform"),
        measured(2, 0.92, 0.5),
        failed(3, 0.6),
        measured(4, 0.91, 0.68, kind="size rule 0.5"),
    ]
    confirmed = [
        measured(5 + i, accuracy, 0.7, kind="uniform", digest="d0", phase=CONFIRM, seed=1000 + i)
        for i, accuracy in enumerate((0.93, 0.94, 0.95))
    ] + [
        measured(8 + i, accuracy, 0.5, digest="d2", phase=CONFIRM, seed=1000 + i)
        for i, accuracy in enumerate((0.95, 0.96, 0.97))
    ]
    full = [measured(11, 0.98, 32.0, kind="full precision", digest="df", phase=CONFIRM, label="- -")]
    run = made_run(folder, searched + confirmed + full)
    run.write_summary(summary())
    return run


def result(mean: float, std: float | None, bits: float, **changes: Any) -> dict[str, Any]:
    """What summary.json says of one model."""
    seeds = [1000, 1001, 1002] if std is not None else [1000]
    return {
        "bits_per_weight": bits,
        "payload_bits": int(1000 * bits),
        "file_bytes": int(200 + 125 * bits),
        "file_bits_per_weight": 2.0,
        "nominal_bits_per_weight": bits,
        "val_accuracy": {"mean": mean, "std": std, "seeds": seeds},
        "test_accuracy": {"mean": mean - 0.01, "std": std, "seeds": seeds},
        "test_accuracy_shipped": mean - 0.01,
        "verified": True,
        "allocation": {
            "kept_dtype": "float16",
            "layers": {
                "first<script>": {"family": "kept"},
                "mid": {"family": "systematic", "n_in": 8, "n_out": 20},
                "last": {"family": "systematic", "n_in": 5, "n_out": 10, "n_planes": 2},
            },
            "not_searched": ["first<script>"],
        },
    } | changes


def summary() -> dict[str, Any]:
    """The summary of `example`."""
    entry = {"budget": "0.7bpw"} | result(0.96, 0.01, 0.5)
    entry |= {"uniform": result(0.94, 0.02, 0.7), "full_precision": result(0.98, None, 32.0)}
    return {"state": "complete", "budgets": [entry]}
