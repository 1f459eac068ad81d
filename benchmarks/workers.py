"""Two workers on one storage against one: `python -m benchmarks.workers --json`.

The command line on the digits, direct strategy, a fixed number of trials, one thread a worker, through PostgreSQL where
it is installed, else through a journal file. One worker and two take turns, each round on a new study. What is timed is
the search: from the moment when the first worker begins it, data read and machine measured, to the last line of its
table. Workers of a pair start together, and whichever is there first begins. Keys: `speed_up` is the ratio of the
median times, `speed_ups` that of each round, `search_seconds` and `whole_seconds` (processes from start to end,
confirmation too) the times by the number of workers, `trainings_each` how the last pair shared them.
"""

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.faults.checks import as_text, measured
from benchmarks.postgresql_server import binaries, server
from benchmarks.timing import hardware, versions
from flexor_search.runs import SEARCH

TARGET = 1.6
ROOT = Path(__file__).parents[1]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workers", description=__doc__)
    parser.add_argument("--trials", type=int, default=24, help="of the search, baselines included")
    parser.add_argument("--epochs", type=int, default=10, help="of a confirmation; a trial of the search takes fewer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--storage", choices=["auto", "postgresql", "journal"], default="auto")
    parser.add_argument("--quick", action="store_true", help="one short round, to see that it works")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    asked = parser.parse_args()
    trials, epochs, rounds = (5, 2, 1) if asked.quick else (asked.trials, asked.epochs, asked.rounds)
    question = ["--budget", "0.7bpw", "--strategy", "direct", "--trials", str(trials), "--epochs", str(epochs)]
    question += ["--seeds", "1", "--device", "cpu", "--quiet"]
    kind = asked.storage if asked.storage != "auto" else "postgresql" if binaries() is not None else "journal"
    seconds: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
    shares: list[int] = []
    with tempfile.TemporaryDirectory(prefix="flexor-search-workers-") as name, storages(kind, Path(name)) as storage:
        tables: list[list[str]] = []
        for turn in range(rounds):
            for count in (1, 2) if turn % 2 == 0 else (2, 1):
                folders = [Path(name) / f"round-{turn}-{count}-{place}" for place in range(count)]
                whole = together([*question, "--storage", storage(f"round_{turn}_{count}")], folders)
                seconds[count].append((search_seconds(folders), whole))
                tables += [sorted(map(as_text, measured(folder))) for folder in folders]
                if count == 2:
                    shares = sorted(Counter(m.worker for m in measured(folders[0]) if m.phase == SEARCH).values())
        assert all(table == tables[0] for table in tables), "one worker and two came to different measurements"
    searches, wholes = ({n: [pair[i] for pair in pairs] for n, pairs in seconds.items()} for i in (0, 1))
    medians = {count: statistics.median(times) for count, times in searches.items()}
    found: dict[str, Any] = {
        "speed_up": round(medians[1] / medians[2], 3),
        "target": TARGET,
        "speed_ups": [round(one / two, 3) for one, two in zip(searches[1], searches[2], strict=True)],
        "search_seconds": {str(count): [round(t, 2) for t in times] for count, times in searches.items()},
        "whole_seconds": {str(count): [round(t, 2) for t in times] for count, times in wholes.items()},
        "trainings_each": shares,
        "trials": trials,
        "epochs": epochs,
        "storage": kind,
        "hardware": hardware(),
        "processors": len(os.sched_getaffinity(0)),
        "versions": versions("torch", "optuna"),
    }
    if asked.json:
        print(json.dumps(found, indent=2))
    else:
        print(*(f"{key.replace('_', ' ')}: {value}" for key, value in found.items()), sep="\n")
    return 0


@contextmanager
def storages(kind: str, folder: Path) -> Iterator[Callable[[str], str]]:
    """Gives a function that makes an empty storage of a name and returns its URL."""
    if kind == "journal":
        yield lambda name: f"journal:{folder / name}.log"
        return
    with server() as running:
        yield running.database


def together(question: Sequence[str], folders: Sequence[Path]) -> float:
    """Start a worker for each folder at the same time; seconds until the last of them ended.

    Raises:
        RuntimeError: one of them failed; what it said is passed on.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    started, processes = time.perf_counter(), []
    for folder in folders:
        command = [sys.executable, "-m", "flexor_search", *question, "--out", str(folder)]
        with folder.with_suffix(".errors").open("w") as errors:
            processes.append(
                subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=errors)
            )
    codes = [process.wait() for process in processes]
    seconds = time.perf_counter() - started
    for code, folder in zip(codes, folders, strict=True):
        if code:
            raise RuntimeError(f"a worker ended with {code}: {folder.with_suffix('.errors').read_text()[-2000:]}")
    return seconds


def search_seconds(folders: Sequence[Path]) -> float:
    """From the first worker's beginning of the search to the last line of it, by the logs of their runs."""
    begun: list[float] = []
    ended: list[float] = []
    for folder in folders:
        for line in (folder / "run.log").read_text(encoding="utf-8").splitlines():
            when, text = line[:23], line[24:]
            if text.startswith(f"{SEARCH} begins"):
                begun.append(_seconds(when))
            elif text.startswith("trial ") and text.split()[2] == SEARCH:
                ended.append(_seconds(when))
    return max(ended) - min(begun)


def _seconds(when: str) -> float:
    return datetime.datetime.strptime(when, "%Y-%m-%d %H:%M:%S,%f").timestamp()


if __name__ == "__main__":
    sys.exit(main())
