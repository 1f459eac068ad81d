"""The run folder: everything that a search found, the one truth that resuming, reports and exports read.

run.toml                    the resolved question and its fingerprint
measurements.csv            every training ever made, appended and flushed, one line each (table.py)
trained/N.safetensors       the packed model of measurement N, verified when it was trained
trained/N.json              what its packing saved and changed, measured then
trained/unfinished-KEY.safetensors   how far a training has come that is under way, for trainings longer than a minute
trained/shared-network.safetensors   the shared network, until it has scored all that it is to score
trained/teacher-*.safetensors   full-precision models that others learn from, until the run is done
sensitivity.json            scores of the shared network, and what each layer is predicted to lose (sensitivity.py)
study.db                    the same measurements as an Optuna study, for optuna-dashboard
test_readings.json          what each model whose confirmation was finished has on the test set, read once
summary.json, front.csv, report.html, model-BUDGET.safetensors, allocation-BUDGET.json
strategy.txt                the strategy that the run was begun with, which it stays with
clock.json                  seconds that the search has taken for each set of budgets, over all calls
run.log                     messages with times
.lock                       held while a process is at work (lock.py); what a killed one leaves is swept (leftovers.py)
"""

import json
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

from flexor_search.errors import RunError
from flexor_search.files import write_atomically, write_error, write_json
from flexor_search.interrupts import unbroken
from flexor_search.runs.leftovers import sweep, unfinished_name
from flexor_search.runs.lock import FolderLock
from flexor_search.runs.measurement import COLUMNS, Measurement
from flexor_search.runs.table import append_line, cut_torn_line, read_table

if TYPE_CHECKING:
    import pandas as pd

READINGS = "test_readings.json"
_STRATEGY = "strategy.txt"


class Run:
    """A run folder.

    Attributes:
        folder: where it is.
        question: the resolved question, as in run.toml.
        fingerprint: what makes it this question: a digest or value for each part.
        notices: what was found amiss and set right, a line each, for the user.
    """

    def __init__(self, folder: Path, question: dict[str, Any], fingerprint: dict[str, str]) -> None:
        self.folder, self.question, self.fingerprint = folder, question, fingerprint
        self.notices: list[str] = []
        self._lock = FolderLock(folder)
        self._measurements, self._is_torn = read_table(self._table)

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
        self._lock.take()
        try:
            if holder := self._lock.taken_over_from:
                self.notices.append(f"{holder} ended without letting go of {self.folder}; it is taken over")
            self._measurements, self._is_torn = read_table(self._table)
            self._mend()
        except BaseException:
            self.unlock()
            raise

    def unlock(self) -> None:
        """Let others have the folder."""
        self._lock.release()

    def sweep(self, *, is_done: bool = False) -> None:
        """Take away what killed processes have left, and what nobody needs once the run is done; needs the lock."""
        sweep(self.folder, self._measurements, is_done=is_done)

    def _mend(self) -> None:
        """Cut off a last line that a crash has torn. Needs the lock: another process may be writing it right now."""
        if self._is_torn:
            cut_torn_line(self._table)
            self._is_torn = False
            self.notices.append(f"the last line of {self._table} was torn and is dropped; its training is made again")

    @property
    def _table(self) -> Path:
        return self.folder / "measurements.csv"

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
        with unbroken():
            self._mend()
            append_line(self._table, measurement)
            self._measurements.append(measurement)
            with suppress(OSError):
                self.unfinished_path(measurement.key).unlink()

    def find(self, key: tuple[str, str, int]) -> Measurement | None:
        """The measurement of this allocation, phase and seed, if it was made; the last, if it was made again."""
        return next((m for m in reversed(self._measurements) if m.key == key), None)

    def trained_path(self, number: int) -> Path:
        """Where the packed model of a measurement lies."""
        return self.folder / "trained" / f"{number}.safetensors"

    def unfinished_path(self, key: tuple[str, str, int]) -> Path:
        """Where the checkpoint of a training lies while it is under way; the key is a measurement's."""
        return self.folder / "trained" / unfinished_name(key)

    def packing_path(self, number: int) -> Path:
        """Where it is told what packing a measurement saved and changed."""
        return self.folder / "trained" / f"{number}.json"

    def packing(self, number: int) -> dict[str, Any] | None:
        """What packing a measurement saved and changed; None if that was lost."""
        try:
            return json.loads(self.packing_path(number).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    @property
    def begun_with(self) -> str:
        """The name of the strategy that the run was begun with; "" before it is chosen, or where that was lost."""
        try:
            return (self.folder / _STRATEGY).read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            return ""

    def begin_with(self, strategy: str) -> None:
        """Write down the strategy that is followed.

        Raises:
            RunError: the folder is not writable or the disk is full.
        """
        if strategy != self.begun_with:
            write_atomically(self.folder / _STRATEGY, f"{strategy}\n".encode())

    @property
    def was_confirmed(self) -> bool:
        """Whether a confirmation has ever come to its end: the test set is read only then."""
        return (self.folder / READINGS).exists()

    def chosen(self) -> list[dict[str, Any]]:
        """What was chosen for each budget, as in summary.json; those asked for now first, then earlier ones."""
        summary = self.summary() or {}
        return [*summary.get("budgets", []), *summary.get("earlier", [])]

    def summary(self) -> dict[str, Any] | None:
        """What came out, if the run has got that far.

        While other budgets are searched for than it was written for, what it says of those that are not asked for any
        more is under "earlier", and its state is "interrupted" as long as one that is asked for is missing.

        Raises:
            RunError: summary.json is damaged.
        """
        path = self.folder / "summary.json"
        if not path.exists():
            return None
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            written = [entry["budget"] for entry in found["budgets"]]
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path} is damaged: {error}; run `flexor-search resume {self.folder}`") from error
        asked = [str(budget) for budget in self.question.get("budgets") or []]
        if not asked or set(asked) == set(written):
            return found
        entries = {entry["budget"]: entry for entry in [*found.get("earlier", []), *found["budgets"]]}
        found["budgets"] = [entries.pop(budget) for budget in asked if budget in entries]
        found["earlier"] = list(entries.values())
        if len(found["budgets"]) < len(asked):
            found["state"] = "interrupted"
        return found

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write summary.json, whole or not at all."""
        write_json(self.folder / "summary.json", summary)
