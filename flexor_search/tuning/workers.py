"""A team of processes, one trial each on one thread: on a CPU small trainings gain little from more threads."""

import pickle
import tempfile
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path

from flexor_search.errors import RunError
from flexor_search.interrupts import unbroken
from flexor_search.planning import Allocation
from flexor_search.processes import Processes, WorkerDied
from flexor_search.runs import Measurement
from flexor_search.serving import ProcessSetup
from flexor_search.tuning.measurer import Measurer
from flexor_search.tuning.trial import Trial
from flexor_search.tuning.worker import Attempt, Probe, Setup, save_data
from flexor_search.workloads import Data
from flexor_search.workloads.own import first_line


class DataProcesses(Processes):
    """Processes that map the same file of images into memory.

    Args:
        setup_of: what each needs, given the path of that file.
        data: its training and validation splits.
        count, tell: as of `Processes`.

    Raises:
        RunError: something cannot be sent to another process; says why.
    """

    def __init__(
        self, setup_of: Callable[[str], ProcessSetup], data: Data, count: int, tell: Callable[[str], None]
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="flexor-search-")
        try:
            path = Path(self._folder.name) / "data.pt"
            save_data(data, path)
            super().__init__(setup_of(str(path)), count, tell)
        except BaseException as error:
            self._folder.cleanup()
            if isinstance(error, Exception):
                reason = first_line(error)
                raise RunError(f"model and data cannot be sent to other processes: {reason}") from error
            raise

    def stop(self) -> list[int]:
        """End all, and take the file away."""
        with unbroken():
            stopped = super().stop()
            self._folder.cleanup()
        return stopped


class Workers:
    """Processes that train; a context that leaves none behind.

    Args:
        measurer: of the run.
        count: how many.
        threads: of each.

    Raises:
        RunError: model or data cannot be sent to another process; says why.
    """

    def __init__(self, measurer: Measurer, count: int, threads: int = 1) -> None:
        self._measurer, self.width = measurer, count + 1  # one waits for whoever is free first

        def setup_of(path: str) -> Setup:
            build, folder = pickle.dumps(measurer.build), str(measurer.run.folder.resolve())
            return Setup(
                *(folder, build, measurer.recipe, measurer.model_name, threads, path, measurer.checkpoint_seconds),
                measurer.own,
            )

        self._processes = DataProcesses(setup_of, measurer.data, count, measurer.tell)

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def count(self) -> int:
        """How many they are."""
        return self._processes.count

    def submit(self, trial: Trial, number: int) -> "_Future":
        """Train a trial in the first process that is free."""
        return _Future(self._processes.submit(self._attempt, trial, number))

    def seconds_per_image(self, allocation: Allocation) -> float:
        """Time that the team takes for an image when all of it is at work."""
        futures = [self._processes.submit(self._processes.ask, Probe(allocation)) for _ in range(self.count)]
        return max(future.result().found for future in futures) / len(futures)

    def stop(self) -> None:
        """End all processes, whatever they are at, and take away what they left half done."""
        with unbroken():
            for pid in self._processes.stop():
                for path in self._measurer.run.folder.glob(f"trained/.*{pid}*"):
                    path.unlink(missing_ok=True)

    def _attempt(self, trial: Trial, number: int) -> Measurement:
        try:
            answer = self._processes.ask(Attempt(trial, number))
        except WorkerDied as error:
            return self._measurer.failed(trial, number, str(error))
        return replace(answer.found, worker=answer.worker)


@dataclass(frozen=True)
class _Future:
    future: "Future[Measurement]"

    def result(self) -> Measurement:
        """Wait for it."""
        return self.future.result()

    def finished(self) -> Measurement | None:
        """What it came to; None if it has not ended, or not well."""
        if not self.future.done() or self.future.cancelled() or self.future.exception() is not None:
            return None
        return self.future.result()
