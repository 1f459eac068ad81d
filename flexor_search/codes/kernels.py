"""Fast decoding on the processor: the functions of `decode`, compiled with numba and split over threads.

Importing this module imports numba, which takes about a second; nothing in the package does so until a caller asks for
the "numba" decoder. `out` arrays are worth reusing: touching fresh memory costs more than decoding into it.

Threads are those of `sharing`, not numba's: its parallel loops cut the work into equal parts, so that the slowest
processor sets the pace, and need a threading layer that may not be called from two threads at once.
"""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flexor_search.codes import numba_loops
from flexor_search.codes.bitpack import plane_bytes
from flexor_search.codes.sharing import n_processors, share
from flexor_search.codes.xor_code import XorCode

MIN_BYTES_PER_THREAD = 1 << 19  # waking a thread costs about what it takes to write this much
TYPICAL_CACHE_BYTES = 1 << 25


def decode_rows(
    code: XorCode, packed: NDArray[np.uint8], *, out: NDArray[np.uint8] | None = None, threads: int | None = None
) -> NDArray[np.uint8]:
    """`decode.decode_rows`, fast.

    Args:
        code: the code of this plane.
        packed: bytes, shape (code.n_in, plane bytes).
        out: where to write, C-contiguous, of the result's shape and dtype; a new array by default.
        threads: at most so many; by default one for each processor that this process may use.

    Returns:
        Bytes, shape (code.n_out, plane bytes): bit s % 8, from the least significant, of byte s // 8 of row r is weight
        r * n_slices + s. Padding bits are 0 if those of the stored planes are.

    Raises:
        ValueError: an array of another shape or dtype.
    """
    _check(code, packed, packed.shape[-1])
    rows = _output(out, (code.n_out, packed.shape[1]), np.uint8)
    if not rows.size:
        return rows
    arrays, streams, flat = _inputs(code, packed), _streams(rows), rows.reshape(-1)
    _share(
        lambda start, stop: numba_loops.rows_kernel(*arrays, start, stop, streams, flat),
        *(packed.shape[1], rows.nbytes, threads),
    )
    return rows


def decode_signs(
    code: XorCode,
    packed: NDArray[np.uint8],
    n_weights: int,
    *,
    out: NDArray[np.int8] | None = None,
    threads: int | None = None,
) -> NDArray[np.int8]:
    """`decode.decode_signs`, fast.

    Args:
        code: the code of this plane.
        packed: bytes, shape (code.n_in, plane bytes).
        n_weights: how many weights the plane holds.
        out: where to write, as in `decode_rows`.
        threads: as in `decode_rows`.

    Returns:
        -1 and +1, shape (n_weights,), in weight order.

    Raises:
        ValueError: an array of another shape or dtype.
    """
    n_slices = -(-n_weights // code.n_out)
    _check(code, packed, plane_bytes(n_slices))
    signs = _output(out, (n_weights,), np.int8)
    arrays = _inputs(code, packed)
    _share(
        lambda start, stop: numba_loops.signs_kernel(*arrays, start, stop, n_slices, signs),
        *(packed.shape[1], signs.nbytes, threads),
    )
    return signs


def decode_weight(
    codes: tuple[XorCode, ...],
    planes: tuple[NDArray[np.uint8], ...],
    scale: NDArray[np.float32],
    n_weights: int,
    *,
    out: NDArray[np.float32] | None = None,
    threads: int | None = None,
) -> NDArray[np.float32]:
    """Scaled weights: the sum over planes of scale * (2 * bit - 1), in the order of the planes.

    Args:
        codes: the code of each plane.
        planes: for each plane its stored planes, shape (code.n_in, plane bytes).
        scale: float32, shape (n_planes, runs): weights come in runs of n_weights / runs that share a scale, such as the
            weights of one output channel.
        n_weights: how many weights the layer holds, a multiple of runs.
        out: where to write, as in `decode_rows`.
        threads: as in `decode_rows`.

    Returns:
        float32, shape (n_weights,), in weight order.

    Raises:
        ValueError: an array of another shape or dtype.
    """
    if scale.ndim != 2 or scale.shape[0] != len(codes) or not scale.shape[1] or n_weights % scale.shape[1]:
        raise ValueError(
            f"scale: must have shape ({len(codes)} planes, a divisor of {n_weights} weights), got {scale.shape}"
        )
    weight = _output(out, (n_weights,), np.float32)
    scale_bits = np.ascontiguousarray(scale, np.float32).view(np.uint32)
    run_weights = n_weights // scale.shape[1]
    for plane, (code, packed) in enumerate(zip(codes, planes, strict=True)):
        n_slices = -(-n_weights // code.n_out)
        _check(code, packed, plane_bytes(n_slices))
        arrays = _inputs(code, packed)
        rest = (n_slices, run_weights, scale_bits[plane], plane > 0, weight)
        _share(
            lambda start, stop, arrays=arrays, rest=rest: numba_loops.scaled_kernel(*arrays, start, stop, *rest),
            *(packed.shape[1], weight.nbytes, threads),
        )
    return weight


@lru_cache(maxsize=256)
def _tap_table(code: XorCode) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Where each row's taps start, and all taps one after the other."""
    starts = np.cumsum([0, *map(len, code.taps)])
    return starts.astype(np.uint64), np.concatenate(code.taps).astype(np.uint64)


def _inputs(code: XorCode, packed: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], int, NDArray, NDArray]:
    """What every kernel takes first: the flat planes, bytes of one, and the table of taps."""
    flat = packed.reshape(-1).view()  # a copy where they are not contiguous
    flat.flags.writeable = False  # planes that come from a file are: one type, one compilation
    return flat, packed.shape[1], *_tap_table(code)


def _check(code: XorCode, packed: NDArray[np.uint8], stride: int) -> None:
    if packed.dtype != np.uint8 or packed.shape != (code.n_in, stride):
        raise ValueError(
            f"packed: must be uint8 of shape ({code.n_in}, {stride}), one stored plane for each of the code's inputs, "
            f"got {packed.dtype} of {packed.shape}"
        )


def _output(out: NDArray | None, shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray:
    if out is None:
        return np.empty(shape, dtype)
    if out.shape != shape or out.dtype != dtype or not out.flags.c_contiguous or not out.flags.writeable:
        raise ValueError(
            f"out: must be a writable C-contiguous array of shape {shape} and dtype {np.dtype(dtype)}, "
            f"got {out.dtype} of {out.shape}"
        )
    return out


def _streams(output: NDArray) -> bool:
    """Whether to write packed rows past the caches: where the output is larger than they are.

    Numbers are always written plainly: measured, their expansion takes the time that streaming would save.
    """
    return output.nbytes > _last_cache_bytes()


@lru_cache(maxsize=1)
def _last_cache_bytes() -> int:
    try:  # where Linux tells; 8192K
        text = Path("/sys/devices/system/cpu/cpu0/cache/index3/size").read_text(encoding="ascii")
        return int(text.strip().removesuffix("K")) * 1024
    except (OSError, ValueError):
        return TYPICAL_CACHE_BYTES


def _share(work: Callable[[int, int], None], stride: int, output_bytes: int, threads: int | None) -> None:
    """Call work(start, stop) on pieces of the planes, on as many threads as pay."""
    share(work, stride, max(1, min(threads or n_processors(), output_bytes // MIN_BYTES_PER_THREAD)))
