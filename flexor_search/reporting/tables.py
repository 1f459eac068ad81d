"""The numbers behind every figure and table of the report, as plain data, so that they are tested without a browser."""

import math
from typing import Any

import pandas as pd

from flexor_search.planning import pareto_front
from flexor_search.runs import CONFIRM, DONE, SEARCH, Run

FULL = "full precision"
POINT_COLUMNS = [
    "fidelity",
    "kind",
    "digest",
    "label",
    "bits_per_weight",
    "nominal_bits_per_weight",
    "payload_bits",
    "file_bytes",
    "val_accuracy",
    "val_std",
    "seeds",
]


def points(run: Run) -> pd.DataFrame:
    """Every allocation that finished training, once for each fidelity.

    Search trials are shorter than confirmations, so the two do not compare and are never mixed.

    Returns:
        Columns POINT_COLUMNS; `val_accuracy` is the mean over `seeds` trainings, `val_std` NaN for one.
    """
    frame = run.frame()
    frame = frame[frame["state"] == DONE]
    if frame.empty:
        return pd.DataFrame(columns=POINT_COLUMNS)
    grouped = frame.groupby(["phase", "digest"], sort=False)
    table = grouped.agg(
        kind=("kind", "first"),
        label=("label", "first"),
        bits_per_weight=("bits_per_weight", "first"),
        nominal_bits_per_weight=("nominal_bits_per_weight", "first"),
        payload_bits=("payload_bits", "first"),
        file_bytes=("file_bytes", "first"),
        val_accuracy=("val_accuracy", "mean"),
        val_std=("val_accuracy", "std"),
        seeds=("seed", "count"),
    ).reset_index()
    return table.rename(columns={"phase": "fidelity"})[POINT_COLUMNS]


def front(run: Run) -> pd.DataFrame:
    """The Pareto front of validation accuracy against bits per weight, of each fidelity by itself.

    Returns:
        Columns POINT_COLUMNS, the front of the confirmation first, then the search's, each by ascending size. The
        full-precision model is no point of it.
    """
    table = points(run)
    parts = []
    for fidelity in (CONFIRM, SEARCH):
        same = table[(table["fidelity"] == fidelity) & (table["kind"] != FULL)]
        chosen = pareto_front(list(zip(same["bits_per_weight"], same["val_accuracy"], strict=True)))
        parts.append(same.iloc[chosen])
    return pd.concat(parts, ignore_index=True)


def result_rows(summary: dict[str, Any] | None) -> list[dict[str, Any]]:
    """What came out, a row for each budget and model: chosen, uniform, full precision.

    Returns:
        Keys: budget, model, bits_per_weight, file_bytes, val_mean, val_std, test_mean, test_std, seeds, verified, and
        for the chosen model `gain` over uniform in test accuracy with standard error `gain_error` (None if unknown).
    """
    rows = []
    for entry in (summary or {}).get("budgets", []):
        for model, body in (("chosen", entry), ("uniform", entry["uniform"]), (FULL, entry["full_precision"])):
            if body is None:
                continue
            validation, test = body["val_accuracy"], body["test_accuracy"] or {}
            rows.append(
                {
                    "budget": entry["budget"],
                    "model": model,
                    "bits_per_weight": body["bits_per_weight"],
                    "file_bytes": body["file_bytes"],
                    "val_mean": validation["mean"],
                    "val_std": validation["std"],
                    "test_mean": test.get("mean"),
                    "test_std": test.get("std"),
                    "seeds": len(validation["seeds"]),
                    "verified": body["verified"],
                    "gain": None,
                    "gain_error": None,
                }
            )
            if model == "chosen" and entry["uniform"] is not None:
                rows[-1] |= dict(zip(("gain", "gain_error"), _difference(entry, entry["uniform"]), strict=True))
    return rows


def layer_rates(summary: dict[str, Any] | None) -> pd.DataFrame:
    """Rate of every layer of the chosen models.

    Returns:
        Columns budget, layer, rate (nominal bits per weight, NaN for kept layers), label; layers in network order.
    """
    rows = []
    for entry in (summary or {}).get("budgets", []):
        for layer, spec in entry["allocation"]["layers"].items():
            kept = spec["family"] == "kept"
            planes = spec.get("n_planes", 1)
            rows.append(
                {
                    "budget": entry["budget"],
                    "layer": layer or "(model)",
                    "rate": math.nan if kept else planes * spec["n_in"] / spec["n_out"],
                    "label": "kept"
                    if kept
                    else (f"{planes}x" if planes > 1 else "") + f"{spec['n_in']}/{spec['n_out']}",
                }
            )
    return pd.DataFrame(rows, columns=["budget", "layer", "rate", "label"])


def progress(run: Run) -> pd.DataFrame:
    """How the search went.

    Returns:
        For each search training: trial (from 1), bits_per_weight, val_accuracy (NaN unless it finished), state, kind,
        and gain: its accuracy less the uniform curve's at equal bits, linear between the uniform models measured.
    """
    frame = run.frame()
    frame = frame[frame["phase"] == SEARCH].reset_index(drop=True)
    done = frame["state"] == DONE
    table = frame[["bits_per_weight", "state", "kind", "label"]].copy()
    table.insert(0, "trial", range(1, len(frame) + 1))
    table["val_accuracy"] = frame["val_accuracy"].where(done)
    uniform = frame[done & (frame["kind"] == "uniform")].sort_values("bits_per_weight")
    table["gain"] = math.nan
    if len(uniform):
        curve = pd.Series(uniform["val_accuracy"].to_numpy(), index=uniform["bits_per_weight"].to_numpy())
        table["gain"] = table["val_accuracy"] - [_interpolate(curve, bits) for bits in table["bits_per_weight"]]
    table["best_gain"] = table["gain"].cummax().ffill()
    return table


def _interpolate(curve: "pd.Series[float]", at: float) -> float:
    import numpy as np

    return float(np.interp(at, curve.index.to_numpy(dtype=float), curve.to_numpy(dtype=float)))


def _difference(entry: dict[str, Any], other: dict[str, Any]) -> tuple[float | None, float | None]:
    """Difference of two mean test accuracies, and its standard error."""
    ours, theirs = entry["test_accuracy"], other["test_accuracy"]
    if not ours or not theirs:
        return None, None
    gain = ours["mean"] - theirs["mean"]
    if ours["std"] is None or theirs["std"] is None:
        return gain, None
    return gain, math.sqrt(ours["std"] ** 2 / len(ours["seeds"]) + theirs["std"] ** 2 / len(theirs["seeds"]))
