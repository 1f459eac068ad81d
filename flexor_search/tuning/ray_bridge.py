"""Between the search, which hands trials out, and Ray Tune's thread, which asks for them and tells of their ends.

Tune pickles its searcher and its callbacks with its state. Ours hold the bridge, which cannot be pickled: what is
unpickled finds the bridge of the process that it is in.
"""

import queue
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.search import Searcher

from flexor_search.tuning.ray_trial import config_of, key_of
from flexor_search.tuning.trial import Trial

MOST_FAILURES = 5
"""Nodes that may be lost over a training before it counts as failed."""
_IDLE_SECONDS = 0.5

Key = tuple[str, str, int]


@dataclass(frozen=True)
class Ended:
    """What a trial of Tune came to: the line, the folder of its files, or why it failed; nothing if it was lost."""

    line: str | None = None
    folder: Path | None = None
    error: str = ""

    @classmethod
    def of(cls, trial: Any) -> "Ended | None":
        """Of Tune's own trial; None if nothing came of it."""
        metrics = trial.last_result or {}
        folder = Path(trial.checkpoint.path) if trial.checkpoint is not None else None
        found = cls(metrics.get("line"), folder, metrics.get("error", ""))
        return found if found.line or found.error else None


class CutOff(Exception):
    """The search was interrupted: Tune's thread ends, its state stays as it was."""


class Bridge:
    """Trials that wait for Tune, and what became of those that it has taken."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: queue.SimpleQueue[Trial] = queue.SimpleQueue()
        self._submitted: dict[Key, Trial] = {}
        self._futures: dict[Key, Future[Ended]] = {}
        self._at_tune: set[Key] = set()
        self._times_lost: Counter[Key] = Counter()
        self._failure: BaseException | None = None
        self._is_closed = self.is_cut_off = False

    def submit(self, trial: Trial) -> "Future[Ended]":
        """Hand a trial out, once."""
        with self._lock:
            self._submitted[trial.key] = trial
            future = self._futures.setdefault(trial.key, Future())
            if self._failure is not None and not future.done():
                future.set_exception(self._failure)
            elif not future.done() and trial.key not in self._at_tune:
                self._at_tune.add(trial.key)
                self._waiting.put(trial)
            return future

    def known_before(self, key: Key, ended: Ended | None) -> None:
        """A trial that an earlier process has left at Tune: ended, or to be ended by it."""
        with self._lock:
            self._at_tune.add(key)
            if ended is not None:
                self._futures.setdefault(key, Future()).set_result(ended)

    def begin_anew(self) -> None:
        """What Tune had is gone: all that has not ended is handed out again."""
        with self._lock:
            self._at_tune = {key for key, future in self._futures.items() if future.done()}
            self._waiting = queue.SimpleQueue()
            for key, trial in self._submitted.items():
                if key not in self._at_tune:
                    self._at_tune.add(key)
                    self._waiting.put(trial)

    def next(self) -> Trial | str | None:
        """For Tune: a trial, that there will be no more, or nothing just now."""
        if self.is_cut_off:
            raise CutOff
        if self._is_closed:
            return Searcher.FINISHED
        is_idle = all(future.done() for future in list(self._futures.values()))
        try:  # where all is done Tune sleeps for a second before it asks again: let it wait here
            return self._waiting.get(timeout=_IDLE_SECONDS) if is_idle else self._waiting.get_nowait()
        except queue.Empty:
            return Searcher.FINISHED if self._is_closed else None

    def ended(self, key: Key, ended: Ended) -> None:
        """From Tune: what a trial came to."""
        with self._lock:
            future = self._futures.setdefault(key, Future())
            if not future.done():
                future.set_result(ended)

    def lost(self, key: Key) -> None:
        """From Tune: it gave one up that had not begun, as its node went away just then. It is handed out again."""
        with self._lock:
            self._times_lost[key] += 1
            trial, future = self._submitted.get(key), self._futures.get(key)
            if trial is None or future is None:
                self._at_tune.discard(key)
            elif not future.done():
                if self._times_lost[key] > MOST_FAILURES:
                    future.set_result(Ended())
                else:
                    self._waiting.put(trial)

    def fail(self, error: BaseException) -> None:
        """From Tune: it has ended itself."""
        with self._lock:
            self._failure = error
            for future in self._futures.values():
                if not future.done():
                    future.set_exception(error)

    def close(self) -> bool:
        """No more trials; whether all have ended. If not, Tune must not note that it is finished."""
        with self._lock:
            is_done = self._failure is None and all(future.done() for future in self._futures.values())
            self._is_closed, self.is_cut_off = is_done, not is_done
        return is_done


_unpickled: list[Bridge] = []


def _current_bridge() -> Bridge:
    return _unpickled[-1]


@contextmanager
def bridge_for_unpickling(bridge: Bridge) -> Iterator[None]:
    """What is unpickled meanwhile from Tune's state finds this bridge."""
    _unpickled.append(bridge)
    try:
        yield
    finally:
        _unpickled.remove(bridge)


class Source(Searcher):
    """Where Tune gets its trials."""

    def __init__(self, bridge: Bridge) -> None:
        super().__init__()
        self._bridge = bridge

    def __reduce__(self) -> Any:
        return _source, ()

    def suggest(self, trial_id: str) -> Any:
        """The next trial as Tune's config."""
        found = self._bridge.next()
        return config_of(found) if isinstance(found, Trial) else found

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Told by `Ends`, which has the files."""

    def save(self, checkpoint_path: str) -> None:
        """The run folder is the state."""
        Path(checkpoint_path).write_text("{}", encoding="utf-8")

    def restore(self, checkpoint_path: str) -> None:
        """The run folder is the state."""


class Ends(tune.Callback):
    """What Tune tells of trials that have ended."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge

    def __reduce__(self) -> Any:
        return _ends, ()

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """One has ended by itself."""
        ended = Ended.of(trial)
        if ended is None:  # it was in the run folder already
            self._bridge.lost(key_of(trial.config))
        else:
            self._bridge.ended(key_of(trial.config), ended)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """One was lost too often, or before it had begun: Tune tries the latter not again by itself."""
        if trial.num_failures > MOST_FAILURES:
            self._bridge.ended(key_of(trial.config), Ended())
        else:
            self._bridge.lost(key_of(trial.config))


def _source() -> Source:
    return Source(_current_bridge())


def _ends() -> Ends:
    return Ends(_current_bridge())
