"""Running the command: in this process, in another one, and in one that is going to be killed."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

QUESTION = (
    "--budget",
    "0.7bpw",
    "--trials",
    "6",
    "--epochs",
    "4",
    "--seeds",
    "2",
    "--device",
    "cpu",
    "--strategy",
    "supernet",
)
"""What the real run of these tests asks: a few seconds on the digits."""

RUN = "import runpy; runpy.run_module('flexor_search', run_name='__main__')"
INTERRUPTIBLE = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler); {RUN}"
"""A shell's background process ignores Ctrl+C, and so would its children; this one does not."""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def last_line(self):
        return self.err.rstrip("\n").rpartition("\n")[2]


def start(*args, cwd):
    """Start the command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE, *map(str, args)],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1", "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process):
    """Wait for a process that was started."""
    out, err = process.communicate(timeout=300)
    return Ended(process.returncode, out, err)


def run_apart(*args, cwd):
    """Run the command in a process of its own, to its end, as a user does."""
    done = subprocess.run(
        [sys.executable, "-m", "flexor_search", *map(str, args)],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def lines_of(folder):
    """The whole lines of measurements.csv, without its header."""
    path = Path(folder) / "measurements.csv"
    raw = path.read_bytes() if path.exists() else b""
    return raw[: raw.rfind(b"\n") + 1].splitlines()[1:]


def wait_for_lines(folder, count, process):
    """Wait until a process has measured so much."""
    limit = time.monotonic() + 200
    while len(lines_of(folder)) < count:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < limit
        time.sleep(0.005)


def leftovers(folder):
    """Temporary files that nobody took away."""
    return [path for path in Path(folder).rglob(".*") if path.name != ".lock"]
