"""Processes that do what this one asks of them; serving.py is their side.

Not multiprocessing: that runs the caller's main module again, which a notebook or a script without a guard does not
bear, and its children outlive a parent that is killed.
"""

import os
import pickle
import queue
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any, ParamSpec, TypeVar

from flexor_search.interrupts import unbroken
from flexor_search.serving import ProcessSetup, Tell, Told, read_frame, write_frame

P = ParamSpec("P")
T = TypeVar("T")


class WorkerDied(Exception):
    """A process ended; says how."""


@dataclass(frozen=True)
class Answer:
    """What a request came to, and the name of the process that answered."""

    found: Any
    worker: str


class Processes:
    """Processes of equal setup, named "1", "2", ...; a request goes to the first that is free.

    Args:
        setup: what each needs.
        count: how many.
        tell: is told what they have to say.

    Raises:
        Exception: whatever `setup.ready` raises in a process.
    """

    def __init__(self, setup: ProcessSetup, count: int, tell: Tell) -> None:
        self._setup, self._tell, self.count = setup, tell, count
        self._stopped = False
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="worker")
        self._idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        self._processes: list[_Process] = []
        self._ended: list[int] = []
        try:
            for number in range(1, count + 1):
                self._processes.append(_Process(setup, str(number)))
            for process in self._processes:
                process.wait_until_ready(tell)
                self._idle.put(process)
        except BaseException:
            self.stop()
            raise

    @property
    def pids(self) -> list[int]:
        """Ids of all that there have been."""
        return [*self._ended, *(process.pid for process in self._processes)]

    def submit(self, function: "Callable[P, T]", *args: P.args, **more: P.kwargs) -> "Future[T]":
        """Call a function, which asks, in a thread; as many are called at a time as there are processes."""
        return self._pool.submit(function, *args, **more)

    def ask(self, request: Any) -> Answer:
        """Ask the first that is free, and wait for its answer; one that has ended is begun anew.

        Raises:
            WorkerDied: it ended.
            CancelledError: all were stopped.
            Exception: whatever answering raised.
        """
        process = self._idle.get()
        try:
            if process.has_ended:
                process = self._begin_anew(process)
            return Answer(process.ask(request, self._tell), process.name)
        except WorkerDied:
            if self._stopped:
                raise CancelledError from None
            raise
        finally:
            self._idle.put(process)

    def stop(self) -> list[int]:
        """End all, whatever they are at; requests that wait are cancelled. Returns the ids of all there have been."""
        self._stopped = True
        with unbroken():
            for process in self._processes:
                process.kill()
            self._pool.shutdown(wait=True, cancel_futures=True)
            for process in self._processes:
                process.close()
        return self.pids

    def _begin_anew(self, ended: "_Process") -> "_Process":
        if self._stopped:
            raise CancelledError
        process = _Process(self._setup, ended.name)
        self._ended.append(ended.pid)
        ended.close()
        self._processes[self._processes.index(ended)] = process
        if self._stopped:
            process.kill()
        process.wait_until_ready(self._tell)
        return process


class _Process:
    """One process, in a session of its own: Ctrl+C reaches only the one that can end in order.

    Args:
        setup: what it needs.
        name: one that takes its place has the same.
    """

    def __init__(self, setup: ProcessSetup, name: str) -> None:
        self.name = name
        start = f"import sys; sys.path[:] = {sys.path!r}; from flexor_search.serving import serve; serve()"
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

    @property
    def has_ended(self) -> bool:
        """Whether it is no more."""
        return self._process.poll() is not None

    def wait_until_ready(self, tell: Tell) -> None:
        """Until its setup is done; raises what went wrong."""
        self._answer(tell)

    def ask(self, request: Any, tell: Tell) -> Any:
        """Send a request and wait for its answer; passes on what it tells meanwhile, raises what went wrong there."""
        self._send(request)
        return self._answer(tell)

    def _answer(self, tell: Tell) -> Any:
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
        content = pickle.dumps(request)
        try:
            write_frame(self._process.stdin, content)
        except (OSError, ValueError):
            raise WorkerDied(self._end()) from None

    def _receive(self) -> Any:
        assert self._process.stdout is not None
        content = read_frame(self._process.stdout)
        if content is None:
            raise WorkerDied(self._end())
        found = pickle.loads(content)
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
