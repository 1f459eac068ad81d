"""What a run's trainings cost and what they bought: training-equivalents, time, hypervolume, who trained what."""

import math

import pandas as pd

from flexor_search.planning import hypervolume
from flexor_search.runs import CONFIRM, DONE, FAILED, FULL_PRECISION, SEARCH, STOPPED, Run
from flexor_search.runs.sensitivity import own_sensitivity


def full_training_images(run: Run) -> float:
    """Images that one training in full sees: epochs times images of the longest that the run knows of.

    Before anything was confirmed it is worked out from the recipe, if the search trains on all images; else from the
    longest training so far.
    """
    frame = run.frame()
    seen = frame["epochs"].astype(float) * frame["images"].astype(float)
    full = seen[frame["phase"] == CONFIRM].max()
    if full > 0:
        return float(full)
    recipe = run.question.get("recipe_fields") or {}
    images = float(frame["images"].max()) if len(frame) else 0.0
    if recipe.get("epochs") and not recipe.get("search_images"):
        images *= max(float(recipe["epochs"]), 1.0)
        return images or 1.0
    return float(seen.max()) if seen.max() > 0 else 1.0


def effort(run: Run) -> pd.DataFrame:
    """What each search training had cost by its end; a shared network that the run trained counts before all of them.

    Returns:
        A row for each search training, in order: trainings (images seen by it and all before it, over those of one
        training in full) and seconds (of training, by its worker, up to its end).
    """
    shared_trainings, shared_seconds = shared_network(run)
    frame = run.frame()
    frame = frame[frame["phase"] == SEARCH].reset_index(drop=True)
    seen = frame["epochs"].astype(float) * frame["images"].astype(float)
    seconds = frame["train_seconds"].astype(float).fillna(0.0)
    return pd.DataFrame(
        {
            "trainings": shared_trainings + seen.cumsum() / full_training_images(run),
            "seconds": shared_seconds + seconds.groupby(frame["worker"]).cumsum(),
        }
    )


def shared_network(run: Run) -> tuple[float, float]:
    """What a run's shared network took, in trainings in full and in seconds; zeros where there was none."""
    try:
        network = (own_sensitivity(run.folder, run.fingerprint) or {})["network"]
        seconds = float(network["train_seconds"]) + float(network.get("score_seconds", 0.0))
        return float(network.get("training_equivalents") or 0.0), seconds
    except (ValueError, KeyError, TypeError, AttributeError):
        return 0.0, 0.0


def reference(runs: list[Run]) -> tuple[float, float]:
    """Where hypervolume is measured from: the most bits per weight and the least accuracy of any search training.

    Args:
        runs: those that are compared; one point for all, or the areas do not compare.
    """
    ends = [(math.inf, math.inf)]
    for run in runs:
        done = _finished(run.frame())
        ends += zip(-done["bits_per_weight"].astype(float), done["val_accuracy"].astype(float), strict=True)
    bits, accuracy = (min(column) for column in zip(*ends, strict=True))
    return (-bits, accuracy) if math.isfinite(bits) else (0.0, 0.0)


def hypervolumes(run: Run, start: tuple[float, float] | None = None) -> list[float]:
    """The area that the front of the search dominates after each of its trainings, in bits times accuracy.

    Args:
        run: the run.
        start: `reference` of all runs that are compared; default of this one.
    """
    start = start or reference([run])
    frame = run.frame()
    frame = frame[frame["phase"] == SEARCH]
    counted = set(_finished(frame).index)
    found: list[tuple[float, float]] = []
    areas: list[float] = []
    for index, bits, accuracy in zip(frame.index, frame["bits_per_weight"], frame["val_accuracy"], strict=True):
        if index in counted:
            found.append((float(bits), float(accuracy)))
        areas.append(hypervolume(found, start) if index in counted or not areas else areas[-1])
    return areas


def by_worker(run: Run) -> pd.DataFrame:
    """Trainings by phase, worker and state.

    Returns:
        Columns phase, worker, done, stopped, failed, seconds (of training); order of first training.
    """
    frame = run.frame()
    rows = []
    for (phase, worker), same in frame.groupby(["phase", "worker"], sort=False):
        counts = same["state"].value_counts()
        states = (int(counts.get(state, 0)) for state in (DONE, STOPPED, FAILED))
        rows.append((phase, worker, *states, float(same["train_seconds"].sum())))
    return pd.DataFrame(rows, columns=["phase", "worker", DONE, STOPPED, FAILED, "seconds"])


def _finished(frame: pd.DataFrame) -> pd.DataFrame:
    """Search trainings that count for a front."""
    small = (frame["phase"] == SEARCH) & (frame["kind"] != FULL_PRECISION)
    return frame[small & (frame["state"] == DONE) & frame["val_accuracy"].notna()]
