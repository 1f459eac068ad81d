"""Trains rows of a study, each with a seed; what they come to is lines of its book."""

import math
import time
from collections.abc import Callable, Sequence
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
        build: makes the plain model.
        book: whose folder the weights go to; its lines are for the caller to add.
        about: workload and data, which tell the teachers of a study apart.
        data: training and validation splits are used.
        recipe: with nothing left open.
        device: where.
        deadline: looked at after each epoch.
        tell: is told of progress.
    """

    build: Callable[[], nn.Module]
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
        teachers: dict[int, nn.Module | TrainingError | None] = {}
        for job in jobs:
            if job.is_taught and job.seed not in teachers:
                try:
                    teachers[job.seed] = self.teach(job)
                except TrainingError as error:  # who has that teacher fails, and nobody else
                    teachers[job.seed] = error
        lines, left, own = [], [], []
        for job in jobs:
            teacher = teachers[job.seed] if job.is_taught else None
            if isinstance(teacher, TrainingError):
                lines.append(self.failed(job, teacher))
            else:
                left.append(job)
                own.append(teacher)
        places = [self.book.unfinished_path(job.key) for job in left]
        every = self.deadline.checkpoint_seconds
        models = [job.fresh(self.recipe, teacher) for job, teacher in zip(left, own, strict=True)]
        results = train_together(
            *(models, self.data, self.recipe),
            seeds=[job.seed for job in left],
            device=self.device,
            on_epoch=[self.deadline.watch] * len(left),
            checkpoints=[Checkpoint(place, every, [place.stem], self.tell) for place in places],
            teachers=own,
        )
        return [*lines, *(self._line(*trained) for trained in zip(left, models, results, strict=True))]

    def teach(self, job: Job) -> nn.Module | None:
        """The teacher of a job that is taught, trained if it was not before.

        Raises:
            TrainingError: its loss is not a finite number.
        """
        self.deadline.check()
        folder, every = self.book.unfinished_path("").parent, self.deadline.checkpoint_seconds
        teachers = Teachers(self.build, folder, self.about, every, self.deadline.watch, tell=self.tell)
        return teachers.of(self.data, self.recipe, job.seed, self.device)

    def failed(self, job: Job, error: TrainingError) -> Line:
        """The line of a training that failed."""
        return self._line_of(job, Score(math.nan, math.nan), FAILED, reason=" ".join(str(error).split()))

    def _line(self, job: Job, model: nn.Module, result: TrainResult | TrainingError) -> Line:
        if isinstance(result, TrainingError):
            return self.failed(job, result)
        score = evaluate(model, self.data.validation, device=self.device)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        write_atomically(self.book.trained_path(job.key), save(tensors))
        return self._line_of(job, score, DONE, result.epochs, result.train_seconds)

    def _line_of(
        self, job: Job, score: Score, state: str, epochs: int = 0, seconds: float = 0.0, reason: str = ""
    ) -> Line:
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
