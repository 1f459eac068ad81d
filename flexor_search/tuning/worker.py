"""A process that trains trials for another one: requests come on stdin, answers go to stdout, both pickled.

Not multiprocessing: that runs the caller's main module again, which a notebook or a script without a guard does not
bear, and its children outlive a parent that is killed. This one ends as soon as its stdin does.
"""

import os
import pickle
import queue
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

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
    """What a worker needs once.

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


@dataclass(frozen=True)
class Attempt:
    """A request: train a trial under a number."""

    trial: Trial
    number: int


@dataclass(frozen=True)
class Told:
    """Something worth a line, on the way to an answer."""

    text: str


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


def answer(measurer: Measurer, request: Attempt | Probe) -> Measurement | float:
    """Do what is asked."""
    if isinstance(request, Probe):
        return seconds_per_image(*measurer.training, request.allocation, measurer.own)
    return measurer.attempt(request.trial, request.number)


def main() -> None:
    """Serve until stdin ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a model prints must not mix with the answers
    requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
    setup: Setup = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_read, args=(sys.stdin.buffer, requests, Path(setup.data)), daemon=True).start()

    def tell(text: str) -> None:
        _write(answers, Told(text))

    try:
        torch.set_num_threads(setup.threads)
        build = pickle.loads(setup.build)
        assert isinstance(build(), nn.Module)
        run, data = Run.open(setup.folder), load_data(setup.data)
        every = setup.checkpoint_seconds
        measurer = Measurer(
            *(run, build, data, setup.recipe, setup.model_name, "cpu"),
            checkpoint_seconds=every,
            tell=tell,
            own=setup.own,
        )
    except BaseException as error:  # the user's own module runs here
        _write(answers, error)
        return
    _write(answers, "ready")
    while True:
        request = requests.get()
        try:
            found: Any = answer(measurer, request)
        except BaseException as error:
            found = error
        _write(answers, found)


def _read(stream: BinaryIO, requests: "queue.SimpleQueue[Any]", data: Path) -> None:
    while True:
        try:
            requests.put(pickle.load(stream))
        except BaseException:  # the end: nobody is there to answer to, nor to take the data away
            with suppress(OSError):
                data.unlink(missing_ok=True)
                data.parent.rmdir()
            os._exit(0)


def _write(stream: BinaryIO, found: Any) -> None:
    try:
        content = pickle.dumps(found)
        if isinstance(found, BaseException):
            pickle.loads(content)  # some can be packed and not unpacked
    except Exception:
        content = pickle.dumps(RuntimeError(f"{type(found).__name__}: {found}"))
    stream.write(content)
    stream.flush()
