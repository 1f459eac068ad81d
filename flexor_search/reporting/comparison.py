"""Several runs beside each other, as plain data: their fronts, what each search bought for its effort, what differs."""

import json
import math
from typing import Any

import pandas as pd

from flexor_search.reporting.effort import effort, hypervolumes, reference, shared_network
from flexor_search.reporting.results import result_rows
from flexor_search.reporting.tables import CHOSEN, front
from flexor_search.runs import Run

_COMPARABLE = ("model", "data", "metric")
"""Parts of the fingerprint that must agree, or accuracies do not compare."""


def names_of(runs: list[Run]) -> list[str]:
    """A name for each run: its folder's, with as much of the path before it as tells all apart."""
    parts = [run.folder.resolve().parts for run in runs]
    longest = max(len(path) for path in parts)
    for depth in range(1, longest + 1):
        names = ["/".join(path[-depth:]) for path in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({number})" for number, name in enumerate(names, start=1)]  # the same folder twice


def fronts(runs: list[Run]) -> pd.DataFrame:
    """The fronts of all runs: column run, then those of `tables.front`."""
    tables = [front(run).assign(run=name) for run, name in zip(runs, names_of(runs), strict=True)]
    filled = [table for table in tables if len(table)]
    found = pd.concat(filled, ignore_index=True) if filled else tables[0]
    return found[["run", *(column for column in found.columns if column != "run")]]


def curves(runs: list[Run]) -> pd.DataFrame:
    """Hypervolume after each search training, from one reference for all runs.

    Returns:
        Columns run, trainings, seconds (`effort.effort`), hypervolume (bits times accuracy).
    """
    start = reference(runs)
    tables = [
        effort(run).assign(run=name, hypervolume=pd.Series(hypervolumes(run, start), dtype=float))
        for run, name in zip(runs, names_of(runs), strict=True)
    ]
    return pd.concat(tables, ignore_index=True)[["run", "trainings", "seconds", "hypervolume"]]


def searches(runs: list[Run]) -> list[dict[str, Any]]:
    """What each search was and bought.

    Returns:
        For each run: run, strategy, codes (families that it trained), seed, measurements, trainings (in full, that the
        search's images are worth), seconds, hypervolume.
    """
    ends, rows = curves(runs), []
    for run, name in zip(runs, names_of(runs), strict=True):
        own = ends[ends["run"] == name]
        rows.append(
            {
                "run": name,
                "strategy": str((run.summary() or {}).get("strategy") or run.question.get("strategy", "")),
                "codes": _families(run),
                "seed": str(run.question.get("seed", "")),
                "measurements": len(run.measurements),
                "trainings": float(own["trainings"].max()) if len(own) else 0.0,
                "seconds": float(sum(m.train_seconds for m in run.measurements)) + shared_network(run)[1],
                "hypervolume": float(own["hypervolume"].max()) if len(own) else math.nan,
            }
        )
    return rows


def chosen_models(runs: list[Run]) -> list[dict[str, Any]]:
    """The chosen models of all runs by budget: rows of `result_rows` with the run's name."""
    found = [
        {"run": name} | row
        for run, name in zip(runs, names_of(runs), strict=True)
        for row in result_rows(run.summary())
        if row["model"] == CHOSEN
    ]
    order = list(dict.fromkeys(row["budget"] for row in found))
    return sorted(found, key=lambda row: order.index(row["budget"]))


def differences(runs: list[Run]) -> dict[str, list[str]]:
    """Fields of question, recipe and fingerprint in which runs differ: name -> the value of each run."""
    flat = []
    for run in runs:
        plain = {name: value for name, value in run.question.items() if not isinstance(value, dict)}
        recipe = {f"recipe {name}": value for name, value in (run.question.get("recipe_fields") or {}).items()}
        flat.append(plain | recipe | {f"fingerprint {name}": value for name, value in run.fingerprint.items()})
    names = dict.fromkeys(name for fields in flat for name in fields)
    found = {name: [str(fields.get(name, "")) for fields in flat] for name in names}
    return {name: values for name, values in found.items() if len(set(values)) > 1}


def why_incomparable(runs: list[Run]) -> str:
    """What of model and data differs, so that accuracies do not compare; "" if nothing does."""
    parts = [part for part in _COMPARABLE if len({run.fingerprint.get(part) for run in runs}) > 1]
    return " and ".join(parts)


def _families(run: Run) -> str:
    found: dict[str, None] = {}
    for text in dict.fromkeys(m.allocation for m in run.measurements):
        for spec in json.loads(text)["layers"].values():
            if spec["family"] != "kept":
                taps = f" {spec['n_tap']} taps" if spec.get("n_tap") else ""
                found[spec["family"] + taps] = None
    return ", ".join(found)
