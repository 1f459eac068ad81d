"""Trials on their way: begun in order, ended in order, several at a time in between.

Who trains them is a team: processes on a CPU, streams of a GPU, or nobody: then each trains here when it is ended.
Lines are written in the order in which trials were begun, whichever finishes first.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from flexor_search.interrupts import unbroken
from flexor_search.runs import Measurement
from flexor_search.tuning.measurer import Measurer
from flexor_search.tuning.trial import Trial


class Training(Protocol):
    """A trial that a team has taken on."""

    def result(self) -> Measurement:
        """Wait for it."""
        ...

    def finished(self) -> Measurement | None:
        """What it came to, or None if it has not ended well; never waits."""
        ...


class Team(Protocol):
    """Trains several trials at a time.

    Attributes:
        width: how many should be on their way to keep it busy.
    """

    width: int

    def submit(self, trial: Trial, number: int) -> Training:
        """Take a trial on; its files get that number."""
        ...

    def stop(self) -> None:
        """Drop everything at once."""
        ...


@dataclass(frozen=True)
class _Begun:
    trial: Trial
    known: Measurement | None
    number: int = -1
    training: Training | None = None


class Flow:
    """The trials on their way, as a context: when it is left by an exception, what has finished is written down.

    Args:
        measurer: of the run.
        team: who trains; None: this process, one at a time.
    """

    def __init__(self, measurer: Measurer, team: Team | None) -> None:
        self._measurer, self._team = measurer, team
        self._begun: deque[_Begun] = deque()
        self.width = team.width if team is not None else 1
        self.is_alone = team is None
        self.is_shared = getattr(team, "is_shared", False)

    def __len__(self) -> int:
        return len(self._begun)

    def begin(self, trial: Trial) -> None:
        """Set a trial on its way, or look it up."""
        known = self._measurer.known(trial)
        if known is not None or self._team is None:
            self._begun.append(_Begun(trial, known))
            return
        (number,) = self._measurer.free_numbers(1, [begun.number for begun in self._begun])
        self._begun.append(_Begun(trial, None, number, self._team.submit(trial, number)))

    def end(self) -> tuple[Measurement, bool]:
        """Wait for the oldest trial and write it down; returns it, and whether it is new."""
        begun = self._begun[0]
        trial, found = begun.trial, begun.known
        if begun.training is not None:
            found = begun.training.result()
            with unbroken():  # or an interruption between the two would write the line once more
                self._measurer.run.append(found)
                self._begun.popleft()
            return found, True
        if found is None:
            found = self._measurer.made(trial)
        self._begun.popleft()
        return found, begun.known is None

    def __enter__(self) -> "Flow":
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is not None and self._team is not None:
            self._team.stop()
            for begun in self._begun:
                if begun.training is not None and (found := begun.training.finished()) is not None:
                    self._measurer.run.append(found)


class Streams:
    """A team in this process: what is on its way trains side by side on a GPU, when the first of it is waited for.

    Args:
        measurer: of the run.
        width: models at a time, at most.
    """

    def __init__(self, measurer: Measurer, width: int) -> None:
        self._measurer, self.width = measurer, width
        self._waiting: list[_Waiting] = []

    def submit(self, trial: Trial, number: int) -> "_Waiting":
        """Put a trial on the pile."""
        self._waiting.append(_Waiting(trial, number, self._train))
        return self._waiting[-1]

    def stop(self) -> None:
        """Nothing is under way between two calls."""
        self._waiting.clear()

    def _train(self) -> None:
        piled, self._waiting = self._waiting[: self.width], self._waiting[self.width :]
        found = self._measurer.attempt_together([each.trial for each in piled], [each.number for each in piled])
        for each, measurement in zip(piled, found, strict=True):
            each.measurement = measurement


@dataclass
class _Waiting:
    trial: Trial
    number: int
    train: Callable[[], None]
    measurement: Measurement | None = None

    def result(self) -> Measurement:
        """Train all that waits, until this is among it."""
        while self.measurement is None:
            self.train()
        return self.measurement

    def finished(self) -> Measurement | None:
        """What it came to, if it was trained."""
        return self.measurement
