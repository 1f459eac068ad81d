"""What placing trials by Ray costs: `python -m benchmarks.ray_overhead --json`.

The same trials of the direct strategy on the digits, trained by two processes of this machine (as `--jobs 2`) and by
Ray Tune on a cluster with two processors that is started here (as `--backend ray`), one thread each, in turn. Start-up
is apart: before the clock starts each team has trained `WARM` other trials, its processes have imported what they
need. Keys: `ray_over_local` is the ratio of the median times of the search, `ratios` that of each round,
`start_seconds` from nothing to the end of the warm-up. Both must come to the same measurements.
"""

import argparse
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from benchmarks.faults.checks import as_text
from benchmarks.timing import hardware, versions
from flexor_search.asking import Question
from flexor_search.question import Plan, plan
from flexor_search.runs import SEARCH, Run
from flexor_search.tuning import Measurer, SearchPlan, Silent, search
from flexor_search.tuning.flow import Team
from flexor_search.tuning.proposals import baselines
from flexor_search.tuning.trial import Trial
from flexor_search.tuning.workers import Workers
from flexor_search.workloads import Data

JOBS = 2
WARM = 4
"""Trials before the clock starts, with a seed of their own."""
_WARM_SEED, _WARM_NUMBER = 999, 100_000


@dataclass(frozen=True)
class Subject:
    """What is searched: the plan of the question, its data, and how many trials."""

    planned: Plan
    data: Data
    trials: int

    def measurer(self, folder: Path) -> Measurer:
        """Of an empty run."""
        task = self.planned.workload
        return Measurer(Run.start(folder, {}, {}), task.build, self.data, task.recipe, task.name, "cpu")


@dataclass(frozen=True)
class Timed:
    """One search: seconds from nothing until the team was warm, seconds of the search, what it came to."""

    start_seconds: float
    seconds: float
    found: list[str]


@contextmanager
def local(measurer: Measurer) -> Iterator[Team]:
    """Two processes."""
    with Workers(measurer, JOBS) as team:
        yield team


@contextmanager
def on_ray(measurer: Measurer) -> Iterator[Team]:
    """Ray on two processors."""
    import ray

    from flexor_search.tuning.ray_backend import RayTeam
    from flexor_search.tuning.ray_cluster import Resources, ray_cluster

    ray.init("local", num_cpus=JOBS, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        with ray_cluster("", 1.0, 0.0) as room:
            team = RayTeam(measurer, Resources(), room + 1, Silent())
            try:
                yield team
            finally:
                team.stop()
    finally:
        ray.shutdown()


TEAMS = {"local": local, "ray": on_ray}


def timed(name: str, subject: Subject, folder: Path) -> Timed:
    """A search by a new team."""
    measurer = subject.measurer(folder)
    asked = SearchPlan(subject.planned.space, subject.planned.budgets, subject.trials, 0, 1e9, ahead=JOBS)
    started = time.perf_counter()
    with TEAMS[name](measurer) as team:
        warm = [Trial(candidate, SEARCH, _WARM_SEED) for candidate in baselines(replace(asked, trials=2 * WARM))[:WARM]]
        for training in [team.submit(trial, _WARM_NUMBER + place) for place, trial in enumerate(warm)]:
            training.result()
        begun = time.perf_counter()
        search(asked, measurer, Silent(), team)
        ended = time.perf_counter()
    return Timed(begun - started, ended - begun, [as_text(m) for m in measurer.run.measurements])


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ray_overhead", description=__doc__)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=10, help="of a confirmation; a trial of the search takes fewer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round of short trials, to see that it works")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    asked = parser.parse_args()
    epochs, rounds = (1, 1) if asked.quick else (asked.epochs, asked.rounds)
    torch.set_num_threads(1)
    planned = plan(Question("0.7bpw", epochs=epochs, device="cpu"))
    subject = Subject(planned, planned.workload.load(None), asked.trials)
    times: dict[str, list[Timed]] = {name: [] for name in TEAMS}
    with tempfile.TemporaryDirectory(prefix="flexor-search-ray-") as folder:
        for turn in range(rounds):
            for name in TEAMS if turn % 2 == 0 else reversed(TEAMS):
                times[name].append(timed(name, subject, Path(folder) / f"{name}-{turn}"))
    every = [each.found for one in times.values() for each in one]
    assert all(found == every[0] for found in every), "Ray and local came to different measurements"
    medians = {name: statistics.median(each.seconds for each in one) for name, one in times.items()}
    found: dict[str, Any] = {
        "ray_over_local": round(medians["ray"] / medians["local"], 3),
        "ratios": [round(b.seconds / a.seconds, 3) for a, b in zip(times["local"], times["ray"], strict=True)],
        "search_seconds": {name: [round(each.seconds, 2) for each in one] for name, one in times.items()},
        "start_seconds": {name: [round(each.start_seconds, 2) for each in one] for name, one in times.items()},
        "trials": asked.trials,
        "epochs": planned.workload.recipe.for_search().epochs,
        "hardware": hardware(),
        "processors": len(os.sched_getaffinity(0)),
        "versions": versions("torch", "ray"),
    }
    if asked.json:
        print(json.dumps(found, indent=2))
    else:
        print(*(f"{key.replace('_', ' ')}: {value}" for key, value in found.items()), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
