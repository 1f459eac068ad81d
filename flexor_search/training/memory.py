"""What is done where the memory of a device or of the processor does not last."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")

_NO_MEMORY = "can't allocate memory"
"""What torch's RuntimeError says where a processor's memory does not last."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory of a device or of the processor does not last."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and _NO_MEMORY in str(error)
    )


def in_halves(work: Callable[[Sequence[T]], list[R]], items: Sequence[T]) -> list[R]:
    """Do a work on items at a time, and on half of them at a time where memory does not last.

    Raises:
        MemoryError, torch.OutOfMemoryError: it does not last for one.
    """
    try:
        return work(items)
    except (MemoryError, torch.OutOfMemoryError):
        if len(items) == 1:
            raise
    half = (len(items) + 1) // 2  # out of the handler: its error would hold on to what the device is short of
    return [*in_halves(work, items[:half]), *in_halves(work, items[half:])]
