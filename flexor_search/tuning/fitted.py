"""What a run has measured, as the model of accuracy takes it, and the models that are fitted to it."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from flexor_search.errors import RunError
from flexor_search.planning import Allocation, SearchSpace
from flexor_search.planning.ties import opened
from flexor_search.runs import ACCURACY, DONE, SEARCH, STOPPED, Measurement, MetricWords, Run
from flexor_search.runs.sensitivity import DamagedError, Sensitivity, identity, read_sensitivity
from flexor_search.tuning.accuracy_model import SHARED_LOSS, TRAINED, AccuracyModel, Observation, fit_accuracy_model


def allocation_of(space: SearchSpace, measurement: Measurement) -> Allocation:
    """The allocation that was measured."""
    return Allocation.from_json(space.model, json.loads(measurement.allocation))


def observations(space: SearchSpace, found: Sensitivity) -> list[Observation]:
    """The scores as the model of accuracy takes them: the loss, which says more than the accuracy does.

    In the order of the profiles, so that an interruption changes nothing, not even by rounding.

    Args:
        space: that of the scores' profiles.
        found: the scores.
    """
    ordered = sorted(found.scores, key=lambda score: score.profile)
    return [Observation(space.allocation(score.profile), -score.loss, SHARED_LOSS) for score in ordered]


def searched(measurements: Sequence[Measurement]) -> list[Measurement]:
    """The trainings of the search by number; the later one where one whose file was lost was made again."""
    latest = {m.key: m for m in measurements if m.phase == SEARCH}
    return sorted(latest.values(), key=lambda m: m.number)  # an interruption may have changed the order of lines


def trainings(space: SearchSpace, measurements: Iterable[Measurement]) -> list[Observation]:
    """Finished trainings of a search, of allocations that a model of this space can tell apart.

    Args:
        space: the menus.
        measurements: of the search, each training once.
    """
    found = []
    for measurement in measurements:
        allocation = allocation_of(space, measurement)
        is_usable = measurement.state == DONE and math.isfinite(measurement.val_accuracy)
        if is_usable and space.holds(allocation):
            found.append(Observation(allocation, measurement.val_accuracy, TRAINED))
    return found


def left_undone(space: SearchSpace, done: Sequence[Measurement]) -> list[Observation]:
    """What stopped and failed trials would have come to, roughly, so that their like is not proposed again.

    A stopped one: what it had, and the median of what finished ones still gained from that epoch on; a failed one: the
    least that any finished one has. None where nothing has finished.
    """
    finished = [m for m in done if m.state == DONE and math.isfinite(m.val_accuracy)]
    found = []
    for m in done if finished else ():
        value = min(one.val_accuracy for one in finished)
        if m.state == STOPPED:
            rungs = ((one.val_accuracy, one.rung_accuracies) for one in finished)
            gained = [accuracy - seen[m.epochs] for accuracy, seen in rungs if m.epochs in seen]
            value = m.val_accuracy + (float(np.median(gained)) if gained else 0.0)
        if m.state != DONE and math.isfinite(value):
            found.append(Observation(allocation_of(space, m), value, TRAINED))
    return found


def model_of_trainings(space: SearchSpace, measurements: Sequence[Measurement]) -> AccuracyModel | None:
    """The model of accuracy fitted to the trainings of a search; None where no two that differ have finished.

    Stopped and failed ones count by what they would have come to, roughly.
    """
    done = searched(measurements)
    trained = trainings(space, done)
    if len({one.value for one in trained}) <= 1:
        return None
    return fit_accuracy_model(space, [*trained, *left_undone(space, done)])


def model_of_run(space: SearchSpace, run: Run) -> AccuracyModel:
    """The model of accuracy fitted to all that a run has measured: scores of its shared network and trainings.

    Args:
        space: of the run.
        run: any.

    Raises:
        RunError: nothing was measured yet, or sensitivity.json is damaged or of another search.
    """
    whole = opened(space)
    found = read_sensitivity(run.folder, whole, run.fingerprint)
    scored = observations(whole, found) if found is not None else []
    space = whole if scored else space  # trainings alone keep every tie
    done = searched(run.measurements)
    trained = trainings(space, done)
    if not scored and not trained:
        raise RunError(f"{run.folder}: nothing that a model of accuracy is fitted to was measured; resume it first")
    return fit_accuracy_model(space, [*scored, *trained, *(left_undone(space, done) if not scored else [])])


def keep_model_of_trainings(space: SearchSpace, run: Run) -> None:
    """What the trainings of a search say of each layer goes into sensitivity.json, for the report.

    Args:
        space: of the run.
        run: one whose trials all train; scores of a shared network that an earlier call left stay.

    Raises:
        RunError: the file there is of another search, and stays, or the folder is not writable.
    """
    if (model := model_of_trainings(space, run.measurements)) is None:
        return
    try:
        found = read_sensitivity(run.folder, opened(space), run.fingerprint)
    except DamagedError:
        found = None
    keep_model(run, found or Sensitivity(identity(run.fingerprint)), model)


def keep_model(run: Run, found: Sensitivity, model: AccuracyModel, *, has_new: bool = False) -> None:
    """Write a model into sensitivity.json, if it is fitted to other values than the one there.

    Args:
        run: whose folder it is.
        found: the content of the file.
        model: fitted.
        has_new: values are new although there are as many. Where none are, another machine would only round otherwise.
    """
    if has_new or found.model.get("values") != model.counts:
        body = model.to_json()
        if MetricWords.of(run.question) != ACCURACY:
            body["doubts"] = []  # they speak of points of accuracy
        replace(found, model=body).write(run.folder)
