"""What a search tells whoever watches it; the command line draws it, a notebook may, silence is the default."""

from typing import Protocol

from flexor_search.runs import Measurement


class Observer(Protocol):
    """Receives what happens, in order."""

    def message(self, text: str) -> None:
        """Something worth a line."""
        ...

    def phase(self, name: str, trainings: int, work: float) -> None:
        """A phase begins: how many trainings it plans, and its work in images trained on."""
        ...

    def begin(self, what: str) -> None:
        """A training begins."""
        ...

    def measured(self, measurement: Measurement, work: float, best: str) -> None:
        """A training ended (or was found done already): its work, and the best so far in words."""
        ...


class Silent:
    """Says nothing."""

    def message(self, text: str) -> None:
        """Nothing."""

    def phase(self, name: str, trainings: int, work: float) -> None:
        """Nothing."""

    def begin(self, what: str) -> None:
        """Nothing."""

    def measured(self, measurement: Measurement, work: float, best: str) -> None:
        """Nothing."""
