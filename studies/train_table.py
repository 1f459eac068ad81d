"""What the studies' scripts share: train given allocations with given seeds, resumably, into one CSV file.

The test set is read once for each finished training, from the trained model, after its validation score is fixed.
"""

import csv
import io
import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does; before torch loads OpenMP

import torch
from torch import nn

from flexor_search.errors import TrainingError
from flexor_search.files import write_atomically
from flexor_search.planning import Allocation, Recipe
from flexor_search.quantization import quantize_
from flexor_search.training import Score, TrainResult, evaluate, in_halves, seeded, train_together
from flexor_search.tuning import MOST_TOGETHER, Silent, closed_recipe, models_at_a_time
from flexor_search.workloads import Data, Workload

COLUMNS: tuple[str, ...] = (
    "name",
    "seed",
    "label",
    "bits_per_weight",
    "val_accuracy",
    "test_accuracy",
    "train_seconds",
)


@dataclass(frozen=True)
class Job:
    """One training: a name for the table, what to train, and its seed."""

    name: str
    allocation: Allocation
    seed: int


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a file, those of an interrupted write left out."""
    rows = list(csv.DictReader(path.open(encoding="utf-8"))) if path.exists() else []
    return [row for row in rows if None not in row.values() and None not in row]


def train_table(
    path: Path, jobs: Sequence[Job], task: Workload, data: Data, seconds: float = math.inf, processes: int = 1
) -> list[dict[str, str]]:
    """Train the jobs whose (name, seed) the file does not hold yet; a line is on disk as soon as it is known.

    On a GPU several at a time; on a CPU one after the other, or so many processes of one thread each. None begins after
    `seconds`.
    """
    started = time.monotonic()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = read_table(path)
    done = {(row["name"], int(row["seed"])): row["label"] for row in rows}
    for job in jobs:
        if (label := done.get((job.name, job.seed), job.allocation.label)) != job.allocation.label:
            raise SystemExit(
                f"{path}: {job.name!r}, seed {job.seed}, is there of another allocation ({label}); move the file "
                "away to train this one"
            )
    waiting = [job for job in jobs if (job.name, job.seed) not in done]
    if not waiting or seconds <= 0:
        return rows
    begin_table(path, rows)
    first = waiting[0].allocation
    recipe = closed_recipe(task.build, data, task.recipe, device, first, {}, Silent())
    on_gpu = device == "cuda"
    if processes > 1 and not on_gpu:
        for job, result, test in _in_processes(waiting, (task, data, recipe), started + seconds, processes):
            rows.append(add_row(path, job, result, test))
        return rows
    width = models_at_a_time(task.build, data, recipe, device, first, MOST_TOGETHER) if on_gpu else 1
    for start in range(0, len(waiting), width):
        if time.monotonic() - started > seconds:
            break
        part = waiting[start : start + width]
        trained = in_halves(lambda some: _trained(some, task, data, recipe, device), part)
        failed: TrainingError | None = None
        for job, (model, result) in zip(part, trained, strict=True):
            if isinstance(result, TrainingError):
                failed = failed or result
                continue
            rows.append(add_row(path, job, result, evaluate(model, data.test, device=device, recipe=Recipe())))
        if failed is not None:
            raise failed
    return rows


def begin_table(path: Path, rows: Sequence[dict[str, str]], columns: Sequence[str] = COLUMNS) -> None:
    """Write the file anew with these rows, which are those that `read_table` found whole."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())


def add_row(path: Path, job: Job, result: TrainResult, test: Score) -> dict[str, str]:
    """What a finished training came to: printed, and on disk when this returns."""
    row = {
        "name": job.name,
        "seed": str(job.seed),
        "label": job.allocation.label,
        "bits_per_weight": f"{job.allocation.bits_per_weight:g}",
        "val_accuracy": f"{result.validation.accuracy:.4f}",
        "test_accuracy": f"{test.accuracy:.4f}",
        "train_seconds": f"{result.train_seconds:.1f}",
    }
    print(*row.values(), flush=True)
    with path.open("a", newline="", encoding="utf-8") as file:
        csv.DictWriter(file, COLUMNS, lineterminator="\n").writerow(row)
        file.flush()
        os.fsync(file.fileno())
    return row


