"""The side of a process that answers: requests come on stdin, answers go to stdout, both pickled, behind their length.

It ends as soon as its stdin does, so it outlives nobody. Who asks is in processes.py.
"""

import logging
import os
import pickle
import queue
import signal
import struct
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, BinaryIO, Protocol

Tell = Callable[[str], None]
TOLD = ("flexor_search.workloads", "flexor_search.training.trainer")
"""Loggers whose information is of interest to who watches; of the others only warnings are."""
_LENGTH = struct.Struct(">Q")


class ProcessSetup(Protocol):
    """What a process needs once; pickled."""

    @property
    def threads(self) -> int:
        """Of OpenMP."""
        ...

    def ready(self, tell: Tell) -> Callable[[Any], Any]:
        """In the process: get ready; returns what answers a request."""
        ...

    def forsaken(self) -> None:
        """In the process: the one that asks is gone; tidy up what it cannot any more."""
        ...


@dataclass(frozen=True)
class Told:
    """Something worth a line, on the way to an answer."""

    text: str


def serve() -> None:
    """In a process: answer until stdin ends; what is logged there is told.

    A SIGTERM that reaches all processes of a job is for the one that asks, which ends in order.
    """
    signal.signal(signal.SIGTERM, lambda *_: None)
    os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))  # theirs end by it
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a model prints must not mix with the answers
    requests: queue.SimpleQueue[Any] = queue.SimpleQueue()

    turn = threading.Lock()  # what is logged may come from any thread

    def say(found: Any) -> None:
        with turn:
            _write(answers, found)

    def tell(text: str) -> None:
        say(Told(text))

    logging.getLogger("flexor_search").addHandler(_ToldLines(tell))
    for name in TOLD:
        logging.getLogger(name).setLevel(logging.INFO)
    try:
        setup: ProcessSetup = pickle.loads(read_frame(sys.stdin.buffer) or b"")
        threading.Thread(target=_read, args=(sys.stdin.buffer, requests, setup), daemon=True).start()
        answer = setup.ready(tell)
    except BaseException as error:  # the user's own module runs here
        say(error)
        return
    say("ready")
    while True:
        request = requests.get()
        try:
            if isinstance(request, BaseException):
                raise request
            found: Any = answer(request)
        except BaseException as error:
            found = error
        say(found)


class _ToldLines(logging.Handler):
    """What is logged in a process is told by the one that asks."""

    def __init__(self, tell: Tell) -> None:
        super().__init__()
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        self._tell(record.getMessage())


def _read(stream: BinaryIO, requests: "queue.SimpleQueue[Any]", setup: ProcessSetup) -> None:
    while (content := read_frame(stream)) is not None:
        try:
            requests.put(pickle.loads(content))
        except BaseException as error:  # something in it cannot be imported here
            requests.put(error)
    try:  # nobody is there to answer to
        setup.forsaken()
    finally:
        os._exit(0)


def _write(stream: BinaryIO, found: Any) -> None:
    try:
        content = pickle.dumps(found)
        if isinstance(found, BaseException):
            pickle.loads(content)  # some can be packed and not unpacked
    except Exception:
        content = pickle.dumps(RuntimeError(f"{type(found).__name__}: {found}"))
    write_frame(stream, content)


def write_frame(stream: IO[bytes], content: bytes) -> None:
    """Write a request or an answer behind its length."""
    stream.write(_LENGTH.pack(len(content)) + content)
    stream.flush()


def read_frame(stream: IO[bytes]) -> bytes | None:
    """The next one; None at the end, also in the middle of one."""
    try:
        head = stream.read(_LENGTH.size)
        content = stream.read(_LENGTH.unpack(head)[0]) if len(head) == _LENGTH.size else b""
    except (OSError, ValueError):  # it was closed
        return None
    return content if len(head) == _LENGTH.size and len(content) == _LENGTH.unpack(head)[0] else None
