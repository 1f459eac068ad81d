"""A team of processes, one trial each on one thread: on a CPU small trainings gain little from more threads."""

import os
import pickle
import queue
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from flexor_search.errors import RunError
from flexor_search.interrupts import unbroken
from flexor_search.planning import Allocation
from flexor_search.runs import Measurement
from flexor_search.tuning.measurer import Measurer
from flexor_search.tuning.trial import Trial
from flexor_search.tuning.worker import Attempt, Probe, Setup, Told, save_data
from flexor_search.workloads.own import first_line


class WorkerDied(Exception):
    """A worker's process ended; says how."""


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
        self._measurer, self.count, self.width = measurer, count, count + 1  # one waits for whoever is free first
        self._stopped = False
        self._folder = tempfile.TemporaryDirectory(prefix="flexor-search-")
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="worker")
        self._idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        self._processes: list[_Process] = []
        try:
            path = Path(self._folder.name) / "data.pt"
            save_data(measurer.data, path)
            build = pickle.dumps(measurer.build)
            folder = str(measurer.run.folder.resolve())
            self._setup = Setup(
                *(folder, build, measurer.recipe, measurer.model_name, threads, str(path), measurer.checkpoint_seconds),
                measurer.own,
            )
            self._processes = [_Process(self._setup, str(number)) for number in range(1, count + 1)]
            for process in self._processes:
                process.wait_until_ready()
                self._idle.put(process)
        except BaseException as error:
            self.stop()
            if isinstance(error, Exception):
                reason = first_line(error)
                raise RunError(f"model and data cannot be sent to other processes: {reason}") from error
            raise

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def submit(self, trial: Trial, number: int) -> "_Future":
        """Train a trial in the first process that is free."""
        return _Future(self._pool.submit(self._attempt, trial, number))

    def seconds_per_image(self, allocation: Allocation) -> float:
        """Time that the team takes for an image when all of it is at work."""
        futures = [self._pool.submit(self._ask, Probe(allocation)) for _ in range(self.count)]
        return max(future.result() for future in futures) / self.count

    def stop(self) -> None:
        """End all processes, whatever they are at, and take away what they left half done."""
        self._stopped = True
        with unbroken():
            for process in self._processes:
                process.kill()
            self._pool.shutdown(wait=True, cancel_futures=True)
            for process in self._processes:
                process.close()
                for path in self._measurer.run.folder.glob(f"trained/.*{process.pid}*"):
                    path.unlink(missing_ok=True)
            self._folder.cleanup()

    def _attempt(self, trial: Trial, number: int) -> Measurement:
        try:
            return self._ask(Attempt(trial, number))
        except WorkerDied as error:
            return self._measurer.failed(trial, number, str(error))

    def _ask(self, request: Attempt | Probe) -> Any:
        process = self._idle.get()
        try:
            found = process.ask(request, self._measurer.tell)
            return replace(found, worker=process.name) if isinstance(found, Measurement) else found
        except WorkerDied:
            if self._stopped:
                raise CancelledError from None
            self._processes.remove(process)
            process.close()
            process = _Process(self._setup, process.name)
            self._processes.append(process)
            if self._stopped:
                process.kill()
            process.wait_until_ready()
            raise
        finally:
            self._idle.put(process)


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


class _Process:
    """One worker, in a session of its own: Ctrl+C reaches only the process that can end in order.

    Args:
        setup: what it needs.
        name: under which its measurements stand in the run; one that takes its place has the same.
    """

    def __init__(self, setup: Setup, name: str) -> None:
        self.name = name
        start = f"import sys; sys.path[:] = {sys.path!r}; from flexor_search.tuning.worker import main; main()"
        environment = os.environ | {"OMP_NUM_THREADS": str(setup.threads), "OMP_WAIT_POLICY": "PASSIVE"}
        self._told: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # closed by close()
        self._process = subprocess.Popen(
            [sys.executable, "-c", start],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._told,
            env=environment,
            start_new_session=True,
        )
        self.pid = self._process.pid
        self._send(setup)

    def wait_until_ready(self) -> None:
        """Until it has unpacked model and data; raises what went wrong."""
        self._receive()

    def ask(self, request: Attempt | Probe, tell: Callable[[str], None]) -> Any:
        """Send a request and wait for its answer; passes on what it tells meanwhile, raises what went wrong there."""
        self._send(request)
        while isinstance(found := self._receive(), Told):
            tell(found.text)
        return found

    def kill(self) -> None:
        """End it now; who waits for its answer is told."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Let go of its files, once nobody waits for it any more."""
        for file in (self._process.stdin, self._process.stdout, self._told):
            with suppress(OSError):  # what it was to be told goes nowhere
                if file is not None:
                    file.close()

    def _send(self, request: Any) -> None:
        assert self._process.stdin is not None
        try:
            pickle.dump(request, self._process.stdin)
            self._process.stdin.flush()
        except (OSError, ValueError):
            raise WorkerDied(self._end()) from None

    def _receive(self) -> Any:
        assert self._process.stdout is not None
        try:
            found = pickle.load(self._process.stdout)
        except (EOFError, OSError, ValueError, pickle.UnpicklingError):
            raise WorkerDied(self._end()) from None
        if isinstance(found, BaseException):
            raise found
        return found

    def _end(self) -> str:
        """How it ended, and the last line that it said."""
        code = self._process.wait()
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        self._told.seek(0)
        lines = self._told.read().decode(errors="replace").strip().splitlines()
        return f"its process ended {how}" + (f": {lines[-1]}" if lines else "")
