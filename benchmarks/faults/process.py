"""Starting a process that may be killed, and waiting for its end."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.faults.child import Kill

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Ended:
    """A process that has ended.

    Attributes:
        process: its id.
        started, ended: seconds since 1970.
        code: exit code, negative for a signal.
        errors: what it said.
    """

    process: int
    started: float
    ended: float
    code: int
    errors: str

    @property
    def was_killed(self) -> bool:
        """By SIGKILL."""
        return self.code == -signal.SIGKILL


class Child:
    """The command line in a process of its own, on one thread, that may kill itself by a plan.

    Args:
        journal: file that it writes down what it does in; one for all processes of a run.
        kill: when to die; None: not at all.
        args: of the command line.
    """

    def __init__(self, journal: Path, kill: Kill | None, args: Sequence[object]) -> None:
        plan = json.dumps(asdict(kill) if kill is not None else {})
        command = [sys.executable, "-m", "benchmarks.faults.child", str(journal), plan, *map(str, args)]
        self.started = time.time()
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "NO_COLOR": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait(self) -> Ended:
        """Until it has ended, in whatever way."""
        _, errors = self.process.communicate()
        return Ended(self.process.pid, self.started, time.time(), self.process.returncode, errors)


def run_to_end(journal: Path, kill: Kill | None, args: Sequence[object]) -> Ended:
    """Start the command line and wait for its end.

    Raises:
        RuntimeError: it ended by itself and not well; what it said is passed on.
    """
    ended = Child(journal, kill, args).wait()
    if ended.code and not ended.was_killed:
        raise RuntimeError(f"{' '.join(map(str, args))} ended with {ended.code}: {ended.errors[-2000:]}")
    return ended
