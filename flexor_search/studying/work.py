"""Train the rows of a study, each with every seed, and read the test set when all are done.

Whatever is interrupted goes on: a training that was finished is never made again, one under way goes on from its
checkpoint. The test set is read when the last training of the study is done, once with each trained model.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from flexor_search.errors import RunError, TrainingError
from flexor_search.files import write_atomically, write_json
from flexor_search.fingerprint import data_digest
from flexor_search.planning import Allocation, Recipe
from flexor_search.quantization import flexor_weights
from flexor_search.question import device_of
from flexor_search.studying.asked import OutOfTime, StudyQuestion
from flexor_search.studying.book import DONE, FAILED, Book, Line, Reading, held
from flexor_search.studying.rows import Row, plan_rows
from flexor_search.studying.searched import searched_allocations
from flexor_search.studying.study_file import StudyFile, read_study
from flexor_search.studying.tables import write_tables
from flexor_search.training import (
    CHECKPOINT_SECONDS,
    Checkpoint,
    Score,
    Teachers,
    TrainResult,
    check_fits,
    evaluate,
    fresh_model,
    in_halves,
    seeded,
    train_together,
)
from flexor_search.tuning import MOST_TOGETHER, Silent, closed_recipe, models_at_a_time
from flexor_search.workloads import NO_OWN, Data


@dataclass(frozen=True)
class _Job:
    row: Row
    seed: int
    allocation: Allocation
    key: str

    def fresh(self, recipe: Recipe, teacher: nn.Module | None = None) -> nn.Module:
        model = fresh_model(self.row.task.build, self.allocation, recipe, self.seed, teacher)
        for weight in flexor_weights(model).values():
            weight.slice_order = self.row.table.slice_order
        return model


def run_study(asked: StudyQuestion, tell: Callable[[str], None] = print) -> bool:
    """Train what is missing, read the test set if that was all, and write the tables.

    Args:
        asked: which study, and how.
        tell: is told of progress, a line each.

    Returns:
        Whether the study is finished.

    Raises:
        FlexorError: any of errors.py; what was measured before is kept.
    """
    study = read_study(asked.folder)
    rows = plan_rows(study, asked.epochs, asked.rows)
    device = device_of(asked.device)
    with held(asked.results):
        book = Book(asked.results)
        work = _Work(asked, study, book, device, tell)
        finished = False
        try:
            rows = work.with_searches(rows)
            jobs = work.jobs(rows)
            work.train(jobs)
            if not asked.rows:
                work.read_test(jobs)
                finished = True
        except OutOfTime:
            tell("the time is over; the same command goes on")
        finally:
            if work.planned:
                write_tables(asked.results, study, rows, work.planned, book)
    return finished


class _Work:
    """One call of the command."""

    def __init__(
        self, asked: StudyQuestion, study: StudyFile, book: Book, device: str, tell: Callable[[str], None]
    ) -> None:
        self.asked, self.study, self.book, self.device, self.tell = asked, study, book, device, tell
        self.planned: list[tuple[str, int, str]] = []
        self._ends = time.monotonic() + asked.seconds if asked.seconds else math.inf
        self._data: dict[Any, tuple[Data, str]] = {}

    def data(self, row: Row) -> tuple[Data, str]:
        """The data of a row's workload, cut to the images asked for, and their digest."""
        load = row.task.load
        if load not in self._data:
            data = load(Path(self.asked.data_dir) if self.asked.data_dir else None)
            data = replace(data, train=data.train.take(self.asked.images))
            with seeded(0):
                check_fits(row.task.build(), data, row.task.recipe, NO_OWN)
            self._data[load] = data, data_digest(data)
        return self._data[load]

    def with_searches(self, rows: Sequence[Row]) -> list[Row]:
        """The rows with what their searches chose; those that are done are looked up."""
        if not any(row.table.search for row in rows):
            return list(rows)
        self._check_time()
        # Those of all rows, whichever are wanted now: a search of fewer budgets would be another search.
        every = [row for row in plan_rows(self.study, self.asked.epochs) if row.table.search]
        place = self.book.folder
        chosen = searched_allocations(every, self.asked, place, self.device, self.tell, self._check_time)
        return [replace(row, found=chosen.get(row.name)) for row in rows]

    def jobs(self, rows: Sequence[Row]) -> list[_Job]:
        """All trainings, the first seed of every row before the second of any."""
        jobs = []
        for seed in range(self.asked.seeds or self.study.seeds):
            for row in rows:
                allocation = row.allocation(seed)
                digest = self.data(row)[1]
                depends_on = [allocation.to_json(), row.task.recipe.to_json(), row.table.slice_order, digest, seed]
                text = json.dumps([row.task.name, *depends_on], sort_keys=True)
                jobs.append(_Job(row, seed, allocation, hashlib.sha256(text.encode()).hexdigest()[:16]))
        self.planned = [(job.row.name, job.seed, job.key) for job in jobs]
        return jobs

    def train(self, jobs: Sequence[_Job]) -> None:
        """Train those that are not known; a line is on disk as soon as it is."""
        waiting: dict[str, list[_Job]] = {}
        seen: set[str] = set()
        for job in jobs:
            if not self.book.is_known(job.key) and job.key not in seen:
                seen.add(job.key)  # two rows may be the same training
                waiting.setdefault(f"{job.row.task.name} {_digest(job.row.task.recipe)}", []).append(job)
        self.tell(f"{sum(map(len, waiting.values()))} of {len(jobs)} trainings are to be made, on {self.device}")
        for group in waiting.values():
            data, _ = self.data(group[0].row)
            recipe = self._closed(group[0], data)
            if recipe.threads and self.device == "cpu":
                torch.set_num_threads(recipe.threads)
            width = self._width(group[0], data, recipe)
            for start in range(0, len(group), width):
                self._check_time()
                some = group[start : start + width]
                in_halves(lambda jobs, d=data, r=recipe: self._train_some(jobs, d, r), some)

    def read_test(self, jobs: Sequence[_Job]) -> None:
        """Read the test set once with each trained model that has not been."""
        for job in jobs:
            line = self.book.lines[job.key]
            if line.state == FAILED or job.key in self.book.readings:
                continue
            model = _as_shipped(job.fresh(job.row.task.recipe))
            path = self.book.trained_path(job.key)
            try:
                model.load_state_dict(load(path.read_bytes()))
            except (SafetensorError, RuntimeError) as error:
                raise RunError(f"{path} is damaged: {error}; delete it to train that model again") from error
            score = evaluate(model, self.data(job.row)[0].test, device=self.device)
            self.book.read_test(Reading(job.key, job.row.name, job.seed, round(score.accuracy, 6)))
        self.book.forget_teachers()

    def _closed(self, job: _Job, data: Data) -> Recipe:
        """The recipe with nothing left open, as it was closed when the first training of its group was made."""
        task, path = job.row.task, self.book.folder / "recipes.json"
        try:
            known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        except ValueError as error:
            raise RunError(f"{path} is damaged: {error}; delete it to measure anew") from error
        name = f"{task.name} {_digest(task.recipe)} {self.device}"
        recipe = closed_recipe(
            task.build, data, task.recipe, self.device, job.allocation, known.get(name, {}), Silent(), NO_OWN
        )
        closed = {"precision": recipe.precision, "memory_format": recipe.memory_format}
        if known.get(name) != closed:
            write_json(path, known | {name: closed})
        return recipe

    def _width(self, job: _Job, data: Data, recipe: Recipe) -> int:
        if self.asked.jobs or not self.device.startswith("cuda"):
            return self.asked.jobs or 1
        return models_at_a_time(job.row.task.build, data, recipe, self.device, job.allocation, MOST_TOGETHER)

    def _train_some(self, jobs: Sequence[_Job], data: Data, recipe: Recipe) -> list[TrainResult | TrainingError]:
        """Train jobs side by side, and write them down."""
        watch, every = None, CHECKPOINT_SECONDS
        if self._ends < math.inf:  # a call that is shorter than a training has to get on with it, too
            watch, every = self._watch, min(every, self.asked.seconds / 4)
        row = jobs[0].row  # all are of one workload and recipe
        about, folder = [row.task.name, self.data(row)[1]], self.book.unfinished_path("").parent
        teachers = Teachers(row.task.build, folder, about, every, watch, self.tell)
        taught = [job.seed for job in jobs if not job.row.table.full_precision]
        try:
            by_seed = teachers.all_of(data, recipe, taught, self.device)
        except TrainingError as error:
            if len(jobs) > 1:  # who has that teacher fails alone
                return [result for job in jobs for result in self._train_some([job], data, recipe)]
            self._write_down(jobs[0], jobs[0].fresh(recipe), error, data)
            return [error]
        own = [None if job.row.table.full_precision else by_seed[job.seed] for job in jobs]
        models = [job.fresh(recipe, teacher) for job, teacher in zip(jobs, own, strict=True)]
        results = train_together(
            *(models, data, recipe),
            seeds=[job.seed for job in jobs],
            device=self.device,
            on_epoch=[watch] * len(jobs),
            checkpoints=[Checkpoint(self.book.unfinished_path(job.key), every, [job.key], self.tell) for job in jobs],
            teachers=own,
        )
        for job, model, result in zip(jobs, models, results, strict=True):
            self._write_down(job, model, result, data)
        return results

    def _write_down(self, job: _Job, model: nn.Module, result: TrainResult | TrainingError, data: Data) -> None:
        score, state, reason = Score(math.nan, math.nan), DONE, ""
        if isinstance(result, TrainingError):
            state, reason, epochs, seconds = FAILED, " ".join(str(result).split()), 0, 0.0
        else:
            epochs, seconds = result.epochs, result.train_seconds
            score = evaluate(_as_shipped(model), data.validation, device=self.device)
            tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
            write_atomically(self.book.trained_path(job.key), save(tensors))
        allocation = job.allocation
        self.book.append(
            Line(
                key=job.key,
                row=job.row.name,
                seed=job.seed,
                label=allocation.label,
                bits_per_weight=allocation.bits_per_weight,
                nominal_bits_per_weight=round(allocation.nominal_bits_per_weight, 4),
                epochs=epochs,
                images=len(data.train),
                state=state,
                val_accuracy=round(score.accuracy, 6),
                val_loss=round(score.loss, 6),
                train_seconds=round(seconds, 1),
                device=self.device,
                reason=reason,
            )
        )
        told = f"validation {100 * score.accuracy:.2f} %" if state == DONE else f"failed: {reason}"
        self.tell(f"{job.row.name}, seed {job.seed}: {told}, {seconds:.0f} s")

    def _watch(self, _epoch: int, _score: Score) -> bool:
        self._check_time()
        return False

    def _check_time(self) -> None:
        if time.monotonic() > self._ends:
            raise OutOfTime


def _as_shipped(model: nn.Module) -> nn.Module:
    """The model with the weights that its stored bits decode to, whatever it was trained with."""
    for weight in flexor_weights(model).values():
        weight.surrogate = "flexor"
    return model


def _digest(recipe: Recipe) -> str:
    return hashlib.sha256(json.dumps(recipe.to_json(), sort_keys=True).encode()).hexdigest()[:12]
