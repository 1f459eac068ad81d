"""What a process of a search does: trains trials, and times training."""

import pickle
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import nn

from flexor_search.planning import Allocation, Recipe
from flexor_search.runs import Measurement, Run
from flexor_search.tuning.measurer import Measurer
from flexor_search.tuning.time_plan import seconds_per_image
from flexor_search.tuning.trial import Trial
from flexor_search.workloads import NO_OWN, Data, FileSplit, Own, Split


@dataclass(frozen=True)
class Setup:
    """What a worker needs once; a `ProcessSetup`.

    Attributes:
        folder: of the run.
        build: makes the model, pickled; what it needs is imported when it is unpacked.
        recipe, model_name, own, threads: as of the measurer, and processor threads.
        data: file of the training and validation splits.
        checkpoint_seconds: as of the measurer.
    """

    folder: str
    build: bytes
    recipe: Recipe
    model_name: str
    threads: int
    data: str
    checkpoint_seconds: float
    own: Own = NO_OWN

    def ready(self, tell: Callable[[str], None]) -> Callable[["Attempt | Probe"], Measurement | float]:
        """Unpack model and data."""
        torch.set_num_threads(self.threads)
        build = pickle.loads(self.build)
        assert isinstance(build(), nn.Module)
        run, data = Run.open(self.folder), load_data(self.data)
        every = self.checkpoint_seconds
        measurer = Measurer(
            *(run, build, data, self.recipe, self.model_name, "cpu"),
            checkpoint_seconds=every,
            tell=tell,
            own=self.own,
        )
        return lambda request: answer(measurer, request)

    def forsaken(self) -> None:
        """Take the data away."""
        remove_data(self.data)


@dataclass(frozen=True)
class Attempt:
    """A request: train a trial under a number."""

    trial: Trial
    number: int


@dataclass(frozen=True)
class Probe:
    """A request: how long does training take for one image?"""

    allocation: Allocation


def save_data(data: Data, path: Path | BinaryIO) -> None:
    """Write what workers read: the training and validation splits, and not the test split."""
    torch.save([vars(split) for split in (data.train, data.validation)], path)


def load_data(path: str) -> Data:
    """The same, mapped into memory: workers share it."""
    train, validation = (
        (FileSplit if "names" in fields else Split)(**fields)
        for fields in torch.load(path, mmap=True, weights_only=True)
    )
    return Data(train, validation, validation)  # no worker has a use for the test split


def remove_data(path: str) -> None:
    """Delete that file and its folder, which holds nothing else, if nobody else did."""
    with suppress(OSError):
        Path(path).unlink(missing_ok=True)
        Path(path).parent.rmdir()


def answer(measurer: Measurer, request: Attempt | Probe) -> Measurement | float:
    """Do what is asked."""
    if isinstance(request, Probe):
        return seconds_per_image(*measurer.training, request.allocation, measurer.own)
    return measurer.attempt(request.trial, request.number)
