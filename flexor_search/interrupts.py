"""Ctrl+C and SIGTERM: once ends at the next safe point, twice at once.

A safe point is anywhere but in the middle of what is `unbroken`: there a signal waits until the block has ended. Both
signals raise KeyboardInterrupt; who catches it packs and reports what was found, and a second one cuts that short.
Every file is written whole or not at all, so even that leaves the folder intact.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class _State:
    depth = 0
    waiting = False


def interrupt(_number: int = 0, _frame: FrameType | None = None) -> None:
    """The handler of both signals: raise KeyboardInterrupt, now or at the end of what is unbroken."""
    if _State.depth:
        _State.waiting = True
    else:
        raise KeyboardInterrupt


@contextmanager
def unbroken() -> Iterator[None]:
    """A block of little work that signals wait for: what is done in it is done whole.

    Signals reach the main thread alone; in another one, and where `interrupt` handles none, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _State.depth += 1
    try:
        yield
    finally:
        _State.depth -= 1
        if _State.waiting and not _State.depth:
            _State.waiting = False
            raise KeyboardInterrupt


@contextmanager
def orderly() -> Iterator[None]:
    """Within, Ctrl+C waits for what is unbroken; a handler that somebody else has set is left alone."""
    is_ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if not is_ours:
        yield
        return
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
