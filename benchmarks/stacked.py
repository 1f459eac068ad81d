"""Trainings per hour, several at a time over one at a time: `python -m benchmarks.stacked --json`.

Routes: one training at a time, eager, with default threads, the base of all ratios; one of full precision; on a GPU one
whose steps are replayed; a process for each processor, as the command line trains on a CPU; K trainings side by side,
each on a stream of its own, as it trains on a GPU. Every round takes each route once, so that other work on the machine
slows all of them; the ratio is of medians.

What is timed is a whole search trial: building the model, training, scoring, packing, and the proof of the file.
Starting the processes is told beside it.
"""

import argparse
import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

# Before torch loads OpenMP, as the command line does: threads that wait sleep.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from benchmarks.timing import hardware, versions
from flexor_search.codes.sharing import n_processors
from flexor_search.planning import Allocation, LayerSpec, Recipe, SearchSpace, make_space, read_space_file
from flexor_search.planning import full_precision as all_kept
from flexor_search.quantization import describe
from flexor_search.runs import FULL_PRECISION, SEARCH, Run
from flexor_search.training import resolve_precision
from flexor_search.tuning.measurer import Measurer
from flexor_search.tuning.trial import Candidate, Trial
from flexor_search.tuning.workers import Workers
from flexor_search.workloads import Data, Workload, fashion_mnist, workload
from flexor_search.workloads.resnet import ResNet

RESNET20 = Workload(
    "", partial(ResNet, in_channels=1), fashion_mnist.load, Recipe(optimizer="sgd", learning_rate=0.1, batch_size=128)
)
WORKLOADS = {
    "digits": (workload("digits-convnet"), 5, 0),
    "lenet5": (workload("lenet5-fashion-mnist"), 1, 1280),
    "resnet20": (RESNET20, 1, 640),
}
"""Name -> workload, epochs of a timed training, training images of it (0: all); on a GPU 20 times as many."""


@dataclass(frozen=True)
class Task:
    """A workload, cut to a timed training."""

    workload: Workload
    data: Data
    recipe: Recipe
    space: SearchSpace
    device: str

    def trials(self, count: int) -> list[Trial]:
        """Search trials of so many allocations."""
        return [Trial(Candidate(self.allocation(index), "timed"), SEARCH, index) for index in range(count)]

    def allocation(self, index: int) -> Allocation:
        """All layers that may be quantized, at rates that differ from layer to layer and from index to index."""
        layers = [name for variable in self.space.variables for name in variable.layers]
        specs = {name: LayerSpec(n_in=4 + (index + 3 * place) % 17) for place, name in enumerate(layers)}
        return Allocation.of(self.space.model, specs)


def make_task(name: str, device: str, quick: bool) -> Task:
    chosen, epochs, images = WORKLOADS[name]
    data = chosen.load(None)
    count = 128 if quick else images * (20 if device.startswith("cuda") else 1)
    data = replace(data, train=data.train.take(count), validation=data.validation.take(128 if images or quick else 0))
    space = make_space(describe(chosen.build()), read_space_file(chosen.space) if chosen.space else None, chosen.name)
    recipe = replace(chosen.recipe, epochs=epochs, search_epochs=epochs, search_images=0)
    memory_format = "channels_last" if device.startswith("cuda") else "contiguous"
    recipe = replace(recipe, precision=resolve_precision("auto", device), memory_format=memory_format)
    return Task(chosen, data, recipe, space, device)


def seconds_of(work: Callable[[], object], device: str) -> float:
    started = time.perf_counter()
    work()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - started