def _trained(
    jobs: Sequence[Job], task: Workload, data: Data, recipe: Recipe, device: str
) -> list[tuple[nn.Module, TrainResult | TrainingError]]:
    """Models of the jobs, trained side by side, with what they came to."""
    models = []
    for job in jobs:
        with seeded(job.seed):
            models.append(quantize_(task.build(), job.allocation))
    results = train_together(models, data, recipe, seeds=[job.seed for job in jobs], device=device)
    return list(zip(models, results, strict=True))


def _in_processes(
    jobs: Sequence[Job], common: tuple[Workload, Data, Recipe], ends: float, processes: int
) -> Iterator[tuple[Job, TrainResult, Score]]:
    """Train jobs in processes of one thread each, as they end; none begins after `ends`."""
    fresh = multiprocessing.get_context("spawn")  # a forked process would share OpenMP's threads
    left, under_way = list(reversed(jobs)), dict[Future[tuple[TrainResult, Score]], Job]()
    failed: TrainingError | None = None
    with ProcessPoolExecutor(processes, fresh, initializer=_begin, initargs=common) as pool:
        while left or under_way:
            while left and len(under_way) < processes and time.monotonic() < ends and failed is None:
                job = left.pop()
                under_way[pool.submit(_train_here, job)] = job
            if not under_way:
                break
            for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                job = under_way.pop(future)
                try:
                    yield job, *future.result()
                except TrainingError as error:
                    failed = failed or error
    if failed is not None:
        raise failed


_common: tuple[Workload, Data, Recipe]


def _begin(*common: Any) -> None:
    """What a process trains by."""
    global _common  # the way a pool of processes gives each what all jobs share
    _common = common
    use_threads(1)


def _train_here(job: Job) -> tuple[TrainResult, Score]:
    task, data, recipe = _common
    ((model, result),) = _trained([job], task, data, recipe, "cpu")
    if isinstance(result, TrainingError):
        raise result
    return result, evaluate(model, data.test, device="cpu", recipe=Recipe())


def use_threads(threads: int) -> None:
    """Train with so many processor threads."""
    torch.set_num_threads(threads)


def points(rows: Sequence[dict[str, str]], name: str, column: str) -> list[float]:
    """Accuracies of one name, in percent, by seed."""
    same = sorted((row for row in rows if row["name"] == name), key=lambda row: int(row["seed"]))
    return [100 * float(row[column]) for row in same]


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return statistics.fmean(values), error


def print_table(rows: Sequence[dict[str, str]]) -> None:
    """Mean and standard error of each name, validation and test."""
    print(f"{torch.__version__=}, {torch.get_num_threads()} threads")
    for name in dict.fromkeys(row["name"] for row in rows):
        bits = next(row["bits_per_weight"] for row in rows if row["name"] == name)
        columns = [mean_and_error(points(rows, name, column)) for column in ("val_accuracy", "test_accuracy")]
        (val, val_error), (test, test_error) = columns
        seeds = len(points(rows, name, "val_accuracy"))
        print(
            f"{name:<18} {bits:>6} bpw  validation {val:.2f} +- {val_error:.2f}  test {test:.2f} +- {test_error:.2f}  "
            f"({seeds} seeds, +- standard error)"
        )


def print_difference(rows: Sequence[dict[str, str]], ours: str, theirs: str) -> None:
    """Difference of the means with its standard error, validation and test."""
    for column in ("val_accuracy", "test_accuracy"):
        (a, a_error), (b, b_error) = (mean_and_error(points(rows, name, column)) for name in (ours, theirs))
        print(f"{ours} - {theirs}, {column}: {a - b:+.2f} +- {math.hypot(a_error, b_error):.2f} points")
