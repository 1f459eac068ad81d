"""Ray Tune as a team: it places trials on the nodes of a cluster, and tries those again whose node was lost.

Tune wants to call for trials, and a search wants to hand them out and wait. So Tune runs in a thread of its own; what
it asks for its next trial and tells of an end is a `_Bridge` to the search in the main thread, which stays the same
for every backend: the same proposals, budgets, baselines, early stopping, confirmation, and the same run folder. Of
Tune's own state, in RUN/ray while the run goes on, only two things are used on resuming: what had ended before its line
was written, and where trainings under way have come to.
"""

import io
import json
import os
import pickle
import queue
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "5")
os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")

import ray
from ray import tune
from ray.tune.search import Searcher

from flexor_search.codes.sharing import n_processors
from flexor_search.errors import RunError, UsageError
from flexor_search.files import write_atomically
from flexor_search.packing import verify_file
from flexor_search.runs import DONE, Measurement
from flexor_search.tuning.measurer import Measurer
from flexor_search.tuning.observer import Observer
from flexor_search.tuning.ray_trial import (
    PACKED,
    PACKING,
    RaySetup,
    config_of,
    key_of,
    train_trial,
)
from flexor_search.tuning.trial import Trial
from flexor_search.tuning.worker import save_data

MOST_FAILURES = 5
"""Nodes that may be lost over a training before it counts as failed."""
_OBJECT_STORE_BYTES = 400_000_000
_IDLE_SECONDS = 0.5
_END_SECONDS = 30.0


@dataclass(frozen=True)
class Resources:
    """What a trial takes of a node; fractions are allowed.

    Attributes:
        cpus, gpus: of one trial.
    """

    cpus: float = 1.0
    gpus: float = 0.0

    def fit(self, node: dict[str, float]) -> int:
        """How many trials a node has room for."""
        fits = [
            int(node.get(name, 0.0) / need + 1e-9) for name, need in (("CPU", self.cpus), ("GPU", self.gpus)) if need
        ]
        return min(fits, default=0)


