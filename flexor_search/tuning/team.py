"""Who trains: streams of a GPU, processes where a short measurement finds them faster on a CPU, or this process."""

from collections.abc import Callable
from typing import Protocol, TypeVar

import torch
from torch import nn

from flexor_search.codes.sharing import n_processors
from flexor_search.errors import RunError, TrainingError
from flexor_search.planning import Allocation, Recipe
from flexor_search.processes import WorkerDied
from flexor_search.tuning.flow import Streams, Team
from flexor_search.tuning.measurer import Measurer
from flexor_search.tuning.observer import Observer
from flexor_search.tuning.time_plan import seconds_per_image
from flexor_search.tuning.workers import Workers
from flexor_search.workloads import Data

GPU_AHEAD = 7
"""Proposals that are made on a GPU before the results of as many are known."""
MOST_TOGETHER = 16
"""Models that train side by side on a GPU, however much memory there is: eight keep it busy (docs/log.md), and of the
smallest, which do not, every launch is waited for."""
_WORTH_WHILE = 1.15
_START_SECONDS = 8.0
"""Processes take about so long until they train: most of it is importing torch."""
_MEMORY_SHARE = 0.8


class Timed(Protocol):
    """Processes that can be timed."""

    def seconds_per_image(self, allocation: Allocation) -> float:
        """Time that they take for an image of a training when all are at work."""
        ...

    def stop(self) -> None:
        """End all at once."""
        ...


T = TypeVar("T", bound=Timed)


def trials_ahead(jobs: int, device: str) -> int:
    """Proposals that are made before the results of as many earlier trials are known; a part of the plan."""
    if jobs:
        return jobs if jobs > 1 else 0
    if device.startswith("cuda"):
        return GPU_AHEAD
    return n_processors() if n_processors() > 1 else 0


def models_that_fit(free_bytes: int, bytes_per_model: int, most: int) -> int:
    """How many models to train at a time: as many as fit in four fifths of what is free, at least 1, at most `most`.

    Example:
        >>> models_that_fit(1000, 100, 32), models_that_fit(1000, 100, 4), models_that_fit(1000, 5000, 4)
        (8, 4, 1)
    """
    return max(1, min(most, int(_MEMORY_SHARE * free_bytes) // max(1, bytes_per_model)))


def choose_team(
    measurer: Measurer, allocation: Allocation, jobs: int, seconds_each: float, seconds: float, observer: Observer
) -> Team | None:
    """Choose who trains, and say so.

    Args:
        measurer: of the run.
        allocation: a typical one, to time.
        jobs: trials at once; 0: as many as there are processors, if that is measured to be faster; 1: one at a time.
        seconds_each: of training here on one image, one at a time.
        seconds: estimated for everything, one at a time.
        observer: is told what was chosen, and why.

    Returns:
        A team, to be stopped by the caller; None: this process trains one at a time.
    """
    if jobs == 1:
        return None
    if measurer.device.startswith("cuda"):
        if measurer.own.train is not None:
            observer.message("one training at a time: a loop of your own trains")
            return None
        width = models_at_a_time(*measurer.training, allocation, jobs or MOST_TOGETHER)
        observer.message(f"up to {width} trainings at a time, each on a stream of its own")
        return Streams(measurer, width)
    if measurer.device != "cpu":
        return None
    return faster_processes(
        *(lambda count: Workers(measurer, count), jobs or n_processors(), bool(jobs)),
        *(allocation, seconds_each, seconds, observer.message),
    )


def faster_processes(
    start: Callable[[int], T],
    count: int,
    is_asked: bool,
    allocation: Allocation,
    seconds_each: float,
    seconds: float,
    tell: Callable[[str], None],
) -> T | None:
    """Processes on a CPU, if they are asked for, or measured to be faster than this one.

    Args:
        start: starts so many.
        count: how many.
        is_asked: whether they are to be, faster or not.
        allocation, seconds_each, seconds: as of `choose_team`.
        tell: is told what was chosen, and why.

    Returns:
        What was started, to be stopped by the caller; None: this process trains one at a time.
    """
    if count < 2 or (not is_asked and seconds * (1 - 1 / count) < 2 * _START_SECONDS):
        return None
    try:
        crew = start(count)
    except RunError as error:
        tell(f"one training at a time: {error}")
        return None
    try:
        gain = seconds_each / crew.seconds_per_image(allocation)
    except BaseException as error:
        crew.stop()
        if not isinstance(error, WorkerDied | TrainingError):
            raise
        tell(f"one training at a time: {error}")
        return None
    if not is_asked and gain < _WORTH_WHILE:
        crew.stop()
        tell(f"one training at a time: {count} processes would be {gain:.2f} times as fast")
        return None
    tell(f"{count} trainings at a time, a process each: measured to be {gain:.2f} times as fast as one")
    return crew


def models_at_a_time(
    build: Callable[[], nn.Module], data: Data, recipe: Recipe, device: str, allocation: Allocation, most: int
) -> int:
    """How many models to train side by side on a GPU, by its free memory and what one model takes in a few steps."""
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    seconds_per_image(build, data, recipe, device, allocation)
    taken = torch.cuda.max_memory_allocated(device) - before
    free, _ = torch.cuda.mem_get_info(device)
    return models_that_fit(free, taken, most)
