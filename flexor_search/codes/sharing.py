"""Sharing one piece of work among threads, on a machine that others use too."""

import itertools
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

LINE_BYTES = 64
PIECES_PER_THREAD = 4  # a thread without a processor leaves its pieces to the others; long ones stream best


def n_processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share(work: Callable[[int, int], object], size: int, n_threads: int, *, multiple: int = LINE_BYTES) -> None:
    """Call work(start, stop) on pieces that cover 0 .. size, on up to n_threads threads; done when it returns.

    The calling thread works too, and what has not begun when no piece is left is called off: nobody waits for a thread
    that does not get a processor.

    Args:
        work: must release the interpreter's lock to gain anything; called from several threads at once.
        size: in any unit.
        n_threads: at least 1.
        multiple: pieces start at multiples of it, in the same unit.
    """
    if n_threads == 1:
        work(0, size)
        return
    n_pieces = PIECES_PER_THREAD * n_threads
    cuts = [size * piece // n_pieces // multiple * multiple for piece in range(n_pieces)] + [size]
    pieces = deque(cut for cut in itertools.pairwise(cuts) if cut[0] < cut[1])

    def take_pieces() -> None:
        while True:
            try:
                start, stop = pieces.popleft()
            except IndexError:
                return
            work(start, stop)

    helpers = [_pool(n_threads - 1).submit(take_pieces) for _ in range(n_threads - 1)]
    take_pieces()
    for helper in helpers:
        if not helper.cancel():
            helper.result()


@lru_cache(maxsize=8)
def _pool(n_helpers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n_helpers, thread_name_prefix="decode")


if hasattr(os, "register_at_fork"):  # the pool's threads do not live on in a forked process, its queue would only grow
    os.register_at_fork(after_in_child=_pool.cache_clear)
