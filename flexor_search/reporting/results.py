"""What came out of a run, as plain data: the numbers of its summary, and how they compare."""

import math
from typing import Any

import pandas as pd

from flexor_search.planning import LayerSpec
from flexor_search.reporting.tables import CHOSEN, FULL, UNIFORM

_NO_COMPARISON = {
    "split": None,
    "gain": None,
    "gain_error": None,
    "to_full": None,
    "to_full_error": None,
    "is_uniform": False,
}


def result_rows(summary: dict[str, Any] | None) -> list[dict[str, Any]]:
    """What came out, a row for each budget and model: chosen, uniform, full precision.

    Returns:
        Keys budget, model, bits_per_weight, nominal_bits_per_weight, payload_bits, file_bytes, val_mean, val_std,
        test_mean, test_std, test_shipped, seeds, verified. The chosen model has, too: `split` ("test", or "validation"
        where the test set was not read), and in that split `gain` over uniform and `to_full`, what it has over full
        precision, each with its standard error sqrt(s1^2 / n1 + s2^2 / n2) (`gain_error`, `to_full_error`; None where
        one of the two has a single seed); `is_uniform` where nothing beat the uniform model, which is then the chosen
        one. What is not known is None.
    """
    rows = []
    for entry in (summary or {}).get("budgets", []):
        models = ((CHOSEN, entry), (UNIFORM, entry["uniform"]), (FULL, entry["full_precision"]))
        rows += [_row(entry["budget"], model, body) for model, body in models if body is not None]
        chosen = next(row for row in rows if row["model"] == CHOSEN and row["budget"] == entry["budget"])
        chosen |= _comparison(entry)
    return rows


def layer_rates(summary: dict[str, Any] | None) -> pd.DataFrame:
    """Rate of every layer of the chosen models, layers in network order.

    Returns:
        Columns budget, layer, rate (nominal bits per weight; NaN for kept layers), label ("12/20", "kept") and
        searched (False: kept by decision of the space, and no part of bits per weight).
    """
    rows = []
    for entry in (summary or {}).get("budgets", []):
        outside = set(entry["allocation"].get("not_searched", ()))
        for layer, body in entry["allocation"]["layers"].items():
            spec = LayerSpec.from_json(body)
            rate = math.nan if spec.is_kept else spec.nominal_rate
            rows.append((entry["budget"], layer, rate, spec.label, layer not in outside))
    return pd.DataFrame(rows, columns=["budget", "layer", "rate", "label", "searched"])


def _row(budget: str, model: str, body: dict[str, Any]) -> dict[str, Any]:
    validation, test = body["val_accuracy"], body["test_accuracy"] or {}
    sizes = ("bits_per_weight", "nominal_bits_per_weight", "payload_bits", "file_bytes")
    return (
        {"budget": budget, "model": model}
        | {name: body[name] for name in sizes}
        | {
            "val_mean": validation["mean"],
            "val_std": validation["std"],
            "test_mean": test.get("mean"),
            "test_std": test.get("std"),
            "test_shipped": body["test_accuracy_shipped"],
            "seeds": len(validation["seeds"]),
            "verified": body["verified"],
        }
        | _NO_COMPARISON
    )


def _comparison(entry: dict[str, Any]) -> dict[str, Any]:
    split = "test" if entry["test_accuracy"] else "validation"
    uniform = entry["uniform"]
    gain, gain_error = _difference(entry, uniform, split)
    to_full, to_full_error = _difference(entry, entry["full_precision"], split)
    return {
        "split": split,
        "gain": gain,
        "gain_error": gain_error,
        "to_full": to_full,
        "to_full_error": to_full_error,
        "is_uniform": uniform is not None and uniform["allocation"] == entry["allocation"],
    }


def _difference(entry: dict[str, Any], other: dict[str, Any] | None, split: str) -> tuple[float | None, float | None]:
    """Difference of two mean accuracies, and its standard error."""
    key = {"test": "test_accuracy", "validation": "val_accuracy"}[split]
    ours, theirs = entry[key], (other or {}).get(key)
    if not theirs:
        return None, None
    difference = ours["mean"] - theirs["mean"]
    if ours["std"] is None or theirs["std"] is None:
        return difference, None
    return difference, math.sqrt(ours["std"] ** 2 / len(ours["seeds"]) + theirs["std"] ** 2 / len(theirs["seeds"]))
