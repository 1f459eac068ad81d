"""What is asked of a study, and how it is cut short."""

import math
from dataclasses import dataclass
from pathlib import Path

from flexor_search.errors import UsageError


@dataclass(frozen=True)
class StudyQuestion:
    """What is asked of a study.

    Attributes:
        folder: of its study.toml.
        out: of the results; "": the same folder.
        data_dir: folder of the data, "" for their default places.
        epochs: of every training, 0 for the recipes' own; for trying out.
        images: for training, 0 for all; for trying out.
        seeds: of every row, 0 for the study's.
        rows: names of the rows to train; none: all.
        seconds: after so many nothing new is begun, and what is under way is left at its next epoch; 0: no limit.
        jobs: trainings at a time; 0: as many as is fastest.
        device: "cpu", "cuda" or "auto".
    """

    folder: str
    out: str = ""
    data_dir: str = ""
    epochs: int = 0
    images: int = 0
    seeds: int = 0
    rows: tuple[str, ...] = ()
    seconds: float = 0.0
    jobs: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        for name in ("epochs", "images", "seeds", "seconds", "jobs"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"{name}: must not be negative, got {getattr(self, name)}")

    @property
    def results(self) -> Path:
        """Folder of the results."""
        return Path(self.out or self.folder)


class OutOfTime(Exception):
    """The seconds that were given are over; what was done is kept."""