@contextmanager
def ray_cluster(address: str, cpus: float, gpus: float) -> Iterator[int]:
    """Join a cluster, or start one on this machine, and leave it; gives how many trials it has room for.

    Args:
        address: of a cluster, "auto" for the one of this machine; "": starts one.
        cpus, gpus: of a trial.

    Raises:
        RunError: it cannot be reached.
        UsageError: no node of it has room for a trial.
    """
    resources = Resources(cpus, gpus)
    mine = not ray.is_initialized()
    if mine:
        common: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False, "configure_logging": True}
        try:
            if address:
                ray.init(address=address, **common)
            else:
                more = {"include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
                ray.init(num_cpus=n_processors(), **more, **common)
        except (ConnectionError, RuntimeError, ValueError, OSError, TimeoutError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise RunError(
                f"ray_address: no cluster at {address or 'this machine'}: {reason}; start one with: ray start --head"
            ) from error
        _take_sigterm_back()
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not (room := sum(resources.fit(node) for node in nodes)):
            most = {name: max((node.get(name, 0.0) for node in nodes), default=0.0) for name in ("CPU", "GPU")}
            raise UsageError(
                f"cpus_per_trial: no node has room for a trial of {cpus:g} CPUs and {gpus:g} GPUs; "
                f"the largest have {most['CPU']:g} CPUs and {most['GPU']:g} GPUs; ask for less"
            )
        yield room
    finally:
        if mine:
            ray.shutdown()


def _take_sigterm_back() -> None:
    """Ray takes SIGTERM for itself; here it is an interruption in order, as Ctrl+C."""
    handler = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is threading.main_thread() and callable(handler):
        signal.signal(signal.SIGTERM, handler)


class RayTeam:
    """Trials placed by Ray Tune.

    Args:
        measurer: of the run.
        resources: of a trial.
        width: trials on their way that keep the cluster busy.
        observer: is told of what is gone on with.
    """

    def __init__(self, measurer: Measurer, resources: Resources, width: int, observer: Observer) -> None:
        self.width = width
        self._measurer, self._resources, self._observer = measurer, resources, observer
        self._folder = (measurer.run.folder / "ray").resolve()
        self._bridge = _Bridge()
        try:
            build = pickle.dumps(measurer.build)
        except Exception as error:
            raise RunError(f"the model cannot be sent to other processes: {error}") from error
        data = io.BytesIO()
        save_data(measurer.data, data)
        setup = RaySetup(
            build=build,
            path=sys.path,
            recipe=measurer.recipe,
            model_name=measurer.model_name,
            own=measurer.own,
            checkpoint_seconds=measurer.checkpoint_seconds,
            device="cuda" if resources.gpus else "cpu",
            threads=max(1, int(resources.cpus)),
            data=data.getvalue(),
        )
        demand = {"cpu": resources.cpus} | ({"gpu": resources.gpus} if resources.gpus else {})
        trainable = tune.with_resources(tune.with_parameters(train_trial, setup=setup), demand)
        self._tuner = self._restored(trainable) or self._new(trainable)
        self._thread = threading.Thread(target=self._fit, name="ray tune", daemon=True)
        self._thread.start()

    def submit(self, trial: Trial, number: int) -> "_Placed":
        """Hand a trial to Tune; its files get that number."""
        return _Placed(self._bridge.submit(trial), trial, number, self)

    def stop(self) -> None:
        """Let Tune end: in order where nothing is under way, else as it is, to be gone on with."""
        is_done = self._bridge.close()
        self._thread.join(_END_SECONDS)
        if is_done:
            shutil.rmtree(self._folder, ignore_errors=True)  # all of it is in the run folder

    def written(self, ended: "_Ended", trial: Trial, number: int) -> Measurement:
        """The measurement of a trial that has ended, its files in the run folder."""
        if ended.error:
            raise RunError(f"a trial failed on Ray: {ended.error}")
        if ended.line is None:
            return self._measurer.failed(trial, number, f"its process was lost {MOST_FAILURES + 1} times")
        found = replace(Measurement.from_row(json.loads(ended.line)), number=number, worker="ray")
        if found.state == DONE:
            run = self._measurer.run
            if not run.trained_path(number).exists() and ended.folder is not None:
                write_atomically(run.packing_path(number), (ended.folder / PACKING).read_bytes())
                write_atomically(run.trained_path(number), (ended.folder / PACKED).read_bytes())
                verify_file(run.trained_path(number))
        return found

    def _new(self, trainable: Any) -> tune.Tuner:
        shutil.rmtree(self._folder, ignore_errors=True)
        return tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=_Source(self._bridge),
                num_samples=-1,
                reuse_actors=True,  # a new process takes seconds to import torch
                trial_dirname_creator=_folder_name,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(self._folder),
                callbacks=[_Ends(self._bridge)],
                failure_config=tune.FailureConfig(max_failures=MOST_FAILURES),
                checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
                verbose=0,
            ),
        )

    def _restored(self, trainable: Any) -> tune.Tuner | None:
        """What an earlier process has left; None if there is nothing, or nothing that Tune can read."""
        path = self._folder / "tune"
        if not path.exists():
            return None
        with _bridge_for_unpickling(self._bridge):
            try:
                if not any(path.glob("experiment_state-*.json")):  # fit() alone would find that out
                    raise RunError("it was never written")
                tuner = tune.Tuner.restore(str(path), trainable, resume_unfinished=True, restart_errored=True)
                found = tuner.get_results()
                results = [found[index] for index in range(len(found))]
            except Exception as error:  # it died before its first state was written, or while it was
                reason = " ".join(str(error).split())[:200]
                self._observer.message(f"Ray's own state cannot be gone on with ({reason}); its trials begin anew")
                return None
        for result in results:
            if result.config is not None and "key" in result.config:
                self._bridge.known_before(key_of(result.config), _Ended.of_result(result))
        self._observer.message(f"Ray goes on with {len(results)} trials of an earlier process")
        return tuner

    def _fit(self) -> None:
        try:
            with _bridge_for_unpickling(self._bridge):
                self._tuner.fit()
        except BaseException as error:
            self._bridge.fail(error)
        else:
            self._bridge.fail(RunError("Ray Tune ended before the search did"))


@dataclass(frozen=True)
class _Ended:
    """What a trial of Tune came to: the line, the folder of its files, or why it failed; nothing if it was lost."""

    line: str | None
    folder: Path | None
    error: str = ""

    @classmethod
    def of_result(cls, result: Any) -> "_Ended | None":
        """Of a result of a restored run; None if it had not ended."""
        metrics = result.metrics or {}
        if "line" not in metrics:
            return None
        return cls(metrics["line"], Path(result.checkpoint.path) if result.checkpoint else None)


@dataclass(frozen=True)
class _Placed:
    future: "Future[_Ended]"
    trial: Trial
    number: int
    team: RayTeam

    def result(self) -> Measurement:
        """Wait for it."""
        return self.team.written(self.future.result(), self.trial, self.number)

    def finished(self) -> Measurement | None:
        """What it came to; None if it has not ended, or not well."""
        if not self.future.done() or self.future.exception() is not None or self.future.result().error:
            return None
        return self.team.written(self.future.result(), self.trial, self.number)


