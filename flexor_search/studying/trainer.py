"""Trains rows of a study, each with a seed; what they come to is lines of its book."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from safetensors.torch import save
from torch import nn

from flexor_search.errors import TrainingError
from flexor_search.files import write_atomically
from flexor_search.planning import Allocation, Recipe
from flexor_search.quantization import flexor_weights
from flexor_search.studying.asked import OutOfTime
from flexor_search.studying.book import DONE, FAILED, Book, Line
from flexor_search.studying.rows import Row
from flexor_search.training import (
    CHECKPOINT_SECONDS,
    Checkpoint,
    Score,
    Teachers,
    TrainResult,
    Watch,
    evaluate,
    fresh_model,
    train_together,
)
from flexor_search.workloads import Data


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        row: what is trained.
        seed: of first values, order of images and, where the row says none, codes.
        allocation: of the row for that seed.
        key: of everything that it depends on.
    """

    row: Row
    seed: int
    allocation: Allocation
    key: str

    @property
    def is_taught(self) -> bool:
        """Whether its recipe wants a teacher for it."""
        return self.row.task.recipe.has_teacher and not self.row.table.full_precision

    def fresh(self, recipe: Recipe, teacher: nn.Module | None = None) -> nn.Module:
        """The model as its training begins."""
        model = fresh_model(self.row.task.build, self.allocation, recipe, self.seed, teacher)
        for weight in flexor_weights(model).values():
            weight.slice_order = self.row.table.slice_order
        return model


@dataclass(frozen=True)
class Deadline:
    """When a call of the command ends; the clock is the same in all processes of a machine.

    Attributes:
        seconds: that the call was given; infinite: no limit.
        ends: by the monotonic clock.
    """

    seconds: float
    ends: float

    @classmethod
    def after(cls, seconds: float) -> "Deadline":
        """So long from now; 0: never."""
        seconds = seconds or math.inf
        return cls(seconds, time.monotonic() + seconds)

    def check(self) -> None:
        """Raise OutOfTime if it is over."""
        if time.monotonic() > self.ends:
            raise OutOfTime

    @property
    def watch(self) -> Watch | None:
        """Checks after each epoch of a training."""
        return None if math.isinf(self.ends) else self._after_epoch

    @property
    def checkpoint_seconds(self) -> float:
        """Between two checkpoints; a call that is shorter than a training has to get on with it, too."""
        return min(CHECKPOINT_SECONDS, self.seconds / 4)

    def _after_epoch(self, _epoch: int, _score: Score) -> bool:
        self.check()
        return False


@dataclass(frozen=True)
class Trainer:
    """Trains jobs of one workload by one recipe.

    Attributes:
        book: whose folder the weights go to; its lines are for the caller to add.
        about: workload and data, which tell the teachers of a study apart.
        data: training and validation splits are used.
        recipe: with nothing left open.
        device: where.
        deadline: looked at after each epoch.
        tell: is told of progress.
    """

    book: Book
    about: Any
    data: Data
    recipe: Recipe
    device: str
    deadline: Deadline
    tell: Callable[[str], None]

    def train(self, jobs: Sequence[Job]) -> list[Line]:
        """Train jobs side by side; their weights are on disk when it returns.

        Raises:
            OutOfTime: the time is over; what is under way goes on from its checkpoint.
        """
        self.deadline.check()
        taught = {job.seed: job for job in jobs if job.is_taught}
        try:
            by_seed = {seed: self._teacher(job) for seed, job in taught.items()}
        except TrainingError as error:
            if len(jobs) > 1:  # who has that teacher fails alone
                return [line for job in jobs for line in self.train([job])]
            return [self._line(jobs[0], jobs[0].fresh(self.recipe), error)]
        teachers = [by_seed[job.seed] if job.is_taught else None for job in jobs]
        models = [job.fresh(self.recipe, teacher) for job, teacher in zip(jobs, teachers, strict=True)]
        every = self.deadline.checkpoint_seconds
        results = train_together(
            *(models, self.data, self.recipe),
            seeds=[job.seed for job in jobs],
            device=self.device,
            on_epoch=[self.deadline.watch] * len(jobs),
            checkpoints=[Checkpoint(self.book.unfinished_path(job.key), every, [job.key], self.tell) for job in jobs],
            teachers=teachers,
        )
        return [self._line(*trained) for trained in zip(jobs, models, results, strict=True)]

    def teach(self, job: Job) -> None:
        """Train the teacher of a job that is taught, so that it is there; one that fails will fail the job."""
        self.deadline.check()
        with suppress(TrainingError):
            self._teacher(job)

    def _teacher(self, job: Job) -> nn.Module | None:
        folder = self.book.unfinished_path("").parent
        deadline = self.deadline
        teachers = Teachers(
            job.row.task.build, folder, self.about, deadline.checkpoint_seconds, deadline.watch, self.tell
        )
        return teachers.of(self.data, self.recipe, job.seed, self.device)

    def _line(self, job: Job, model: nn.Module, result: TrainResult | TrainingError) -> Line:
        score, state, reason = Score(math.nan, math.nan), DONE, ""
        if isinstance(result, TrainingError):
            state, reason, epochs, seconds = FAILED, " ".join(str(result).split()), 0, 0.0
        else:
            epochs, seconds = result.epochs, result.train_seconds
            score = evaluate(as_shipped(model), self.data.validation, device=self.device)
            tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
            write_atomically(self.book.trained_path(job.key), save(tensors))
        allocation = job.allocation
        return Line(
            key=job.key,
            row=job.row.name,
            seed=job.seed,
            label=allocation.label,
            bits_per_weight=allocation.bits_per_weight,
            nominal_bits_per_weight=round(allocation.nominal_bits_per_weight, 4),
            epochs=epochs,
            images=len(self.data.train),
            state=state,
            val_accuracy=round(score.accuracy, 6),
            val_loss=round(score.loss, 6),
            train_seconds=round(seconds, 1),
            device=self.device,
            reason=reason,
        )


def as_shipped(model: nn.Module) -> nn.Module:
    """The model with the weights that its stored bits decode to, whatever it was trained with."""
    for weight in flexor_weights(model).values():
        weight.surrogate = "flexor"
    return model
