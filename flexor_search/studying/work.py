"""Train the rows of a study, each with every seed, and read the test set when all are done.

Whatever is interrupted goes on: a training that was finished is never made again, one under way goes on from its
checkpoint. The test set is read when the last training of the study is done, once with each trained model.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from flexor_search.codes.sharing import n_processors
from flexor_search.errors import RunError
from flexor_search.files import write_json
from flexor_search.fingerprint import data_digest
from flexor_search.planning import Recipe
from flexor_search.question import device_of
from flexor_search.studying.asked import OutOfTime, StudyQuestion
from flexor_search.studying.book import DONE, FAILED, Book, Line, Reading, held
from flexor_search.studying.crew import Crew
from flexor_search.studying.rows import Row, plan_rows
from flexor_search.studying.searched import searched_allocations
from flexor_search.studying.study_file import StudyFile, read_study
from flexor_search.studying.tables import write_tables
from flexor_search.studying.trainer import Deadline, Job, Trainer
from flexor_search.training import check_fits, evaluate, in_halves, seeded
from flexor_search.tuning import (
    MOST_TOGETHER,
    Silent,
    closed_recipe,
    faster_processes,
    models_at_a_time,
    seconds_per_image,
)
from flexor_search.workloads import NO_OWN, Data


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
        self._deadline = Deadline.after(asked.seconds)
        self._threads = torch.get_num_threads()
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
        self._deadline.check()
        # Of all rows, whichever are wanted now: a search of fewer budgets would be another search.
        every = [row for row in plan_rows(self.study, self.asked.epochs) if row.table.search]
        place, wanted = self.book.folder, {row.name for row in rows}
        chosen = searched_allocations(every, self.asked, place, self.device, self.tell, self._deadline.check, wanted)
        return [replace(row, found=chosen.get(row.name)) for row in rows]

    def jobs(self, rows: Sequence[Row]) -> list[Job]:
        """All trainings, the first seed of every row before the second of any."""
        jobs = []
        for seed in range(self.asked.seeds or self.study.seeds):
            for row in rows:
                allocation = row.allocation(seed)
                digest = self.data(row)[1]
                depends_on = [allocation.to_json(), row.task.recipe.to_json(), row.table.slice_order, digest, seed]
                text = json.dumps([row.task.name, *depends_on], sort_keys=True)
                jobs.append(Job(row, seed, allocation, hashlib.sha256(text.encode()).hexdigest()[:16]))
        self.planned = [(job.row.name, job.seed, job.key) for job in jobs]
        return jobs

    def train(self, jobs: Sequence[Job]) -> None:
        """Train those that are not known; a line is on disk as soon as it is."""
        waiting: dict[str, list[Job]] = {}
        seen: set[str] = set()
        for job in jobs:
            if not self.book.is_known(job.key) and job.key not in seen:
                seen.add(job.key)  # two rows may be the same training
                waiting.setdefault(f"{job.row.task.name} {_digest(job.row.task.recipe)}", []).append(job)
        self.tell(f"{sum(map(len, waiting.values()))} of {len(jobs)} trainings are to be made, on {self.device}")
        for group in waiting.values():
            data, digest = self.data(group[0].row)
            recipe = self._closed(group[0], data)
            if self.device == "cpu":
                torch.set_num_threads(recipe.threads or self._threads)
            task = group[0].row.task
            common = self.book, [task.name, digest], data, recipe, self.device, self._deadline, self.tell
            trainer = Trainer(task.build, *common)
            self._deadline.check()
            crew = self._crew(trainer, group)
            if crew is not None:
                with crew:
                    for line in crew.train(group):
                        self._write_down([line])
                continue
            width = self._width(trainer, group)
            for start in range(0, len(group), width):
                in_halves(lambda jobs, t=trainer: self._write_down(t.train(jobs)), group[start : start + width])

    def read_test(self, jobs: Sequence[Job]) -> None:
        """Read the test set once with each trained model that has not been."""
        for job in jobs:
            line = self.book.lines[job.key]
            if line.state == FAILED or job.key in self.book.readings:
                continue
            model = job.fresh(job.row.task.recipe)
            path = self.book.trained_path(job.key)
            try:
                model.load_state_dict(load(path.read_bytes()))
            except (SafetensorError, RuntimeError) as error:
                raise RunError(f"{path} is damaged: {error}; delete it to train that model again") from error
            score = evaluate(model, self.data(job.row)[0].test, device=self.device)
            self.book.read_test(Reading(job.key, job.row.name, job.seed, round(score.accuracy, 6)))
        self.book.forget_teachers()

    def _closed(self, job: Job, data: Data) -> Recipe:
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

    def _crew(self, trainer: Trainer, group: Sequence[Job]) -> Crew | None:
        """Processes, where they are asked for or faster; None: this process trains."""
        count = min(self.asked.jobs or n_processors(), len(group))
        if self.device != "cpu" or count == 1:
            return None
        data, recipe, allocation = trainer.data, trainer.recipe, group[0].allocation
        each = seconds_per_image(trainer.build, data, recipe, self.device, allocation)
        whole = each * len(data.train) * recipe.epochs * len(group)
        return faster_processes(
            *(lambda count: Crew(trainer, count), count, bool(self.asked.jobs)), *(allocation, each, whole, self.tell)
        )

    def _width(self, trainer: Trainer, group: Sequence[Job]) -> int:
        """How many train at a time in this process."""
        most = min(self.asked.jobs or MOST_TOGETHER, len(group))
        if not self.device.startswith("cuda") or most == 1:
            return 1
        data, recipe = trainer.data, trainer.recipe
        return models_at_a_time(trainer.build, data, recipe, self.device, group[0].allocation, most)

    def _write_down(self, lines: list[Line]) -> list[Line]:
        for line in lines:
            self.book.append(line)
            told = f"validation {100 * line.val_accuracy:.2f} %" if line.state == DONE else f"failed: {line.reason}"
            self.tell(f"{line.row}, seed {line.seed}: {told}, {line.train_seconds:.0f} s")
        return lines


def _digest(recipe: Recipe) -> str:
    return hashlib.sha256(json.dumps(recipe.to_json(), sort_keys=True).encode()).hexdigest()[:12]
