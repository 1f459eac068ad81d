"""What a study has measured: one line a training in measurements.csv, one a reading of the test set in tests.csv."""

import csv
import fcntl
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TypeVar

from flexor_search.errors import RunError
from flexor_search.files import write_atomically, write_error

DONE, FAILED = "done", "failed"


@dataclass(frozen=True)
class Line:
    """One training.

    Attributes:
        key: of everything that it depends on: allocation, recipe, data, seed.
        row, seed: which training it is.
        label: its layers' rates.
        bits_per_weight: at the codes' rank.
        nominal_bits_per_weight: the paper's count.
        epochs, images: done, and training images an epoch.
        state: "done" or "failed".
        val_accuracy, val_loss: on the validation split, of the weights as they decode; NaN if failed.
        train_seconds: wall time.
        device: where.
        reason: why it failed.
    """

    key: str
    row: str
    seed: int
    label: str
    bits_per_weight: float
    nominal_bits_per_weight: float
    epochs: int
    images: int
    state: str
    val_accuracy: float
    val_loss: float
    train_seconds: float
    device: str
    reason: str = ""


@dataclass(frozen=True)
class Reading:
    """One trained model on the test set: it happens once.

    Attributes:
        key, row, seed: as of its line.
        test_accuracy: 0 to 1.
    """

    key: str
    row: str
    seed: int
    test_accuracy: float


Entry = TypeVar("Entry", Line, Reading)


class Book:
    """The files of a study's results.

    Args:
        folder: of the results; made if it does not exist.

    Raises:
        RunError: it cannot be written, or a file in it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            for part in (folder, folder / "trained", folder / "unfinished"):
                part.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(folder, error) from error
        self.lines: dict[str, Line] = {line.key: line for line in _read(self._lines_path, Line)}
        self.readings: dict[str, Reading] = {one.key: one for one in _read(self._readings_path, Reading)}

    @property
    def _lines_path(self) -> Path:
        return self.folder / "measurements.csv"

    @property
    def _readings_path(self) -> Path:
        return self.folder / "tests.csv"

    def trained_path(self, key: str) -> Path:
        """Of the trained weights, until the test set has been read with them."""
        return self.folder / "trained" / f"{key}.safetensors"

    def unfinished_path(self, key: str) -> Path:
        """Of the checkpoint of a training under way."""
        return self.folder / "unfinished" / f"{key}.safetensors"

    def is_known(self, key: str) -> bool:
        """Whether a training need not be made: it failed, or its test reading or its weights are here."""
        line = self.lines.get(key)
        return line is not None and (line.state == FAILED or key in self.readings or self.trained_path(key).exists())

    def append(self, line: Line) -> None:
        """Add a line; it is on disk when this returns."""
        self.lines[line.key] = line
        _write(self._lines_path, list(self.lines.values()), Line)
        self.unfinished_path(line.key).unlink(missing_ok=True)

    def read_test(self, reading: Reading) -> None:
        """Add a reading of the test set; the weights have no further use."""
        self.readings[reading.key] = reading
        _write(self._readings_path, list(self.readings.values()), Reading)
        self.trained_path(reading.key).unlink(missing_ok=True)

    def forget_teachers(self) -> None:
        """Models that only others learned from have no use once all are trained."""
        for path in (self.folder / "unfinished").glob("*teacher-*"):
            path.unlink(missing_ok=True)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder of results for this process.

    Raises:
        RunError: another process is at work in it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise write_error(folder, error) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(f"{folder} is in use by another process; wait for it or choose another --out") from error
        yield


def _write(path: Path, entries: list[Entry], kind: type[Entry]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(kind)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(entry) for entry in entries)
    write_atomically(path, text.getvalue().encode())


def _read(path: Path, kind: type[Entry]) -> list[Entry]:
    if not path.exists():
        return []
    kinds = {"int": int, "float": float, "str": str}
    types = {field.name: kinds[getattr(field.type, "__name__", str(field.type))] for field in fields(kind)}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [kind(**{name: of(row[name]) for name, of in types.items()}) for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is damaged: {error}; mend its last line, or choose another --out") from error
