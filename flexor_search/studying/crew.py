"""Processes that train jobs of a study, each on one thread: on a CPU small trainings gain little from more threads."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flexor_search.errors import RunError
from flexor_search.interrupts import unbroken
from flexor_search.planning import Allocation, Recipe
from flexor_search.processes import Answer, WorkerDied
from flexor_search.studying.asked import OutOfTime
from flexor_search.studying.book import Book, Line
from flexor_search.studying.trainer import Deadline, Job, Trainer
from flexor_search.tuning import DataProcesses, load_data, remove_data, seconds_per_image


@dataclass(frozen=True)
class _Setup:
    """What a process needs once; a `processes.Setup`. Everything as of the trainer."""

    folder: str
    about: Any
    data: str
    recipe: Recipe
    deadline: Deadline
    threads: int = 1

    def ready(self, tell: Callable[[str], None]) -> Callable[["_Request"], Any]:
        """Make the trainer anew."""
        torch.set_num_threads(self.threads)
        book, data = Book(Path(self.folder)), load_data(self.data)
        trainer = Trainer(book, self.about, data, self.recipe, "cpu", self.deadline, tell)
        return lambda request: request.answer(trainer)

    def forsaken(self) -> None:
        """Take the data away."""
        remove_data(self.data)


@dataclass(frozen=True)
class _Train:
    job: Job

    def answer(self, trainer: Trainer) -> Line:
        (line,) = trainer.train([self.job])
        return line


@dataclass(frozen=True)
class _Teach:
    job: Job

    def answer(self, trainer: Trainer) -> None:
        trainer.teach(self.job)


@dataclass(frozen=True)
class _Probe:
    build: Callable[[], nn.Module]
    allocation: Allocation

    def answer(self, trainer: Trainer) -> float:
        return seconds_per_image(self.build, trainer.data, trainer.recipe, trainer.device, self.allocation)


_Request = _Train | _Teach | _Probe


class Crew:
    """Processes that train what a trainer would; a context that leaves none behind.

    Args:
        trainer: whose jobs they train.
        build: makes the plain model, to be timed.
        count: how many.

    Raises:
        RunError: something cannot be sent to another process; says why.
    """

    def __init__(self, trainer: Trainer, build: Callable[[], nn.Module], count: int) -> None:
        self._book, self._build, self.count = trainer.book, build, count
        folder = str(trainer.book.folder.resolve())
        self._processes = DataProcesses(
            lambda path: _Setup(folder, trainer.about, path, trainer.recipe, trainer.deadline),
            *(trainer.data, count, trainer.tell),
        )

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def seconds_per_image(self, allocation: Allocation) -> float:
        """Time that they take for an image of a training when all are at work."""
        futures = [self._ask(_Probe(self._build, allocation)) for _ in range(self.count)]
        return max(future.result().found for future in futures) / self.count

    def train(self, jobs: Sequence[Job]) -> Iterator[Line]:
        """Train jobs; their lines as they end.

        Teachers come first, one of a seed each, because two jobs that have the same one would wait for each other.

        Raises:
            OutOfTime: after whatever was under way has ended or was left at an epoch.
            RunError: a process died.
        """
        is_over = False
        teachers = {job.seed: job for job in jobs if job.is_taught}
        asked: dict[Future[Answer], Job] = {self._ask(_Teach(job)): job for job in teachers.values()}
        asked |= {self._ask(_Train(job)): job for job in jobs}
        for future in as_completed(asked):
            job = asked[future]
            try:
                found = future.result().found
            except OutOfTime:
                is_over = True
            except WorkerDied as error:
                told = f"study: {job.row.name}, seed {job.seed}: {error}; the same command goes on"
                raise RunError(told) from error
            else:
                if isinstance(found, Line):
                    yield found
        if is_over:
            raise OutOfTime

    def stop(self) -> None:
        """End all, whatever they are at, and take away what they left half done."""
        with unbroken():
            for pid in self._processes.stop():
                for path in self._book.folder.glob(f"*/.*{pid}*"):
                    path.unlink(missing_ok=True)

    def _ask(self, request: "_Request") -> "Future[Answer]":
        return self._processes.submit(self._processes.ask, request)
