"""The command line as a process that is going to be killed: `python -m benchmarks.faults.child JOURNAL PLAN ARGS...`.

The functions of the package in which a kill would hurt most are wrapped here, and nowhere else, so that they say when
they begin and end. The plan (JSON; {} for none) names one of these moments, which of its occurrences in this process,
and how many seconds after its beginning a thread ends this process with SIGKILL. Writes and commits let other threads
go on, so the kill falls into the middle of them too.
"""

import functools
import importlib
import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.faults.checks import as_text
from benchmarks.faults.journal import BEGIN, CHECKPOINT, END, KILL, LINE, START, TRAINING, Journal

MOMENTS: dict[str, tuple[tuple[str, str], ...]] = {
    TRAINING: (("flexor_search.tuning.measurer", "train"),),
    CHECKPOINT: (("flexor_search.training.checkpoint", "write_checkpoint"),),
    "packing": (("flexor_search.tuning.measurer", "write_proven"),),
    "measurement line": (("flexor_search.runs.run", "Run.append"),),
    "database write": (
        ("flexor_search.tuning.optuna_backend", "StudyRecord.__init__"),
        ("flexor_search.tuning.optuna_backend", "StudyRecord.add"),
    ),
    "shared study": (
        ("flexor_search.tuning.shared_study", "SharedStudy.take"),
        ("flexor_search.tuning.shared_study", "SharedStudy.finish"),
        ("flexor_search.tuning.shared_study", "SharedStudy.agree"),
    ),
    "export": (
        ("flexor_search.tuning.summary", "ship"),
        ("flexor_search.runs.run", "Run.write_summary"),
        ("flexor_search.api", "write_report"),
    ),
}
"""Moment -> the functions that are it, as module and name there; what is within another is told as itself."""

CHECKPOINT_SECONDS = 0.1
"""Trainings on digits take a second or two: they are written down more often here than every minute."""


@dataclass(frozen=True)
class Kill:
    """When to die.

    Attributes:
        moment: one of MOMENTS.
        occurrence: which one of this process, from 1.
        after_seconds: after its beginning; if it has ended by then, wherever the process is.
    """

    moment: str
    occurrence: int
    after_seconds: float


class Watch:
    """Writes down what the wrapped functions do, and carries out the kill."""

    def __init__(self, journal: Journal, kill: Kill | None) -> None:
        self._journal, self._kill = journal, kill
        self._seen: Counter[str] = Counter()

    def wrap(self, moment: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, told about."""

        @functools.wraps(function)
        def wrapped(*args: Any, **more: Any) -> Any:
            self._seen[moment] += 1
            self._journal.write(BEGIN, moment)
            kill = self._kill
            if kill is not None and (moment, self._seen[moment]) == (kill.moment, kill.occurrence):
                threading.Thread(target=self._die, args=(time.monotonic() + kill.after_seconds,), daemon=True).start()
            try:
                return function(*args, **more)
            finally:
                self._journal.write(END, moment)

        return wrapped

    def _die(self, when: float) -> None:
        while (left := when - time.monotonic()) > 0:
            time.sleep(left)
        self._journal.write(KILL)
        os.kill(os.getpid(), signal.SIGKILL)


def owner_of(module: str, name: str) -> tuple[Any, str]:
    """The module or class that a function is an attribute of, and its name there."""
    *path, last = name.split(".")
    owner = functools.reduce(getattr, path, importlib.import_module(module))
    assert callable(getattr(owner, last)), f"{module} has no {name}"
    return owner, last


def install(journal: Journal, kill: Kill | None) -> None:
    """Wrap all moments, tell of each line that is on disk, and write checkpoints often."""
    from flexor_search.runs import Measurement, Run
    from flexor_search.tuning import Measurer

    watch, append, checkpoint = Watch(journal, kill), Run.append, Measurer.checkpoint

    def told_append(self: Run, measurement: Measurement) -> None:
        append(self, measurement)
        journal.write(LINE, key=measurement.key, row=as_text(measurement))

    def often(self: Measurer, trials: Any) -> Any:
        return replace(checkpoint(self, trials), every_seconds=CHECKPOINT_SECONDS)

    setattr(Run, "append", told_append)  # noqa: B010  # a type checker would not have it
    setattr(Measurer, "checkpoint", often)  # noqa: B010
    for moment, functions in MOMENTS.items():
        for module, name in functions:
            owner, last = owner_of(module, name)
            setattr(owner, last, watch.wrap(moment, getattr(owner, last)))


def main() -> None:
    """Wrap, and run the command line."""
    path, plan, *args = sys.argv[1:]
    journal = Journal(Path(path))
    journal.write(START)
    body = json.loads(plan)
    install(journal, Kill(**body) if body else None)
    from flexor_search import cli

    sys.argv = ["flexor-search", *args]
    cli.main()


if __name__ == "__main__":
    main()
