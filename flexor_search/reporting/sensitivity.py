"""How much each layer minds a lower rate: from the run's own table of it, else from a fit to its measurements."""

import json
import math
from typing import Any

import numpy as np
import pandas as pd

from flexor_search.planning import LayerSpec
from flexor_search.reporting.words import duration
from flexor_search.runs import DONE, FULL_PRECISION, SEARCH, Run
from flexor_search.runs.sensitivity import own_sensitivity

COLUMNS = ["layer", "rate", "loss", "error"]
FIT, TABLE = "fit", "table"
_LEAST_TRAININGS = 8
_KEPT_BITS = 16.0


def sensitivity(run: Run) -> tuple[str, pd.DataFrame]:
    """Per-layer sensitivity.

    Returns:
        Where it is from, and columns layer, rate, loss, error.
        TABLE (sensitivity.json, from the shared-weight network or the accuracy model): for each layer and rate the
        accuracy, as a fraction, that it is predicted to cost there beside the layer's best rate, and how unsure that
        is.
        FIT (linear in each layer's log rate, of the logarithm of the validation loss): for each layer by what
        share halving its rate raises the loss, all others as they are, with its standard error; rate is "".
        Empty where too little is known.
    """
    table = _told(run)
    return (TABLE, table) if len(table) else (FIT, fitted(run))


def doubts(run: Run) -> list[str]:
    """What the run's model of accuracy is unsure of, the gravest first; none where there is no such model."""
    found = _model(run).get("doubts")
    return [str(one) for one in found] if isinstance(found, list) else []


def is_in_accuracy(run: Run) -> bool:
    """Whether the run's own table is of accuracy; without usable trainings it is of the loss."""
    return "loss" not in str(_model(run).get("reference", ""))


def shared_cost(run: Run) -> str:
    """What the shared network of a run took, in words that follow its trainings; "" where there was none."""
    try:
        body = own_sensitivity(run.folder, run.fingerprint) or {}
        network, scores = body["network"], len(body["scores"])
        seconds = float(network["train_seconds"]) + float(network.get("score_seconds", 0.0))
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""
    cost = network.get("training_equivalents")
    told = f", as long as {cost:g} full trainings" if isinstance(cost, int | float) else ""
    return f"; beside them a shared network, with the scores of {scores} allocations, took {duration(seconds)}{told}"


def fitted(run: Run) -> pd.DataFrame:
    """The fit: ridge regression of log validation loss on the log rate of every layer whose rate varied.

    The strength of the ridge is chosen by leaving one training out. Layers that only moved together (ties) share their
    effect equally.
    """
    empty = pd.DataFrame(columns=COLUMNS)
    seen = [
        m
        for m in run.measurements
        if m.phase == SEARCH and m.state == DONE and m.kind != FULL_PRECISION and 0 < m.val_loss < math.inf
    ]
    rates = [_log_rates(m.allocation) for m in seen]
    if len(seen) < _LEAST_TRAININGS or any(list(row) != list(rates[0]) for row in rates) or not rates[0]:
        return empty
    names = list(rates[0])
    x = np.array([[row[name] for name in names] for row in rates])
    varied = np.flatnonzero(np.ptp(x, axis=0) > 1e-9)
    if not len(varied) or len(seen) < len(varied) + 3:
        return empty
    slopes, errors = _ridge(x[:, varied], np.log([m.val_loss for m in seen]))
    # halving a rate is one less in log2: the loss is multiplied by exp(-slope)
    losses = np.expm1(-slopes)
    found = zip(varied, losses, errors, strict=True)
    rows = [(names[i], "", float(loss), float(error * (1 + loss))) for i, loss, error in found]
    return pd.DataFrame(rows, columns=COLUMNS)


def _ridge(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slopes and their standard errors."""
    x, y = x - x.mean(axis=0), y - y.mean()
    left, sizes, right = np.linalg.svd(x, full_matrices=False)
    best: tuple[float, float] = (math.inf, 1.0)
    for strength in np.geomspace(1e-3, 1e2, 26) * float(np.mean(sizes**2)):
        shrink = sizes**2 / (sizes**2 + strength)
        leverage = np.einsum("ij,j->i", left**2, shrink) + 1 / len(y)
        residual = (y - left @ (shrink * (left.T @ y))) / np.maximum(1 - leverage, 1e-6)
        best = min(best, (float(np.mean(residual**2)), float(strength)))
    noise, strength = best
    slopes = right.T @ (sizes / (sizes**2 + strength) * (left.T @ y))
    return slopes, np.sqrt(noise * np.einsum("ji,j->i", right**2, 1 / (sizes**2 + strength)))


def _log_rates(allocation: str) -> dict[str, float]:
    """log2 of the bits per weight of each searched layer."""
    body = json.loads(allocation)
    outside = set(body.get("not_searched", ()))
    specs = {name: LayerSpec.from_json(spec) for name, spec in body["layers"].items() if name not in outside}
    return {name: math.log2(_KEPT_BITS if spec.is_kept else spec.nominal_rate) for name, spec in specs.items()}


def _told(run: Run) -> pd.DataFrame:
    """The table in sensitivity.json; empty where there is none of this run that can be read."""
    table = (own_sensitivity(run.folder, run.fingerprint) or {}).get("table")
    rows = [row for row in map(_row, table if isinstance(table, list) else []) if row is not None]
    return pd.DataFrame(rows, columns=COLUMNS)


def _model(run: Run) -> dict[str, Any]:
    found = (own_sensitivity(run.folder, run.fingerprint) or {}).get("model")
    return found if isinstance(found, dict) else {}


def _row(body: Any) -> tuple[str, str, float, float] | None:
    try:
        return str(body["layer"]), str(body["label"]), float(body["loss"]), float(body["uncertainty"])
    except (KeyError, TypeError, ValueError):
        return None
