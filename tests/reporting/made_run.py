"""Runs made by hand, with figures that a test can work out."""

import json
import math
from pathlib import Path
from typing import Any

from flexor_search.planning import LayerSpec
from flexor_search.runs import CONFIRM, DONE, FAILED, SEARCH, STOPPED, Measurement, Run

QUESTION = {"workload": "made", "budgets": ["0.7bpw"], "trials": 4, "seed": 0, "recipe_fields": {"epochs": 2}}
FULL = {"kind": "full precision", "digest": "full", "label": "- -", "phase": CONFIRM, "budget": ""}


def made_run(folder: Path, measurements: list[Measurement], **question: Any) -> Run:
    """A run folder that holds these measurements."""
    run = Run.start(folder, QUESTION | question, {"model": "abc123"})
    for measurement in measurements:
        run.append(measurement)
    return run


def write_sensitivity(run: Run, **content: Any) -> None:
    """A sensitivity.json of this run."""
    (run.folder / "sensitivity.json").write_text(json.dumps({"fingerprint": run.fingerprint} | content))


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
    """A training whose loss was not a number at once."""
    return measured(
        number, math.nan, bits, state=FAILED, epochs=0, val_loss=math.nan, reason="the loss is nan, <b>sadly</b>"
    )


def stopped(number: int, accuracy: float, bits: float) -> Measurement:
    """A training that was stopped as weak."""
    return measured(number, accuracy, bits, state=STOPPED, reason="weak after epoch 1")


def confirmed(number: int, accuracies: tuple[float, ...], bits: float, **changes: Any) -> list[Measurement]:
    """One allocation trained in full with a seed for each accuracy."""
    fields = {"phase": CONFIRM, "digest": f"d{number}"} | changes
    return [measured(number + i, accuracy, bits, seed=1000 + i, **fields) for i, accuracy in enumerate(accuracies)]


def allocation(*rates: str) -> dict[str, Any]:
    """An allocation's JSON: first layer kept by decision of the space, then one layer for each rate."""
    layers: dict[str, Any] = {"first<script>": {"family": "kept"}}
    for i, rate in enumerate(rates):
        n_in, n_out = map(int, rate.split("/"))
        layers[f"stage{i // 4}.{i % 4}.conv"] = LayerSpec("systematic", n_in, n_out).to_json()
    return {"kept_dtype": "float16", "layers": layers, "not_searched": ["first<script>"]}


def result(mean: float, std: float | None, bits: float, **changes: Any) -> dict[str, Any]:
    """What summary.json says of one model; test accuracies are a point below those of validation."""
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
        "allocation": allocation("8/20", "12/20"),
    } | changes


def account(allocation: dict[str, Any], file_bytes: int) -> dict[str, Any]:
    """What the file of an allocation could hold: every layer a hundredth of the file, the rest in header and codes."""
    part = max(1, file_bytes // 400)
    layers = [
        {
            "name": name,
            "code": "kept" if spec["family"] == "kept" else f"{spec['n_in']}/20",
            "n_weights": 160,
            "payload_bytes": 0 if spec["family"] == "kept" else 2 * part,
            "padding_bits": 0,
            "scale_bytes": part,
            "kept_bytes": 2 * part if spec["family"] == "kept" else 0,
            "header_bytes": part,
            "total_bytes": 4 * part,
        }
        for name, spec in allocation["layers"].items()
    ]
    rest = file_bytes - 4 * part * len(layers)
    whole = {"code_table_bytes": part, "other_kept_bytes": 0, "exact_bytes": 8, "container_bytes": rest - part - 8}
    return {"layers": layers, **whole, "file_bytes": file_bytes, "kept_dtype": "float16", "model_name": ""}


def step(name: str, what: str, saved_bytes: int, difference: float, tolerance: float) -> dict[str, Any]:
    """An economy of a file, as packing tells it."""
    told = {"logit_difference": difference, "tolerance": tolerance, "within": difference <= tolerance}
    return {"name": name, "what": what, "saved_bytes": saved_bytes, "rounds": tolerance > 0} | told


PACKING = {
    "steps": [
        step("recoding", "codes stored at their rank <GF(2)>", 1234, 0.0, 0.0),
        step("rounding", "scales and kept tensors in float16", 567, 3.2e-4, 1e-2),
    ],
    "kept_dtype": "float16",
    "val_accuracy_trained": 0.961,
    "val_accuracy_packed": 0.961,
    "kept_dtype_holds": True,
}


def entry(budget: str = "0.7bpw", **changes: Any) -> dict[str, Any]:
    """A budget's entry of a summary: 0.5 bits per weight beat 0.7 uniform ones by two points."""
    uniform = result(0.94, 0.02, 0.7, allocation=allocation("14/20", "14/20"))
    full = result(0.98, None, 32.0)
    chosen = {"budget": budget, **result(0.96, 0.01, 0.5), "uniform": uniform, "full_precision": full} | changes
    return {"file": account(chosen["allocation"], chosen["file_bytes"]), "packing": PACKING} | chosen


def summary(*entries: dict[str, Any], state: str = "complete") -> dict[str, Any]:
    """A summary."""
    return {"state": state, "budgets": list(entries) or [entry()]}


def example(folder: Path) -> Run:
    """Search trials with a failure and a stopped one, two confirmed allocations with three seeds, full precision."""
    chosen = {"digest": "d2", "label": "8/20 12/20", "allocation": json.dumps(allocation("8/20", "12/20"))}
    run = made_run(
        folder,
        [
            measured(0, 0.90, 0.7, kind="uniform"),
            measured(1, 0.80, 0.3, kind="uniform"),
            measured(2, 0.92, 0.5, **chosen),
            failed(3, 0.6),
            measured(4, 0.91, 0.68, kind="size rule 0.5"),
            stopped(5, 0.4, 0.65),
            *confirmed(6, (0.93, 0.94, 0.95), 0.7, kind="uniform", digest="d0"),
            *confirmed(9, (0.95, 0.97, 0.96), 0.5, **chosen),
            measured(12, 0.98, 32.0, **FULL),
        ],
    )
    run.write_summary(summary())
    return run


def large(folder: Path, n_trials: int = 500, n_layers: int = 21) -> Run:
    """A long run: several budgets, many layers with long names, labels that are long too."""
    budgets = {"0.3bpw": 6, "0.5bpw": 10, "0.9bpw": 18, "48KiB": 14}
    label = " ".join(["12/20"] * n_layers)
    trials = [
        measured(i, 0.6 + 0.3 * (i % 97) / 97, 0.2 + 0.7 * ((i * 37) % n_trials) / n_trials, label=label)
        for i in range(n_trials)
    ]
    chosen = []
    for i, n_in in enumerate(budgets.values()):
        found = {"allocation": json.dumps(allocation(*[f"{n_in}/20"] * n_layers)), "label": label, "digest": f"c{i}"}
        chosen += confirmed(n_trials + 3 * i, (0.9 + i / 100, 0.91 + i / 100, 0.93 + i / 100), n_in / 20, **found)
    run = made_run(folder, [*trials, *chosen], budgets=list(budgets))
    entries = []
    for budget, n_in in budgets.items():
        rates = [f"{n_in - i % 3}/20" for i in range(n_layers)]
        entries.append(entry(budget, **result(0.9, 0.01, n_in / 20, allocation=allocation(*rates))))
    run.write_summary(summary(*entries))
    return run
