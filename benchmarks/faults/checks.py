"""What must hold of a run folder: after a kill, and at the end. Each check returns complaints, none if all is well."""

import csv
import json
import re
import sqlite3
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from flexor_search.errors import FlexorError
from flexor_search.packing import verify_file
from flexor_search.runs import CONFIRM, DONE, Measurement, Run

Key = tuple[str, str, int]
INCIDENTAL = ("train_seconds", "worker")
"""Columns of a measurement that may differ between two runs that found the same."""


def measured(folder: Path) -> list[Measurement]:
    """The whole lines of measurements.csv, read here and not by the code under test; a torn last one is left out."""
    path = folder / "measurements.csv"
    if not path.exists():
        return []
    whole = re.sub(r"[^\n]*\Z", "", path.read_text())
    return [Measurement.from_row(row) for row in csv.DictReader(whole.splitlines())]


def as_text(measurement: Measurement) -> str:
    """What a measurement found, as a journal tells it."""
    row = {name: value for name, value in measurement.to_row().items() if name not in INCIDENTAL}
    return json.dumps(row, sort_keys=True)


def lost(folder: Path, finished: Mapping[Key, str]) -> list[str]:
    """Measurements that were finished and are not there, or not as they were."""
    there = {m.key: as_text(m) for m in measured(folder)}
    return [f"{key} in {folder.name}" for key, text in finished.items() if there.get(key) != text]


def repeated(folder: Path) -> list[str]:
    """Measurements that are there more than once."""
    counts = Counter(m.key for m in measured(folder))
    return [f"{key} is there {count} times" for key, count in counts.items() if count > 1]


def unreadable(folder: Path) -> list[str]:
    """Files of a run, at work or killed, that a reader could not use: only the last line of the table may be torn."""
    complaints = []
    for path in folder.glob("*.json"):
        try:
            json.loads(path.read_text())
        except ValueError as error:
            complaints.append(f"{path.name}: {error}")
    packed = [folder / "trained" / f"{m.number}.safetensors" for m in measured(folder) if m.state == DONE]
    for path in [*packed, *folder.glob("model-*.safetensors")]:
        try:
            verify_file(path)
        except FlexorError as error:
            complaints.append(str(error))
    return complaints


def unverified(folder: Path) -> list[str]:
    """Whether a finished run lacks a verified model for a budget."""
    summary = Run.open(folder).summary()
    if summary is None or summary["state"] != "complete":
        return [f"{folder.name} has no complete summary"]
    complaints = []
    for entry in summary["budgets"]:
        path = folder / f"model-{entry['budget']}.safetensors"
        try:
            verify_file(path)
        except FlexorError as error:
            complaints.append(str(error))
            continue
        if not entry["verified"] or path.stat().st_size != entry["file_bytes"]:
            complaints.append(f"{path.name} is not what the summary says")
    return complaints


def different(folder: Path, whole: Path) -> list[str]:
    """How a finished run differs from the same one that nobody killed: summary, measurements, shipped files."""
    complaints = []
    if Run.open(folder).summary() != Run.open(whole).summary():
        complaints.append(f"{folder.name}: summary.json")
    if [as_text(m) for m in measured(folder)] != [as_text(m) for m in measured(whole)]:
        complaints.append(f"{folder.name}: measurements.csv")
    shipped = [path.name for path in whole.glob("model-*.safetensors")]
    changed = [name for name in shipped if (folder / name).read_bytes() != (whole / name).read_bytes()]
    return [*complaints, *(f"{folder.name}: {name}" for name in changed)]


def untidy(folder: Path) -> list[str]:
    """What a finished run should not hold: temporary files, checkpoints, a database that lacks a trial."""
    found = [path for path in folder.rglob("*") if path.name.startswith(("unfinished-", ".")) and path.name != ".lock"]
    complaints = [f"{path.relative_to(folder)} was left behind" for path in found]
    searched = [m for m in measured(folder) if m.phase != CONFIRM]
    with closing(sqlite3.connect(folder / "study.db")) as database:
        answers: list[Any] = [row[0] for row in database.execute("pragma integrity_check")]
        (trials,) = database.execute("select count(*) from trials").fetchone()
    if answers != ["ok"] or trials != len(searched):
        complaints.append(f"study.db: {answers}, {trials} trials of {len(searched)}")
    return complaints
