"""What a process that is going to be killed writes down as it goes, and what can be read from that afterwards.

One line of JSON for each event, handed to the system before the process goes on: what a process has written survives
its SIGKILL. (It would not survive the machine; what does is the business of fsync, and of the tests.)
"""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BEGIN, END, LINE, KILL, START = "begin", "end", "line", "kill", "start"
TRAINING, CHECKPOINT = "training", "checkpoint write"


class Journal:
    """The writing side, in the process itself."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def write(self, event: str, moment: str = "", **more: Any) -> None:
        """Add an event with the time."""
        line = {"at": time.time(), "process": os.getpid(), "event": event, "moment": moment} | more
        os.write(self._file, (json.dumps(line) + "\n").encode())


@dataclass(frozen=True)
class Event:
    """One line.

    Attributes:
        at: seconds since 1970.
        process: who wrote it.
        event: "start" of a process, "begin" or "end" of a moment, "line" of a measurement that is on disk, "kill".
        moment: one of child.MOMENTS, "" for the others.
        key: of a "line": allocation, phase, seed.
        row: of a "line": the measurement as text.
    """

    at: float
    process: int
    event: str
    moment: str
    key: tuple[str, str, int] | None = None
    row: str = ""


def read(path: Path) -> list[Event]:
    """All events, in order; a last line that the kill has torn is left out."""
    return list(_events(path)) if path.exists() else []


def _events(path: Path) -> Iterator[Event]:
    for line in path.read_text().splitlines(keepends=True):
        if line.endswith("\n"):
            body = json.loads(line)
            key = body.pop("key", None)
            yield Event(**body, key=(str(key[0]), str(key[1]), int(key[2])) if key else None)


def finished(events: list[Event]) -> dict[tuple[str, str, int], str]:
    """Measurements whose line was on disk, by key: what must never be lost."""
    return {event.key: event.row for event in events if event.event == LINE and event.key is not None}


def made_again(events: list[Event]) -> list[str]:
    """Measurements that were finished twice."""
    seen: set[tuple[str, str, int]] = set()
    again = []
    for event in events:
        if event.event == LINE and event.key is not None:
            if event.key in seen:
                again.append(f"{event.key} was measured again")
            seen.add(event.key)
    return again


def moment_hit(events: list[Event], process: int) -> str:
    """The innermost moment that a killed process was in; "between" if it was in none."""
    within: list[str] = []
    for event in events:
        if event.process == process:
            if event.event == BEGIN:
                within.append(event.moment)
            elif event.event == END and event.moment in within:
                within.reverse()
                within.remove(event.moment)
                within.reverse()
    return within[-1] if within else "between"


def work_lost_seconds(events: list[Event], process: int, died: float) -> float:
    """Time since the last state on disk of the training that a killed process was at; 0 if it was at none."""
    since: float | None = None
    for event in events:
        if event.process == process:
            if (event.event, event.moment) == (BEGIN, TRAINING):
                since = event.at
            elif event.event == LINE:
                since = None
            elif (event.event, event.moment) == (END, CHECKPOINT) and since is not None:
                since = event.at
    return max(0.0, died - since) if since is not None else 0.0


def recovery_seconds(events: list[Event], process: int, started: float) -> float | None:
    """From the start of a process until it trains or exports; None if it came to neither."""
    for event in events:
        if event.process == process and event.event == BEGIN and event.moment in (TRAINING, "export"):
            return event.at - started
    return None
