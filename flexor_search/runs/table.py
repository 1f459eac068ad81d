"""measurements.csv: one line a measurement, on disk before its append returns; a last line that a crash tore is left
out, anything else that is wrong is an error that names the line.
"""

import csv
import io
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from flexor_search.errors import RunError
from flexor_search.files import flush_folder, write_atomically, write_error
from flexor_search.interrupts import unbroken
from flexor_search.runs.measurement import COLUMNS, Measurement


def read_table(path: Path) -> tuple[list[Measurement], bool]:
    """All measurements of a file, none if there is no file, and whether its last line is torn.

    Raises:
        RunError: a line is damaged; it is named.
    """
    if not path.exists():
        return [], False
    line = 1
    try:
        raw = path.read_bytes()
        whole = _whole_lines(raw)
        csv.field_size_limit(max(csv.field_size_limit(), len(raw)))
        reader = csv.DictReader(io.StringIO(_text(whole), newline=""), strict=True)
        found = []
        while True:
            line = reader.line_num + 1 if reader.line_num else 2  # the next to be read; the first is the header
            if (row := next(reader, None)) is None:
                return found, whole != raw
            found.append(Measurement.from_row(row))
    except _LineError as error:
        line, reason = error.line, str(error)
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        reason = str(error)
    raise RunError(
        f"{path} is damaged: line {line}: {reason}; mend that line, or take it out to have its training made again, "
        "or start a new run with another --out"
    )


def append_line(path: Path, measurement: Measurement) -> None:
    """Add a measurement, on disk when this returns.

    Raises:
        RunError: the disk is full or the folder not writable; no half a line stays.
    """
    _renew_columns(path)
    size = path.stat().st_size if path.exists() else 0
    text = ("" if size else _csv_line(COLUMNS)) + _csv_line(measurement.to_row().values())
    with unbroken():
        try:
            with path.open("a", encoding="utf-8", newline="") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            with suppress(OSError):
                os.truncate(path, size)
            raise write_error(path, error) from error
        if not size:
            flush_folder(path.parent)


def cut_torn_line(path: Path) -> None:
    """Take the line out that a crash tore; without a whole line there is no file."""
    whole = _whole_lines(path.read_bytes())
    if whole:
        write_atomically(path, whole)
    else:
        path.unlink()


def _renew_columns(path: Path) -> None:
    """Give a file from before a column was added all columns, so that a line can be appended."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", newline="") as file:
        first = file.readline()
    if first and first != _csv_line(COLUMNS):
        rows = (m.to_row().values() for m in read_table(path)[0])
        write_atomically(path, (_csv_line(COLUMNS) + "".join(map(_csv_line, rows))).encode())


def _csv_line(values: Iterable[Any]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\r\n").writerow(values)  # of this terminator it quotes both characters
    return text.getvalue().removesuffix("\r\n") + "\n"


class _LineError(ValueError):
    """What is wrong with a line that was found without reading up to it."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise _LineError(raw.count(b"\n", 0, error.start) + 1, str(error)) from error


def _whole_lines(raw: bytes) -> bytes:
    """All up to the last line break that ends a line, not one inside quotes.

    Raises:
        ValueError: what is left is more than one line, so a quote is missing somewhere in the middle.
    """
    end = raw.rfind(b"\n") + 1
    while raw.count(b'"', 0, end) % 2:
        end = raw.rfind(b"\n", 0, end - 1) + 1
    if re.search(rb"\n[0-9]+,(search|confirm),", raw[end:]):
        raise _LineError(raw.count(b"\n", 0, end) + 1, "its quotes are not paired")
    return raw[:end]
