"""A team of workers that share a study: every one walks the same way, and trains what on it nobody has taken yet.

The way is a pure function of what was measured, and of notes in the study where workers could differ (the machine's
rounding, the clock). So no worker is a master: any may die, any may join, and the run folder of each ends the same.
"""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from flexor_search.errors import RunError
from flexor_search.files import write_atomically
from flexor_search.packing import verify_file
from flexor_search.planning import Recipe, SearchSpace
from flexor_search.runs import DONE, FULL_PRECISION, Measurement, StorageName
from flexor_search.tuning.measurer import Measurer
from flexor_search.tuning.observer import Observer
from flexor_search.tuning.optuna_backend import distributions, parameter
from flexor_search.tuning.shared_study import MOST_DEATHS, SharedStudy, Task
from flexor_search.tuning.storage import open_storage
from flexor_search.tuning.trial import Trial

WORKERS_EXPECTED = 8
"""So many find something to train at any time, unless --jobs says otherwise."""
_POLL_SECONDS = 0.25
_LOOK_FOR_DEAD_SECONDS = 2.0
_PACKED, _PACKING = "packed", "packing"


def join(name: StorageName, study: str) -> SharedStudy:
    """Open the study of a question; whoever comes first makes it.

    Raises:
        RunError: the storage cannot be used.
    """
    return SharedStudy(name, open_storage(name), study)


def settle(study: SharedStudy, recipe: Recipe, ahead: int) -> tuple[Recipe, int]:
    """What the first worker chose by a measurement on its machine, for all: precision and memory format; the plan."""
    offer = {"precision": recipe.precision, "memory_format": recipe.memory_format, "ahead": ahead}
    settled = study.agree("plan", lambda: offer)
    return replace(recipe, precision=settled["precision"], memory_format=settled["memory_format"]), settled["ahead"]


class SharedTeam:
    """This worker's part in a shared study.

    Args:
        study: what is shared.
        measurer: of this worker's run folder.
        space: the menus, for what stands at Optuna's trials.
        ahead: of the plan.
        observer: is told what becomes of other workers.
    """

    is_shared = True

    def __init__(
        self, study: SharedStudy, measurer: Measurer, space: SearchSpace, ahead: int, observer: Observer
    ) -> None:
        self.width = ahead + 1
        self._study, self._measurer, self._space, self._observer = study, measurer, space, observer
        self._pending: list[_Shared] = []
        self._training: Task | None = None
        self._looked = 0.0
        check_belongs(study, measurer.run.measurements)

    def submit(self, trial: Trial, number: int) -> "_Shared":
        """Bring a training up in the study, or find it there; it has a number of its own."""
        self._pending.append(_Shared(trial, self, self._bring_up(trial)))
        return self._pending[-1]

    def stop(self) -> None:
        """Give back what is under way."""
        self._pending.clear()
        if self._training is not None:
            with suppress(RunError):
                self._study.give_back(self._training)
            self._training = None

    def wait_for(self, wanted: "_Shared") -> Measurement:
        """Train what nobody else does, until this one has ended here or elsewhere."""
        while True:
            self._refresh()
            if (found := self.look(wanted)) is not None:
                self._pending.remove(wanted)
                return found
            if not self._train_one():
                self._look_for_dead()
                time.sleep(_POLL_SECONDS)

    def look(self, wanted: "_Shared") -> Measurement | None:
        """What a training came to, with its files in this run folder; None if it has not ended."""
        found = wanted.task.measurement
        if found is None or found.state != DONE:
            return found
        run = self._measurer.run
        path = run.trained_path(found.number)
        is_mine = found.worker == self._study.worker.shown and path.exists()
        if not is_mine and (files := self._study.files(wanted.task)):
            write_atomically(run.packing_path(found.number), files[_PACKING])
            write_atomically(path, files[_PACKED])
            verify_file(path)
        return found

    def _refresh(self) -> None:
        tasks = self._study.tasks()
        for pending in self._pending:
            pending.task = tasks[pending.trial.key]
            if pending.task.is_lost:
                pending.task = self._bring_up(pending.trial)

    def _train_one(self) -> bool:
        """Take the first training on the way that waits, and carry it out; False if there is none."""
        for pending in list(self._pending):
            if pending.task.is_waiting and self._study.take(pending.task):
                self._train(pending.trial, pending.task)
                return True
        return False

    def _train(self, trial: Trial, task: Task) -> None:
        self._training = task
        with self._study.alive(task):
            found = self._measurer.attempt(trial, task.number)
        found = replace(found, worker=self._study.worker.shown)
        run, files = self._measurer.run, {}
        if found.state == DONE:
            paths = {_PACKED: run.trained_path(found.number), _PACKING: run.packing_path(found.number)}
            files = {name: path.read_bytes() for name, path in paths.items()}
        if not self._study.finish(task, found, files):
            self._observer.message(f"trial {found.number} was taken over by another worker; its result here is dropped")
            for path in (run.trained_path(found.number), run.packing_path(found.number)):
                path.unlink(missing_ok=True)
        self._training = None

    def _bring_up(self, trial: Trial) -> Task:
        candidate, allocation = trial.candidate, trial.candidate.allocation
        about = {
            "phase": trial.phase,
            "kind": candidate.kind,
            "label": allocation.label,
            "budget": candidate.budget,
            "seed": trial.seed,
        }
        params: dict[str, int] = {}
        known = distributions(self._space)
        if candidate.kind == FULL_PRECISION:
            known = {}
        else:
            profile = self._space.profile(allocation)
            pairs = zip(self._space.variables, profile, strict=True)
            params = {parameter(variable): index for variable, index in pairs if parameter(variable) in known}
        task = self._study.task(trial.key, about, params, known)
        if task.is_waiting and task.deaths >= MOST_DEATHS and self._study.take(task):
            self._study.finish(
                task, self._measurer.failed(trial, task.number, f"{task.deaths} workers died over it"), {}
            )
            task = self._study.tasks()[trial.key]
        return task

    def _look_for_dead(self) -> None:
        if time.monotonic() - self._looked < _LOOK_FOR_DEAD_SECONDS:
            return
        self._looked = time.monotonic()
        for task in self._study.find_dead():
            self._observer.message(f"trial {task.number}: its worker is gone; it is trained again")


@dataclass(eq=False)
class _Shared:
    trial: Trial
    team: SharedTeam
    task: Task = field(repr=False)

    def result(self) -> Measurement:
        """Wait for it, and train meanwhile."""
        return self.team.wait_for(self)

    def finished(self) -> Measurement | None:
        """What it came to, if that is known here."""
        return self.team.look(self)


def check_belongs(study: SharedStudy, measurements: Sequence[Measurement]) -> None:
    """A run folder that takes part has nothing that the study does not have.

    Raises:
        RunError: it has, so it was made alone or with another storage.
    """
    tasks = study.tasks()
    for m in measurements:
        task = tasks.get(m.key)
        if task is None or task.number != m.number or task.measurement is None:
            raise RunError(
                f"the run folder has trainings (trial {m.number}) that {study.name.shown} does not have; "
                "resume it without a storage, or give another --out for this storage"
            )
