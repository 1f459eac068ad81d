"""A study that several workers share: three Optuna studies in one storage, each read as a log.

What makes them agree is that a storage numbers the trials of a study in one order that everybody sees. Nothing is ever
changed by two: what was written first under a name holds, whoever reads it.

NAME        the trainings, for optuna-dashboard too. One is WAITING until a worker takes it (the storage lets one alone
            make it RUNNING), gives signs of life while it is, and is made again if they stop.
NAME notes  what workers must agree on: which allocation comes next, when the search ends, what the test set says.
NAME files  packed models, so that every worker's run folder becomes whole without a folder that all machines can reach.
"""

import base64
import datetime
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from flexor_search.errors import RunError
from flexor_search.runs import DONE, STOPPED, Measurement, StorageName
from flexor_search.tuning.storage import GRACE_SECONDS, HEARTBEAT_SECONDS, close_storage, patiently
from flexor_search.tuning.worker_name import WorkerName

MOST_DEATHS = 5
"""Workers that may die over a training before it counts as failed: it may be what kills them."""
_STATES = {DONE: TrialState.COMPLETE, STOPPED: TrialState.PRUNED}

Direction = Literal["maximize", "minimize"]
Key = tuple[str, str, int]
"""Of a measurement: digest of the allocation, phase, seed."""


@dataclass(frozen=True)
class Task:
    """A training in the study, as it is now.

    Attributes:
        number: of the measurement that it comes to; the same for all workers and all attempts.
        attempt: how many times it was begun before.
        trial: of Optuna, of this attempt.
    """

    number: int
    attempt: int
    trial: FrozenTrial

    @property
    def deaths(self) -> int:
        """How many workers have died over it, this attempt included."""
        gone = self.is_lost and not self.trial.user_attrs.get("given_back")
        return self.trial.user_attrs["deaths"] + gone

    @property
    def is_waiting(self) -> bool:
        """Whether nobody has taken it."""
        return self.trial.state == TrialState.WAITING

    @property
    def is_lost(self) -> bool:
        """Whether who trained it is gone."""
        return self.trial.state == TrialState.FAIL and "line" not in self.trial.user_attrs

    @property
    def measurement(self) -> Measurement | None:
        """What it came to, if it has ended."""
        if not self.trial.state.is_finished() or self.is_lost:
            return None
        return Measurement.from_row(self.trial.user_attrs["line"])