def routes_of(task: Task, measurer: Measurer, ks: Sequence[int]) -> dict[str, tuple[int, Callable[[], object]]]:
    """Route -> how many trainings it does, and the work."""

    eager = replace(measurer, route="eager")

    def one() -> None:
        eager.attempt(task.trials(1)[0], 0)

    def replayed() -> None:
        measurer.attempt(task.trials(1)[0], 0)

    def one_thread() -> None:
        torch.set_num_threads(1)
        one()

    def full_precision() -> None:
        eager.attempt(Trial(Candidate(all_kept(task.space.model), FULL_PRECISION), SEARCH, 0), 0)

    def side_by_side(count: int) -> Callable[[], object]:
        return lambda: measurer.attempt_together(task.trials(count), range(count))

    singles = {"one": (1, one), "one on one thread": (1, one_thread), "full precision": (1, full_precision)}
    if task.device.startswith("cuda"):
        singles["one replayed"] = (1, replayed)
    return singles | {str(k): (k, side_by_side(k)) for k in ks if k > 1}


def measure(task: Task, ks: Sequence[int], rounds: int, threads: int) -> dict[str, Any]:
    """Trainings per hour of every route, and the memory it takes."""
    per_hour: dict[str, list[float]] = {}
    memory: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        run = Run.start(folder, {}, {})
        measurer = Measurer(run, task.workload.build, task.data, task.recipe, task.workload.name, task.device)
        routes = routes_of(task, measurer, ks)
        started = time.perf_counter()
        workers = Workers(measurer, n_processors()) if task.device == "cpu" else None
        start_seconds = time.perf_counter() - started
        try:
            if workers is not None:
                workers.seconds_per_image(task.allocation(0))
                routes["processes"] = (2 * workers.count, lambda: through(workers, task, 2 * workers.count))
            routes["one"][1]()
            for _ in range(rounds):
                for name, (count, work) in routes.items():
                    torch.set_num_threads(threads)
                    if task.device.startswith("cuda"):
                        torch.cuda.reset_peak_memory_stats()
                    seconds = seconds_of(work, task.device)
                    per_hour.setdefault(name, []).append(3600 * count / seconds)
                    memory[name] = memory_mib(task.device)
        finally:
            if workers is not None:
                workers.stop()
    medians = {name: statistics.median(values) for name, values in per_hour.items()}
    over_one = {"1" if name == "one" else name: round(value / medians["one"], 3) for name, value in medians.items()}
    return {
        "trainings_per_hour": {name: round(value, 1) for name, value in medians.items()},
        "over_one": over_one,
        "rounds": {name: [round(value, 1) for value in values] for name, values in per_hour.items()},
        "peak_memory_mib": memory,
        "processes_start_seconds": round(start_seconds, 1),
    }


def through(workers: Workers, task: Task, count: int) -> None:
    """So many search trials through the processes."""
    futures = [workers.submit(trial, number) for number, trial in enumerate(task.trials(count))]
    for future in futures:
        future.result()


def memory_mib(device: str) -> float:
    """Peak of the device in this round; on a CPU the peak of the process so far, which never falls."""
    if device.startswith("cuda"):
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="few images, two side by side: do the routes work?")
    parser.add_argument("--workloads", default="", help="comma-separated; default all whose data are there")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--ks", default="4,8,16", help="comma-separated: so many side by side; 1 is `one`")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    ks = (2,) if given.quick else [int(k) for k in given.ks.split(",")]
    names = given.workloads.split(",") if given.workloads else ["digits"] if given.quick else list(WORKLOADS)
    threads = torch.get_num_threads()
    found = {
        name: measure(make_task(name, given.device, given.quick), ks, 1 if given.quick else given.rounds, threads)
        for name in names
    }
    result = {
        "trainings_per_hour_over_one": {given.device: {name: each["over_one"] for name, each in found.items()}},
        "details": found,
        "threads": threads,
        "hardware": torch.cuda.get_device_name() if given.device.startswith("cuda") else hardware(),
        "versions": versions("torch"),
    }
    if given.json:
        print(json.dumps(result, indent=2))
        return
    for name, each in found.items():
        for route, value in each["trainings_per_hour"].items():
            ratio = each["over_one"].get(route, 1.0)
            print(f"{name} {route}: {value:.0f} trainings an hour, {ratio:.2f} of one at a time")


if __name__ == "__main__":
    main()
