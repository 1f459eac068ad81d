"""Optuna's view of a search: its choices as parameters, and a record of all trials that optuna-dashboard can open."""

import hashlib
import sqlite3
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError

from flexor_search.errors import RunError
from flexor_search.interrupts import unbroken
from flexor_search.planning import SearchSpace, Variable
from flexor_search.planning.space import Profile
from flexor_search.runs import DONE, SEARCH, STOPPED, Measurement, Run
from flexor_search.tuning.fitted import allocation_of
from flexor_search.tuning.storage import quiet_optuna

_STATES = {DONE: TrialState.COMPLETE, STOPPED: TrialState.PRUNED}
STUDY_NAME = "flexor-search"
_LONGEST_NAME = 400
"""Of a parameter; Optuna's tables have 512 characters for it."""


@contextmanager
def _write_errors(path: Path):
    """A full disk is an error like any other, and an interruption waits."""
    try:
        with unbroken():
            yield
    except (StorageInternalError, SQLAlchemyError, sqlite3.Error) as error:
        cause = error.__cause__ or error
        reason = str(cause).splitlines()[0]
        raise RunError(f"cannot write {path}: {reason}; free space or choose another folder") from error


def parameter(variable: Variable) -> str:
    """Optuna's name of a choice: the layers' names, cut where there are so many that a database would not take them.

    Example:
        >>> parameter(Variable(("conv1", "conv2"), ()))
        'conv1+conv2'
    """
    name = variable.name
    if len(name) <= _LONGEST_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: _LONGEST_NAME - 40]}... ({len(variable.layers)} layers, {digest})"


def distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    """Ordered integers: for each variable with a choice, its menu index."""
    return {
        parameter(variable): IntDistribution(0, len(variable.menu) - 1)
        for variable in space.variables
        if len(variable.menu) > 1
    }


class StudyRecord:
    """The run's search trainings as an Optuna study in `study.db`, accuracy up and bits per weight down.

    It only mirrors measurements.csv: one that is missing, damaged or behind is built anew from there.
    """

    def __init__(self, run: Run, space: SearchSpace) -> None:
        self._space, self._path = space, run.folder / "study.db"
        path = self._path
        searched = [m for m in run.measurements if m.phase == SEARCH]
        with quiet_optuna():
            recorded = self._recorded(path) if path.exists() else None
            if recorded == [(m.number, *_outcome(m)) for m in searched]:
                self._study = optuna.load_study(study_name=STUDY_NAME, storage=_url(path))
                return
            path.unlink(missing_ok=True)
            with _write_errors(path):
                self._study = optuna.create_study(
                    storage=_url(path), study_name=STUDY_NAME, directions=["maximize", "minimize"]
                )
                self._study.add_trials([self._trial(m) for m in searched])

    def add(self, measurement: Measurement) -> None:
        """Mirror a new measurement; those of other phases are not trials of the search."""
        if measurement.phase == SEARCH:
            with quiet_optuna(), _write_errors(self._path):
                self._study.add_trial(self._trial(measurement))

    @staticmethod
    def _recorded(path: Path) -> list[tuple[int, TrialState, list[float] | None]] | None:
        """Number, state and values of the measurements that a study mirrors; None if it is damaged."""
        try:
            study = optuna.load_study(study_name=STUDY_NAME, storage=_url(path))
            trials = study.get_trials(deepcopy=False)
            return [(trial.user_attrs["number"], trial.state, trial.values) for trial in trials]
        except Exception:  # there is no end to what a damaged database can raise; it is built anew
            return None

    def _trial(self, measurement: Measurement) -> FrozenTrial:
        allocation = allocation_of(self._space, measurement)
        state, values = _outcome(measurement)
        return create_trial(
            state=state,
            params=_params(self._space, self._space.profile(allocation)),
            distributions=distributions(self._space),
            values=values,
            user_attrs={
                name: getattr(measurement, name)
                for name in ("number", "kind", "label", "budget", "file_bytes", "val_loss", "train_seconds", "reason")
                if getattr(measurement, name) == getattr(measurement, name)  # NaN is no JSON
            },
        )


def _outcome(measurement: Measurement) -> tuple[TrialState, list[float] | None]:
    state = _STATES.get(measurement.state, TrialState.FAIL)
    complete = state == TrialState.COMPLETE
    return state, [measurement.val_accuracy, measurement.bits_per_weight] if complete else None


def _params(space: SearchSpace, profile: Profile) -> dict[str, int]:
    return {
        parameter(variable): index
        for variable, index in zip(space.variables, profile, strict=True)
        if len(variable.menu) > 1
    }


def _url(path: Path) -> str:
    return f"sqlite:///{path.resolve()}"
