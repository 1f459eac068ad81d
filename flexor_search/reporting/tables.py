"""What a run measured, as plain data: the numbers behind the figures, so that they are tested without a browser."""

import json
import math
from typing import Any

import pandas as pd

from flexor_search.errors import UsageError
from flexor_search.planning import Budget, pareto_front
from flexor_search.reporting.effort import effort, hypervolumes
from flexor_search.runs import CONFIRM, DONE, FULL_PRECISION, SEARCH, Run

FULL, UNIFORM, CHOSEN = FULL_PRECISION, "uniform", "chosen"
SIZE_RULE = "size rule"
"""How the kinds of the weights^-gamma family begin."""

FRONT_COLUMNS = [
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
"""Columns of front.csv."""

_SHARED = ["kind", "label", "bits_per_weight", "nominal_bits_per_weight", "payload_bits", "file_bytes"]


def points(run: Run) -> pd.DataFrame:
    """Every allocation that finished training, once for each fidelity.

    Search trainings are shorter than confirmations, so the two do not compare and are never averaged. Of a training
    that was made again the last counts.

    Returns:
        FRONT_COLUMNS and `trial`. `val_accuracy` is the mean over `seeds` trainings, `val_std` their standard deviation
        (NaN for one), `trial` the number of the most accurate of them. Order of first training.
    """
    frame = run.frame()
    frame = frame[(frame["state"] == DONE) & frame["val_accuracy"].notna()]
    frame = frame.drop_duplicates(["phase", "digest", "seed"], keep="last")
    if frame.empty:
        return pd.DataFrame(columns=[*FRONT_COLUMNS, "trial"])
    groups = frame.groupby(["phase", "digest"], sort=False)
    table = groups[_SHARED].first()
    table["val_accuracy"] = groups["val_accuracy"].mean()
    table["val_std"] = groups["val_accuracy"].std()
    table["seeds"] = groups["seed"].count()
    best = frame.sort_values(["val_accuracy", "val_loss"], ascending=[False, True])
    table["trial"] = best.groupby(["phase", "digest"])["number"].first()
    return table.reset_index().rename(columns={"phase": "fidelity"})[[*FRONT_COLUMNS, "trial"]]


def front(run: Run) -> pd.DataFrame:
    """The Pareto front of validation accuracy against stored bits per weight, of each fidelity by itself.

    Returns:
        FRONT_COLUMNS; the confirmed front, then the search's, each by ascending size. The full-precision model is what
        all others are compared with, and no point of a front.
    """
    table = points(run)[FRONT_COLUMNS]
    small = table[table["kind"] != FULL]
    rows: list[int] = []
    for fidelity in (CONFIRM, SEARCH):
        same = small[small["fidelity"] == fidelity]
        chosen = pareto_front(list(zip(same["bits_per_weight"], same["val_accuracy"], strict=True)))
        rows += [int(same.index[i]) for i in chosen]
    return table.loc[rows].reset_index(drop=True)


def budget_places(points: pd.DataFrame, budgets: list[str]) -> list[tuple[float, str]]:
    """Where the budgets stand on the axis of bits per weight.

    One in bytes stands where a line through the measured models' files has so many; ratios have no place, since the
    float model's size is in no measurement.

    Args:
        points: as from `points`.
        budgets: as typed.

    Returns:
        Bits per weight and text of each that has a place.
    """
    small = points[points["kind"] != FULL]
    bits, sizes = small["bits_per_weight"].astype(float), small["file_bytes"].astype(float)
    places = []
    for budget in map(Budget.parse, budgets):
        if budget.kind == "bpw":
            places.append((float(budget.value), budget.text))
        elif budget.kind == "bytes" and bits.nunique() > 1:
            spread = bits - bits.mean()
            slope = float((spread * (sizes - sizes.mean())).sum() / (spread**2).sum())
            if slope > 0:
                places.append((float(bits.mean() + (float(budget.value) - sizes.mean()) / slope), budget.text))
    return places


def chosen_digests(run: Run, summary: dict[str, Any] | None) -> set[str]:
    """Digests of the chosen models."""
    chosen = [entry["allocation"] for entry in (summary or {}).get("budgets", [])]
    return {m.digest for m in run.measurements if chosen and json.loads(m.allocation) in chosen}


def progress(run: Run) -> pd.DataFrame:
    """How the search went under the first budget.

    Returns:
        A row for each search training: trial (its number in the run), kind, label, bits_per_weight, file_bytes, state,
        val_accuracy (of a stopped one, the last seen), fits (the first budget), asked (it was projected onto that
        budget, not onto a smaller one), best (the best accuracy so far of those that finished and fit, NaN before
        there is one), trainings and seconds (`effort` by its end), and
        hypervolume (of the search's front after it, in bits times accuracy; see `effort.reference`).
    """
    frame = run.frame()
    frame = frame[frame["phase"] == SEARCH].reset_index(drop=True)
    fits = [_fits(run, row) for row in frame.to_dict("records")]
    columns = ["kind", "label", "bits_per_weight", "file_bytes", "state", "val_accuracy"]
    table = frame[columns].copy()
    table.insert(0, "trial", frame["number"])
    table["fits"] = pd.Series(fits, dtype=bool)
    table["asked"] = _asked(run, frame)
    counted = table["val_accuracy"].astype(float).where(table["fits"] & (table["state"] == DONE))
    table["best"] = counted.cummax().ffill()
    table = table.join(effort(run))
    table["hypervolume"] = pd.Series(hypervolumes(run), dtype=float)
    return table


def _asked(run: Run, frame: pd.DataFrame) -> pd.Series:
    """Whether each training is of the first budget: by its text, or the one that the summary compares with there."""
    first = [str(one) for one in (run.question.get("budgets") or [])[:1]]
    entries = [entry for entry in (run.summary() or {}).get("budgets", []) if entry["budget"] in first]
    chosen = (entries[0] if entries else {}).get("uniform") or {}
    alike = [bool(chosen) and json.loads(text) == chosen["allocation"] for text in frame["allocation"]]
    return frame["budget"].isin(first) | pd.Series(alike, index=frame.index, dtype=bool)


def uniform_level(table: pd.DataFrame) -> float:
    """The accuracy of the uniform model of the first budget, if `progress` has it finished; else NaN.

    One of a smaller budget would flatter the search. Where several budgets are asked for, it may not be trained.
    """
    uniform = table[(table["kind"] == UNIFORM) & (table["state"] == DONE) & table["fits"] & table["asked"]]
    return float(uniform["val_accuracy"].max()) if len(uniform) else math.nan


def _fits(run: Run, row: dict[Any, Any]) -> bool:
    """Whether a measurement is within the run's first budget."""
    budgets = run.question.get("budgets") or []
    if not budgets:
        return True
    first = Budget.parse(str(budgets[0]))
    if first.kind == "bpw":
        return row["bits_per_weight"] <= first.value
    if first.kind == "bytes":
        return row["file_bytes"] <= first.value
    # The float model's bytes, which a ratio is a ratio to, are in no measurement; but every training was projected onto
    # a budget, and keeps it.
    try:
        own = Budget.parse(row["budget"])
    except UsageError:
        return False
    return own.kind == first.kind and own.value <= first.value
