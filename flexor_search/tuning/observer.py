"""What a search tells whoever watches it; the command line draws it, a notebook may, silence is the default."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from flexor_search.runs import ACCURACY, Measurement, MetricWords


@dataclass(frozen=True)
class Phase:
    """A part of a run, as planned before it starts.

    Attributes:
        name: "search" or "confirm".
        trainings: how many, at most.
        images: training images an epoch.
        epochs: of one training.
        seconds_each: estimated.
        words: for what is measured.
    """

    name: str
    trainings: int
    images: int
    epochs: int
    seconds_each: float
    words: MetricWords = ACCURACY

    @property
    def seconds(self) -> float:
        """Estimated time of the phase."""
        return self.trainings * self.seconds_each


class Observer(Protocol):
    """Receives what happens, in order."""

    def message(self, text: str) -> None:
        """Something worth a line."""

    def planned(self, phases: Sequence[Phase]) -> None:
        """The time plan, once, before the first training."""

    def phase(self, name: str, trainings: int) -> None:
        """A phase begins, with so many trainings."""

    def begin(self, what: str) -> None:
        """A training begins."""

    def measured(self, measurement: Measurement, best: str) -> None:
        """A training ended (or was found done already); the best so far in words."""


class Silent:
    """Says nothing."""

    def message(self, text: str) -> None:
        """Nothing."""

    def planned(self, phases: Sequence[Phase]) -> None:
        """Nothing."""

    def phase(self, name: str, trainings: int) -> None:
        """Nothing."""

    def begin(self, what: str) -> None:
        """Nothing."""

    def measured(self, measurement: Measurement, best: str) -> None:
        """Nothing."""