Key = tuple[str, str, int]


class _CutOff(Exception):
    """The search was interrupted: Tune's thread ends, its state stays as it was."""


class _Bridge:
    """Between the search, which submits, and Tune's thread, which takes and tells."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: queue.SimpleQueue[Trial] = queue.SimpleQueue()
        self._futures: dict[Key, Future[_Ended]] = {}
        self._at_tune: set[Key] = set()
        self._failure: BaseException | None = None
        self._is_closed = self._is_cut_off = False

    def submit(self, trial: Trial) -> "Future[_Ended]":
        with self._lock:
            future = self._futures.setdefault(trial.key, Future())
            if self._failure is not None and not future.done():
                future.set_exception(self._failure)
            elif not future.done() and trial.key not in self._at_tune:
                self._at_tune.add(trial.key)
                self._waiting.put(trial)
            return future

    def known_before(self, key: Key, ended: _Ended | None) -> None:
        """A trial that an earlier process has left at Tune: ended, or to be ended by it."""
        with self._lock:
            self._at_tune.add(key)
            future = self._futures.setdefault(key, Future())
            if ended is not None and not future.done():
                future.set_result(ended)

    def next(self) -> Trial | str | None:
        """For Tune: a trial, that there will be no more, or nothing just now."""
        if self._is_cut_off:
            raise _CutOff
        if self._is_closed:
            return Searcher.FINISHED
        is_idle = all(future.done() for future in list(self._futures.values()))
        try:  # where all is done Tune sleeps for a second before it asks again: let it wait here
            return self._waiting.get(timeout=_IDLE_SECONDS) if is_idle else self._waiting.get_nowait()
        except queue.Empty:
            return Searcher.FINISHED if self._is_closed else None

    def ended(self, key: Key, ended: _Ended) -> None:
        with self._lock:
            future = self._futures.setdefault(key, Future())
            if not future.done():
                future.set_result(ended)

    def fail(self, error: BaseException) -> None:
        with self._lock:
            self._failure = error
            for future in self._futures.values():
                if not future.done():
                    future.set_exception(error)

    def close(self) -> bool:
        """No more trials; whether all have ended. If not, Tune must not note that it is finished."""
        with self._lock:
            is_done = self._failure is None and all(future.done() for future in self._futures.values())
            self._is_closed, self._is_cut_off = is_done, not is_done
        return is_done


_unpickled: list[_Bridge] = []


def _current_bridge() -> _Bridge:
    return _unpickled[-1]


@contextmanager
def _bridge_for_unpickling(bridge: _Bridge) -> Iterator[None]:
    """Tune pickles its searcher and callbacks with its state; what is unpickled from there finds this bridge."""
    _unpickled.append(bridge)
    try:
        yield
    finally:
        _unpickled.remove(bridge)


class _Source(Searcher):
    """Where Tune gets its trials."""

    def __init__(self, bridge: _Bridge) -> None:
        super().__init__()
        self._bridge = bridge

    def __reduce__(self) -> Any:
        return _source, ()

    def suggest(self, trial_id: str) -> Any:
        """The next trial as Tune's config."""
        found = self._bridge.next()
        return config_of(found) if isinstance(found, Trial) else found

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Told by `_Ends`, which has the files."""

    def save(self, checkpoint_path: str) -> None:
        """The run folder is the state."""
        Path(checkpoint_path).write_text("{}", encoding="utf-8")

    def restore(self, checkpoint_path: str) -> None:
        """The run folder is the state."""


class _Ends(tune.Callback):
    """What Tune tells of trials that have ended."""

    def __init__(self, bridge: _Bridge) -> None:
        self._bridge = bridge

    def __reduce__(self) -> Any:
        return _ends, ()

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """One has ended by itself."""
        metrics = trial.last_result or {}
        folder = Path(trial.checkpoint.path) if trial.checkpoint is not None else None
        self._bridge.ended(key_of(trial.config), _Ended(metrics.get("line"), folder, metrics.get("error", "")))

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """One was lost too often."""
        self._bridge.ended(key_of(trial.config), _Ended(None, None))


def _folder_name(trial: Any) -> str:
    return "-".join(map(str, (*key_of(trial.config), trial.trial_id)))


def _source() -> _Source:
    return _Source(_current_bridge())


def _ends() -> _Ends:
    return _Ends(_current_bridge())
