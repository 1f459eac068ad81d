"""The run folder: everything that a search found, the one truth that resuming, reports and exports read.

run.toml                    the resolved question and its fingerprint
measurements.csv            every training ever made, appended and flushed, one line each
trained/N.safetensors       the packed model of measurement N, verified when it was trained
trained/N.json              what its packing saved and changed, measured then
trained/unfinished-KEY.safetensors   how far a training has come that is under way, for trainings longer than a minute
study.db                    the same measurements as an Optuna study, for optuna-dashboard
summary.json, front.csv, report.html, model-BUDGET.safetensors, allocation-BUDGET.json
run.log                     messages with times
"""

import csv
import fcntl
import io
import json
import os
import re
import tomllib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

from flexor_search.errors import RunError
from flexor_search.files import write_atomically, write_error, write_json
from flexor_search.runs.measurement import COLUMNS, Measurement

if TYPE_CHECKING:
    import pandas as pd


class Run:
    """A run folder.

    Attributes:
        folder: where it is.
        question: the resolved question, as in run.toml.
        fingerprint: what makes it this question: a digest or value for each part.
    """

    def __init__(self, folder: Path, question: dict[str, Any], fingerprint: dict[str, str]) -> None:
        self.folder, self.question, self.fingerprint = folder, question, fingerprint
        self._lock: io.TextIOWrapper | None = None
        self._measurements, torn = self._read_measurements()
        if torn:
            with suppress(RunError):  # in use: the process at work there may be writing that line right now
                self.lock()
                self.unlock()

    @classmethod
    def open(cls, folder: str | Path) -> "Run":
        """Open a run folder that exists.

        Raises:
            RunError: not a run folder, or its run.toml is damaged.
        """
        folder = Path(folder)
        path = folder / "run.toml"
        if not path.is_file():
            raise RunError(f"{folder} is not a run folder: it holds no run.toml; name the folder given as --out")
        try:
            body = tomllib.loads(path.read_text(encoding="utf-8"))
            question, fingerprint = body["question"], body["fingerprint"]
            if not isinstance(question, dict) or not isinstance(fingerprint, dict):
                raise ValueError("question and fingerprint must be tables")
        except (OSError, ValueError, KeyError) as error:  # TOML and unicode errors are ValueErrors
            raise RunError(f"{path} is damaged: {error}; start a new run with another --out") from error
        return cls(folder, question, fingerprint)

    @classmethod
    def start(cls, folder: str | Path, question: dict[str, Any], fingerprint: dict[str, str]) -> "Run":
        """Open the folder for this question, creating it if need be.

        Raises:
            RunError: it belongs to another question (what differs is named), another process is at work in it, or it
                cannot be written.
        """
        folder = Path(folder)
        if (folder / "run.toml").exists():
            run = cls.open(folder)
            differing = [
                f"{name} (there {run.fingerprint.get(name, 'absent')}, here {fingerprint.get(name, 'absent')})"
                for name in sorted(run.fingerprint.keys() | fingerprint.keys())
                if run.fingerprint.get(name) != fingerprint.get(name)
            ]
            if differing:
                raise RunError(
                    f"{folder} belongs to another question; what differs: {', '.join(differing)}. "
                    "Choose another --out, or ask the same question again"
                )
        try:
            (folder / "trained").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(folder, error) from error
        run = cls(folder, question, fingerprint)
        run.lock()  # a run that another process is at work in must not get this question
        try:
            write_atomically(
                folder / "run.toml", tomli_w.dumps({"question": question, "fingerprint": fingerprint}).encode()
            )
        finally:
            run.unlock()
        return run

    @classmethod
    def recipe_of(cls, folder: str | Path) -> dict[str, Any]:
        """Fields of the recipe that the run in a folder was begun with; {} where there is none to be read."""
        with suppress(RunError):
            found = cls.open(folder).question.get("recipe_fields")
            return found if isinstance(found, dict) else {}
        return {}

    def lock(self) -> None:
        """Hold the folder for this process until it ends; a dead process holds nothing.

        What others measured in it until now is read, and a last line that a crash has torn is cut off.

        Raises:
            RunError: another process is at work in it, or it cannot be written.
        """
        try:
            self._lock = (self.folder / ".lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.unlock()
            if isinstance(error, BlockingIOError):
                raise RunError(
                    f"{self.folder} is in use by another process; wait for it or choose another --out"
                ) from error
            raise write_error(self.folder, error) from error
        try:
            self._measurements, torn = self._read_measurements()
            if torn:
                self._cut_torn_line()
        except BaseException:
            self.unlock()
            raise

    def unlock(self) -> None:
        """Let others have the folder."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @property
    def measurements(self) -> tuple[Measurement, ...]:
        """All measurements, in the order in which they were made."""
        return tuple(self._measurements)

    def frame(self) -> "pd.DataFrame":
        """All measurements as a table, one row each, columns as in `Measurement`."""
        import pandas as pd

        return pd.DataFrame([m.to_row() for m in self._measurements], columns=list(COLUMNS))

    def append(self, measurement: Measurement) -> None:
        """Add a measurement, on disk when this returns; the checkpoint of its training has served and is removed.

        Raises:
            RunError: the disk is full or the folder not writable.
        """
        path = self.folder / "measurements.csv"
        self._renew_columns()
        size = path.stat().st_size if path.exists() else 0
        text = ("" if size else _csv_line(COLUMNS)) + _csv_line(measurement.to_row().values())
        try:
            with path.open("a", encoding="utf-8", newline="") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            with suppress(OSError):
                os.truncate(path, size)  # no half a line stays
            raise write_error(path, error) from error
        self._measurements.append(measurement)
        self.unfinished_path(measurement.key).unlink(missing_ok=True)

    def find(self, key: tuple[str, str, int]) -> Measurement | None:
        """The measurement of this allocation, phase and seed, if it was made; the last, if it was made again."""
        return next((m for m in reversed(self._measurements) if m.key == key), None)

    def trained_path(self, number: int) -> Path:
        """Where the packed model of a measurement lies."""
        return self.folder / "trained" / f"{number}.safetensors"

    def unfinished_path(self, key: tuple[str, str, int]) -> Path:
        """Where the checkpoint of a training lies while it is under way; the key is a measurement's."""
        digest, phase, seed = key
        return self.folder / "trained" / f"unfinished-{digest}-{phase}-{seed}.safetensors"

    def packing_path(self, number: int) -> Path:
        """Where it is told what packing a measurement saved and changed."""
        return self.folder / "trained" / f"{number}.json"

    def packing(self, number: int) -> dict[str, Any] | None:
        """What packing a measurement saved and changed; None if that was lost."""
        try:
            return json.loads(self.packing_path(number).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def summary(self) -> dict[str, Any] | None:
        """What came out, if the run has got that far.

        Raises:
            RunError: summary.json is damaged.
        """
        path = self.folder / "summary.json"
        if not path.exists():
            return None
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise RunError(f"{path} is damaged: {error}; run `flexor-search resume {self.folder}`") from error

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write summary.json, whole or not at all."""
        write_json(self.folder / "summary.json", summary)

    def _read_measurements(self) -> tuple[list[Measurement], bool]:
        """Read measurements.csv, and tell whether its last line was torn by a crash; that line is left out."""
        path = self.folder / "measurements.csv"
        if not path.exists():
            return [], False
        try:
            raw = path.read_bytes()
            whole = _whole_lines(raw)
            csv.field_size_limit(max(csv.field_size_limit(), len(raw)))
            reader = csv.DictReader(io.StringIO(whole.decode(), newline=""), strict=True)
            return [Measurement.from_row(row) for row in reader], whole != raw
        except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
            raise RunError(f"{path} is damaged: {error}; start a new run with another --out") from error

    def _renew_columns(self) -> None:
        """Give a file from before a column was added all columns, so that a line can be appended."""
        path = self.folder / "measurements.csv"
        if not path.exists():
            return
        with path.open(encoding="utf-8", newline="") as file:
            first = file.readline()
        if first and first != _csv_line(COLUMNS):
            rows = (m.to_row().values() for m in self._read_measurements()[0])
            write_atomically(path, (_csv_line(COLUMNS) + "".join(map(_csv_line, rows))).encode())

    def _cut_torn_line(self) -> None:
        path = self.folder / "measurements.csv"
        whole = _whole_lines(path.read_bytes())
        if whole:
            write_atomically(path, whole)
        else:
            path.unlink()


def _csv_line(values: Iterable[Any]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\r\n").writerow(values)  # of this terminator it quotes both characters
    return text.getvalue().removesuffix("\r\n") + "\n"


def _whole_lines(raw: bytes) -> bytes:
    """All up to the last line break that ends a line, not one inside quotes.

    Raises:
        ValueError: what is left is more than one line, so a quote is missing somewhere in the middle.
    """
    end = raw.rfind(b"\n") + 1
    while raw.count(b'"', 0, end) % 2:
        end = raw.rfind(b"\n", 0, end - 1) + 1
    if re.search(rb"\n[0-9]+,(search|confirm),", raw[end:]):
        raise ValueError(f"the quotes of the line after byte {end} are not paired")
    return raw[:end]
