"""What is to be trained: an allocation and what it is there for, at a fidelity and with a seed."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from flexor_search.planning import Allocation, SearchSpace
from flexor_search.runs import FULL_PRECISION, SEARCH
from flexor_search.training import Score

PROPOSED = "proposed"
"""Kind of a candidate that is no rule of thumb."""


@dataclass(frozen=True)
class Candidate:
    """An allocation to measure, and what it is there for.

    Attributes:
        allocation: what each layer is stored as.
        kind: "uniform", "size rule 0.5", "proposed", "full precision".
        budget: text of the budget it was projected onto.
    """

    allocation: Allocation
    kind: str
    budget: str = ""

    def to_json(self) -> dict[str, Any]:
        """As workers of one study tell it to each other."""
        return {"allocation": self.allocation.to_json(), "kind": self.kind, "budget": self.budget}

    @classmethod
    def from_json(cls, space: SearchSpace, body: dict[str, Any]) -> "Candidate":
        """The same, from there."""
        return cls(Allocation.from_json(space.model, body["allocation"]), body["kind"], body["budget"])


def each_once(candidates: Iterable[Candidate]) -> Iterator[Candidate]:
    """Candidates in their order, each allocation once."""
    seen: set[str] = set()
    for candidate in candidates:
        if candidate.allocation.digest not in seen:
            seen.add(candidate.allocation.digest)
            yield candidate


@dataclass(frozen=True)
class Trial:
    """A training to be done.

    Attributes:
        candidate: what is trained.
        phase: "search" or "confirm"; sets the fidelity.
        seed: of first values and order of images.
        weak: called after each epoch of a search trial with the epochs done and the score; returns whether to stop.
    """

    candidate: Candidate
    phase: str
    seed: int
    weak: Callable[[int, Score], bool] | None = None

    @property
    def key(self) -> tuple[str, str, int]:
        """Of the measurement that it will come to."""
        return self.candidate.allocation.digest, self.phase, self.seed

    @property
    def is_full(self) -> bool:
        """Whether it is the full-precision model, which has nobody to learn from."""
        return self.candidate.kind == FULL_PRECISION

    def watch(self, rungs: dict[int, float]) -> Callable[[int, Score], bool] | None:
        """What looks at every epoch: writes the rungs down, and tells whether to stop; None outside the search."""

        def on_epoch(epoch: int, score: Score) -> bool:
            rungs[epoch] = score.accuracy
            return self.weak is not None and self.weak(epoch, score)

        return on_epoch if self.phase == SEARCH else None
