"""One training and what it measured: a line of measurements.csv."""

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

SEARCH, CONFIRM = "search", "confirm"
"""Phases: reduced-length trainings that compare allocations, and full ones that confirm finalists."""

FULL_PRECISION = "full precision"
"""The kind of the model that all others are compared with; it is never shipped for a budget."""

DONE, STOPPED, FAILED = "done", "stopped", "failed"
"""States: finished; stopped early as weak; failed with a reason."""

MAX_SEEDS = 1000
"""Confirming trainings of an allocation, at most: the seeds of two runs are this far apart."""


@dataclass(frozen=True)
class Measurement:
    """One training.

    Attributes:
        number: position in the run, from 0; names the trained file.
        phase: "search" or "confirm".
        kind: what it is there for: "uniform", "size rule 0.5", "proposed", "full precision".
        digest: of the allocation.
        label: its layers' rates, for people.
        allocation: its JSON.
        budget: the budget it was projected onto, "" for full precision.
        bits_per_weight: stored weight bits over searched weights, at the codes' rank.
        nominal_bits_per_weight: the paper's count.
        payload_bits: stored bits with byte padding.
        file_bytes: size of the packed file.
        seed: of first values and order of images.
        epochs: epochs done.
        images: training images an epoch.
        state: "done", "stopped" or "failed".
        val_accuracy: on the validation split after the last epoch, 0 to 1; NaN if failed.
        val_loss: mean cross-entropy there.
        rungs: "epoch:accuracy" pairs seen on the way, for the rule that stops weak trials.
        train_seconds: wall time of the training.
        reason: why it failed or was stopped.
        worker: who trained it, where several did: "" for the process that searches. Files written before there was
            such a column have none.
    """

    number: int
    phase: str
    kind: str
    digest: str
    label: str
    allocation: str
    budget: str
    bits_per_weight: float
    nominal_bits_per_weight: float
    payload_bits: int
    file_bytes: int
    seed: int
    epochs: int
    images: int
    state: str
    val_accuracy: float
    val_loss: float
    rungs: str
    train_seconds: float
    reason: str
    worker: str = ""

    @property
    def key(self) -> tuple[str, str, int]:
        """What makes two trainings the same one: allocation, phase (so fidelity) and seed."""
        return self.digest, self.phase, self.seed

    @property
    def rung_accuracies(self) -> dict[int, float]:
        """Epoch -> validation accuracy after it."""
        pairs = (part.split(":") for part in self.rungs.split())
        return {int(epoch): float(accuracy) for epoch, accuracy in pairs}

    def to_row(self) -> dict[str, Any]:
        """Column -> value."""
        return asdict(self)

    @classmethod
    def from_row(cls, row: dict[str, str]) -> "Measurement":
        """From a line of the file, all text.

        Raises:
            ValueError, KeyError, TypeError: not such a line.
        """
        if row.keys() | OPTIONAL != set(COLUMNS) or None in row.values():
            raise ValueError(f"a line has not the {len(COLUMNS)} columns that it should have")
        kinds = {"int": int, "float": float, "str": str}
        types = {field.name: kinds[getattr(field.type, "__name__", str(field.type))] for field in fields(cls)}
        return cls(**{name: kind(row[name]) for name, kind in types.items() if name in row})


COLUMNS = tuple(field.name for field in fields(Measurement))
OPTIONAL = {field.name for field in fields(Measurement) if field.default is not MISSING}
"""Columns that older files do not have."""


def rungs_text(rungs: Mapping[int, float]) -> str:
    """What `Measurement.rung_accuracies` reads, every digit: rungs of trials are compared."""
    return " ".join(f"{epoch}:{accuracy!r}" for epoch, accuracy in rungs.items())
