"""Processes that train jobs of a study, each on one thread: on a CPU small trainings gain little from more threads."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flexor_search.errors import RunError, TrainingError
from flexor_search.interrupts import unbroken
from flexor_search.planning import Allocation, Recipe
from flexor_search.processes import Answer, WorkerDied
from flexor_search.studying.asked import OutOfTime
from flexor_search.studying.book import Book, Line
from flexor_search.studying.trainer import Deadline, Job, Trainer
from flexor_search.training import is_out_of_memory
from flexor_search.tuning import DataProcesses, load_data, remove_data, seconds_per_image
from flexor_search.workloads.own import first_line


@dataclass(frozen=True)
class _Setup:
    """What a process needs once; a `ProcessSetup`. Everything as of the trainer."""

    build: Callable[[], nn.Module]
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
        trainer = Trainer(self.build, book, self.about, data, self.recipe, "cpu", self.deadline, tell)
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
    allocation: Allocation

    def answer(self, trainer: Trainer) -> float:
        return seconds_per_image(trainer.build, trainer.data, trainer.recipe, trainer.device, self.allocation)


_Request = _Train | _Teach | _Probe


class Crew:
    """Processes that train what a trainer would; a context that leaves none behind.

    Args:
        trainer: whose jobs they train.
        count: how many.

    Raises:
        RunError: something cannot be sent to another process; says why.
    """

    def __init__(self, trainer: Trainer, count: int) -> None:
        self._trainer = trainer
        folder = str(trainer.book.folder.resolve())
        self._processes = DataProcesses(
            lambda path: _Setup(trainer.build, folder, trainer.about, path, trainer.recipe, trainer.deadline),
            *(trainer.data, count, trainer.tell),
        )

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def seconds_per_image(self, allocation: Allocation) -> float:
        """Time that they take for an image of a training when all are at work."""
        futures = [self._ask(_Probe(allocation)) for _ in range(self._processes.count)]
        return max(future.result().found for future in futures) / len(futures)

    def train(self, jobs: Sequence[Job]) -> Iterator[Line]:
        """Train jobs; their lines as they end.

        Who is taught begins when the teacher is there: two that have the same one would wait for each other.

        Raises:
            OutOfTime: after whatever was under way has ended or was left at an epoch.
            RunError: a process died, or the memory does not last for so many.
        """
        is_over = False
        pupils: dict[int, list[Job]] = {}
        for job in jobs:
            if job.is_taught:
                pupils.setdefault(job.seed, []).append(job)
        teachers = [_Teach(some[0]) for some in pupils.values()]
        first, later = teachers[: self._processes.count], teachers[self._processes.count :]
        begun: dict[Future[Answer], _Train | _Teach] = {}

        def begin(*requests: _Train | _Teach) -> None:
            begun.update({self._ask(request): request for request in requests})

        begin(*first, *(_Train(job) for job in jobs if not job.is_taught))
        while begun:
            for future in wait(begun, return_when=FIRST_COMPLETED).done:
                request = begun.pop(future)
                try:
                    found = self._result(future, request.job)
                except OutOfTime:
                    is_over = True
                except TrainingError as error:  # of a teacher
                    for job in pupils[request.job.seed]:
                        yield self._trainer.failed(job, error)
                else:
                    if isinstance(request, _Train):
                        yield found
                    else:
                        begin(*(_Train(job) for job in pupils[request.job.seed]))
                if isinstance(request, _Teach) and later:
                    begin(later.pop(0))
        if is_over:
            raise OutOfTime

    def _result(self, future: "Future[Answer]", job: Job) -> Any:
        try:
            return future.result().found
        except (WorkerDied, MemoryError, RuntimeError) as error:
            if not isinstance(error, WorkerDied) and not is_out_of_memory(error):
                raise
            told = "the same command goes on, with less memory if --jobs is less"
            raise RunError(f"study: {job.row.name}, seed {job.seed}: {first_line(error)}; {told}") from error

    def stop(self) -> None:
        """End all, whatever they are at, and take away what they left half done."""
        with unbroken():
            for pid in self._processes.stop():
                for part in ("trained", "unfinished"):
                    for path in (self._trainer.book.folder / part).glob(f".*.{pid}.tmp"):
                        path.unlink(missing_ok=True)

    def _ask(self, request: "_Request") -> "Future[Answer]":
        return self._processes.submit(self._processes.ask, request)
