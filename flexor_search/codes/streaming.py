"""Writing past the caches, for outputs larger than they are, and how loops are compiled.

A plain store to memory that is not cached reads the line first, only to overwrite it; half of the traffic of a decode
would be such reads. Non-temporal stores leave them out. They pay for whole lines, many in a row, and only where the
output would not stay in the cache anyway; `kernels` decides that.

Sizes and places are uint64 throughout: numba checks signed indices for being negative, and that check stops LLVM's
vectorizer. (uint64 and int64 together would become float64.)
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import njit, types, uint64
from numba.extending import intrinsic as _untyped_intrinsic

from flexor_search.codes.sharing import LINE_BYTES

intrinsic: Any = _untyped_intrinsic  # what it makes is called without the first argument; type checkers cannot know

_HALF_BYTES = 32


def compiled(function: Callable[..., Any], **options: Any) -> Any:
    """Compile at first call, without the interpreter's lock; keep the machine code on disk where that is possible.

    Args:
        function: what to compile.
        options: further ones of `numba.njit`.
    """
    try:
        return njit(nogil=True, cache=True, **options)(function)
    except RuntimeError:  # no folder to keep it in, as in a read-only container: compile once a process
        return njit(nogil=True, **options)(function)


@intrinsic
def _store_copy(typing_context, target, source):
    """Copy 32 bytes to an address that is a multiple of 32, past the caches."""
    return types.void(types.uint64, types.uint64), _store_xor_of


@intrinsic
def _store_xor(typing_context, target, source, other):
    """Store the XOR of 32 bytes and 32 others at an address that is a multiple of 32, past the caches."""
    return types.void(types.uint64, types.uint64, types.uint64), _store_xor_of


def _store_xor_of(context, builder, signature, addresses):
    """The LLVM instructions of both; sources may lie anywhere."""
    vector = ir.VectorType(ir.IntType(64), _HALF_BYTES // 8)
    target, *sources = (builder.inttoptr(address, vector.as_pointer()) for address in addresses)
    value, *others = (builder.load(source, align=1) for source in sources)
    for other in others:
        value = builder.xor(value, other)
    store = builder.store(value, target, align=_HALF_BYTES)
    store.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
    return context.get_dummy_value()


@intrinsic
def fence(typing_context):
    """Make streamed bytes visible to other threads before anything that is stored after them."""

    def generate(context, builder, signature, arguments):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


@compiled
def to_line_end(array, at):
    """Bytes from byte `at` of a uint8 array to the next start of a cache line."""
    return -(uint64(array.ctypes.data) + at) & uint64(LINE_BYTES - 1)


@compiled
def stream_copy(target, at, source, a, n):
    """target[at : at + n] = source[a : a + n] past the caches; call `fence` when all is streamed."""
    head = min(to_line_end(target, at), n)
    lines = (n - head) // uint64(LINE_BYTES)
    to, origin = uint64(target.ctypes.data) + at + head, uint64(source.ctypes.data) + a + head
    for i in range(head):
        target[at + i] = source[a + i]
    for line in range(lines):
        for half in (uint64(0), uint64(_HALF_BYTES)):
            place = line * uint64(LINE_BYTES) + half
            _store_copy(to + place, origin + place)
    for i in range(head + lines * uint64(LINE_BYTES), n):
        target[at + i] = source[a + i]


@compiled
def stream_xor(target, at, source, a, other, b, n):
    """target[at : at + n] = source[a : a + n] ^ other[b : b + n] past the caches; call `fence` at the end."""
    head = min(to_line_end(target, at), n)
    lines = (n - head) // uint64(LINE_BYTES)
    to, origin = uint64(target.ctypes.data) + at + head, uint64(source.ctypes.data) + a + head
    second = uint64(other.ctypes.data) + b + head
    for i in range(head):
        target[at + i] = source[a + i] ^ other[b + i]
    for line in range(lines):
        for half in (uint64(0), uint64(_HALF_BYTES)):
            place = line * uint64(LINE_BYTES) + half
            _store_xor(to + place, origin + place, second + place)
    for i in range(head + lines * uint64(LINE_BYTES), n):
        target[at + i] = source[a + i] ^ other[b + i]