class SharedStudy:
    """The study of one question in a storage.

    Args:
        name: of the storage.
        storage: opened.
        study: name of the study in it; made if it is not there.
        worker: who reads and writes.
    """

    def __init__(self, name: StorageName, storage: BaseStorage, study: str, worker: WorkerName | None = None) -> None:
        self.name, self.study, self.worker = name, study, worker or WorkerName.mine()
        self._storage = storage
        self._trainings = self._open(study, ["maximize", "minimize"])
        self._notes, self._files = (self._open(f"{study} {part}", ["minimize"]) for part in ("notes", "files"))
        self._known_notes: list[tuple[str, Any]] = []

    def _open(self, study: str, directions: list[Direction]) -> optuna.Study:
        return patiently(self.name, _load_or_create, self._storage, study, directions)

    # --- what all agree on

    def agree(self, name: str, offer: Callable[[], Any], binds: Callable[[Any], bool] = lambda _value: True) -> Any:
        """The first value that any worker has offered under a name, or what is offered here if there is none.

        Args:
            name: of the matter.
            offer: called only if there is none yet; what it returns must be JSON.
            binds: whether a value counts for this worker; one that does not is passed over.
        """
        found = self._first(name, binds)
        if not found:
            value = offer()
            note = create_trial(value=0.0, user_attrs={"name": name, "value": value, "worker": self.worker.text})
            self._call(self._create, self._notes, note)
            found = self._first(name, binds)
        return found[0]

    def _first(self, name: str, binds: Callable[[Any], bool]) -> list[Any]:
        notes = self._trials(self._notes)
        for trial in notes[len(self._known_notes) :]:
            self._known_notes.append((trial.user_attrs.get("name", ""), trial.user_attrs.get("value")))
        return [value for known, value in self._known_notes if known == name and binds(value)][:1]

    # --- trainings

    def tasks(self) -> dict[Key, Task]:
        """Every training by its key, in the order in which they came up."""
        found: dict[Key, Task] = {}
        for trial in self._trials(self._trainings):
            about = trial.user_attrs
            if "key" not in about:
                continue  # somebody else's
            digest, phase, seed = about["key"]
            key, attempt = (digest, phase, seed), about["attempt"]
            known = found.get(key)
            if known is None or attempt > known.attempt:  # of one attempt the first counts
                found[key] = Task(known.number if known else len(found), attempt, trial)
        return found

    def task(
        self,
        key: Key,
        about: Mapping[str, Any],
        params: Mapping[str, int],
        distributions: Mapping[str, BaseDistribution],
    ) -> Task:
        """A training, brought up if it is not there, and again if it was lost.

        Args:
            key: of the measurement.
            about: what else stands at the trial, for people; JSON.
            params, distributions: of the trial.
        """
        task = self.tasks().get(key)
        if task is not None and not task.is_lost:
            return task
        counts = {"attempt": task.attempt + 1, "deaths": task.deaths} if task else {"attempt": 0, "deaths": 0}
        template = create_trial(
            state=TrialState.WAITING,
            params=dict(params),
            distributions=dict(distributions),
            user_attrs={"key": list(key), **counts, **about},
        )
        created = self._call(self._create, self._trainings, template)
        task = self.tasks()[key]
        if task.trial._trial_id != created:  # another worker was first
            with suppress(UpdateFinishedTrialError):
                self._call(self._storage.set_trial_state_values, created, TrialState.FAIL)
        return task

    def take(self, task: Task) -> bool:
        """Take a waiting training on; only one worker can."""
        trial = task.trial._trial_id
        try:
            self._call(self._beat, trial)  # before it runs: without any sign of life it would never be missed
            taken = self._call(self._storage.set_trial_state_values, trial, TrialState.RUNNING)
        except UpdateFinishedTrialError:
            return False
        if taken:
            self._set(trial, "worker", self.worker.text)
        return taken

    @contextmanager
    def alive(self, task: Task) -> Iterator[None]:
        """Give signs of life for a training that was taken."""
        ended = threading.Event()
        seconds = getattr(self._storage, "get_heartbeat_interval", lambda: None)() or HEARTBEAT_SECONDS

        def beat() -> None:
            while not ended.wait(seconds):
                with suppress(Exception):  # the next one may come through
                    self._beat(task.trial._trial_id)

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def finish(self, task: Task, measurement: Measurement, files: Mapping[str, bytes]) -> bool:
        """Write down what a training came to that this worker took; True if it counts.

        It does not where this worker was believed dead: then another one has it.

        Args:
            task: which one.
            measurement: its line; its number is the task's.
            files: by name, of its packed model.
        """
        trial = task.trial._trial_id
        state = _STATES.get(measurement.state, TrialState.FAIL)
        values = [measurement.val_accuracy, measurement.bits_per_weight] if state == TrialState.COMPLETE else None
        try:
            if files:
                content = {name: base64.b64encode(content).decode() for name, content in files.items()}
                stored = create_trial(value=0.0, user_attrs=content)
                self._set(trial, "files", self._call(self._create, self._files, stored))
            self._set(trial, "line", {name: str(value) for name, value in measurement.to_row().items()})
            self._call(self._storage.set_trial_state_values, trial, state, values)
        except UpdateFinishedTrialError:
            current = self.tasks()[measurement.key]  # it may be ours, and only the answer was lost
            return current.trial._trial_id == trial and current.measurement is not None
        return True

    def give_back(self, task: Task) -> None:
        """Let another worker have a training that this one took and does not finish."""
        with suppress(UpdateFinishedTrialError):
            self._set(task.trial._trial_id, "given_back", True)
            self._lose(task)

    def _lose(self, task: Task) -> None:
        with suppress(UpdateFinishedTrialError):
            self._call(self._storage.set_trial_state_values, task.trial._trial_id, TrialState.FAIL)

    def find_dead(self) -> list[Task]:
        """Mark the trainings of workers that are gone as lost; returns those that were found here."""
        running = [task for task in self.tasks().values() if task.trial.state == TrialState.RUNNING]
        if not running:
            return []
        self._call(optuna.storages.fail_stale_trials, self._trainings)
        for task in running:
            worker = WorkerName.parse(task.trial.user_attrs.get("worker", ""))
            if worker.is_gone() if worker is not None else self._is_orphan(task.trial):
                self._lose(task)
        ids = {task.trial._trial_id for task in running}
        return [task for task in self.tasks().values() if task.trial._trial_id in ids and task.is_lost]

    def _is_orphan(self, trial: FrozenTrial) -> bool:
        """Whether who took it died before writing a name; where there are signs of life they tell."""
        if hasattr(self._storage, "record_heartbeat") or trial.datetime_start is None:
            return False
        now = datetime.datetime.now(trial.datetime_start.tzinfo)
        return now - trial.datetime_start > datetime.timedelta(seconds=GRACE_SECONDS)

    def files(self, task: Task) -> dict[str, bytes]:
        """The files of a training that has ended, by name."""
        number = task.trial.user_attrs.get("files")
        if number is None:
            return {}
        stored = self._call(self._storage.get_trial, number).user_attrs
        return {name: base64.b64decode(content) for name, content in stored.items()}

    def close(self) -> None:
        """Close the connections to the storage."""
        close_storage(self._storage)

    # --- the storage

    def _call(self, call: Callable[..., Any], *args: Any) -> Any:
        return patiently(self.name, call, *args)

    def _create(self, study: optuna.Study, template: FrozenTrial) -> int:
        return self._storage.create_new_trial(study._study_id, template)

    def _trials(self, study: optuna.Study) -> list[FrozenTrial]:
        return self._call(self._storage.get_all_trials, study._study_id, False)

    def _set(self, trial: int, name: str, value: Any) -> None:
        self._call(self._storage.set_trial_user_attr, trial, name, value)

    def _beat(self, trial: int) -> None:
        record = getattr(self._storage, "record_heartbeat", None)  # a journal has none
        if record is not None:
            record(trial)


def _load_or_create(storage: BaseStorage, study: str, directions: list[Direction]) -> optuna.Study:
    try:
        return optuna.create_study(storage=storage, study_name=study, directions=directions, load_if_exists=True)
    except ValueError as error:
        raise RunError(f"storage: its study {study!r} is of another kind: {error}; use another database") from error
