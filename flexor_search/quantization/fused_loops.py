"""The compiled loops behind `fused`: a layer's weight from its encrypted weights, and the gradients, in one pass each.

In torch the same takes some thirty passes over tensors as large as the weight. Here a block of slices goes through all
of it while it is in the first cache: its signs, turned so that one stored bit of many slices lies in a run; the XOR of
whole runs, row by row; the scaled result straight to its place, since a row's weights of neighbouring slices are
neighbours. One compilation serves every code, by a table of taps (see `codes.numba_loops`, which does the same to
packed bits), and is kept on disk.

Sums run in an order that depends on the layer alone, so that results do not depend on the number of threads. Only the
sum within a run of one row is left to the compiler, which makes it a vector's sums.
"""

from functools import partial

import numpy as np
from numba import float32, int32, uint32, uint64

from flexor_search.codes.streaming import compiled

BLOCK_SLICES = (
    512  # for 20 bits of 20 weights: 10 KiB of signs and 40 KiB of sums, between the first cache and the second
)
PART_SLICES = 8 * BLOCK_SLICES  # the scales' gradients are summed in parts of so many

_LOG2_E = np.float32(1.4426950408889634)
_HALF, _ONE, _FOUR = np.float32(0.5), np.float32(1), np.float32(4)
_LEAST = np.float32(-125)  # 2 ** it is a normal float32
# 2 ** f for |f| <= 1/2: its Taylor series, whose next term is below 1e-8
_C1, _C2, _C3, _C4, _C5, _C6, _C7 = (
    np.float32(c)
    for c in (
        *(0.6931471805599453, 0.24022650695910072, 0.05550410866482158, 0.009618129107628477),
        *(0.0013333558146428443, 0.00015403530393381608, 0.000015252733804059841),
    )
)


@compiled
def _complements(encrypted, first, n, n_in, negative):
    """negative[i * BLOCK_SLICES + j] = 1 where bit i of the j-th of n slices is stored as 0, else 0."""
    for i in range(n_in):
        at = i * uint64(BLOCK_SLICES)
        for j in range(n):
            negative[at + j] = encrypted[first + j * n_in + i] < float32(0)


@compiled
def _xor_row(negative, n, taps, t, end, row):
    """row[: n] = 1 where the row's output bit is 0: the XOR of its taps' complements, and of their number less one."""
    at = taps[t] * uint64(BLOCK_SLICES)
    odd = (end - t - uint64(1)) & uint64(1)
    for j in range(n):
        row[j] = negative[at + j] ^ odd
    for k in range(t + uint64(1), end):
        at = taps[k] * uint64(BLOCK_SLICES)
        for j in range(n):
            row[j] ^= negative[at + j]


@compiled
def _write(row, j, n, scale, adds, bits, weight, at):
    """weight[at : at + n] = -scale where row[j : j + n] is 1, else scale; or that is added. bits: weight as uint32."""
    if adds:
        for k in range(n):
            weight[at + k] += float32(_ONE - float32(row[j + k]) - float32(row[j + k])) * scale
        return
    base = np.float32(scale).view(np.uint32)
    for k in range(n):
        bits[at + k] = (uint32(row[j + k]) << uint32(31)) ^ base


@compiled
def weight_kernel(encrypted, n_in, tap_starts, taps, start, stop, n_slices, run_weights, channels, scale, weight):
    """The weights of slices start .. stop - 1.

    Args:
        encrypted: float32, flat: value i of slice s of plane p is at (p * n_slices + s) * n_in + i.
        n_in: stored bits a slice.
        tap_starts: uint64, shape (n_planes, n_out + 1): the taps of row r of plane p are
            taps[tap_starts[p, r] : tap_starts[p, r + 1]].
        taps: uint64, flat.
        start: first slice.
        stop: the slice behind the last.
        n_slices: slices a plane.
        run_weights: weights in a row that share a scale.
        channels: uint64: the scale of run i is that of channel channels[i].
        scale: float32, shape (n_planes, channels).
        weight: float32, flat, to be written.
    """
    n_in, n_slices, stop, run_weights = uint64(n_in), uint64(n_slices), uint64(stop), uint64(run_weights)
    n_weights = uint64(weight.size)
    negative = np.empty(n_in * uint64(BLOCK_SLICES), np.uint8)
    row, bits = np.empty(BLOCK_SLICES, np.uint8), weight.view(np.uint32)
    low = uint64(start)
    while low < stop:
        n = min(uint64(BLOCK_SLICES), stop - low)
        for p in range(uint64(tap_starts.shape[0])):
            _complements(encrypted, (p * n_slices + low) * n_in, n, n_in, negative)
            for r in range(uint64(tap_starts.shape[1] - 1)):
                at = r * n_slices + low
                if at >= n_weights:  # surplus
                    break
                end = min(at + n, n_weights)
                _xor_row(negative, n, taps, tap_starts[p, r], tap_starts[p, r + uint64(1)], row)
                j = uint64(0)
                while at < end:
                    run = at // run_weights
                    length = min((run + uint64(1)) * run_weights, end) - at
                    _write(row, j, length, scale[p, channels[run]], p > uint64(0), bits, weight, at)
                    at += length
                    j += length
        low += n


@compiled
def _signed(grad, at, row, j, n, terms):
    """terms[j : j + n] = grad[at : at + n] times the signs; both as uint32."""
    for k in range(n):
        terms[j + k] = grad[at + k] ^ (uint32(row[j + k]) << uint32(31))


@partial(compiled, fastmath={"reassoc"})  # the compiler may add in any order: a vector of partial sums
def _sum(values, j, n):
    total = float32(0)
    for k in range(n):
        total += values[j + k]
    return total


@partial(compiled, error_model="numpy")  # a check for division by zero would keep it from being vectorized
def _slopes(encrypted, first, n, s_tanh, slopes, slope_bits):
    """slopes[: n] = s_tanh * sech(s_tanh * x) ** 2 for the encrypted weights x from `first` on; slope_bits: as int32.

    sech(z) ** 2 = 4 e / (1 + e) ** 2 with e = exp(-2 |z|) = 2 ** t. Unlike 1 - tanh(z) ** 2 it loses no digits.
    """
    factor = float32(-2) * abs(s_tanh) * _LOG2_E
    for k in range(n):  # 2 ** the nearest whole number
        t = abs(encrypted[first + k]) * factor
        t = t if t > _LEAST else _LEAST  # max() would not be vectorized
        slope_bits[k] = (int32(t - _HALF) + int32(127)) << int32(23)  # type: ignore
    for k in range(n):
        t = abs(encrypted[first + k]) * factor
        t = t if t > _LEAST else _LEAST
        f = t - float32(int32(t - _HALF))  # type: ignore
        e = _C3 + f * (_C4 + f * (_C5 + f * (_C6 + f * _C7)))
        e = slopes[k] * (_ONE + f * (_C1 + f * (_C2 + f * e)))
        slopes[k] = s_tanh * _FOUR * e / ((_ONE + e) * (_ONE + e))


@compiled
def gradient_kernel(
    encrypted,
    n_in,
    tap_starts,
    taps,
    start,
    stop,
    n_slices,
    run_weights,
    channels,
    scale,
    grad,
    s_tanh,
    straight_through,
    out,
    scale_out,
):
    """The gradients with respect to the encrypted weights of slices start .. stop - 1, and their part of the scales'.

    Arguments as in `weight_kernel`, and:

    Args:
        grad: float32, flat: with respect to the weight.
        start: first slice, a multiple of PART_SLICES.
        s_tanh: the slope of the surrogate.
        straight_through: a slope of 1 everywhere instead ("ste").
        out: float32, like `encrypted`, to be written.
        scale_out: float32, shape (parts of PART_SLICES slices, n_planes, channels), to be added to.
    """
    n_in, n_slices, stop, run_weights = uint64(n_in), uint64(n_slices), uint64(stop), uint64(run_weights)
    n_weights, size = uint64(grad.size), uint64(BLOCK_SLICES)
    negative, row = np.empty(n_in * size, np.uint8), np.empty(BLOCK_SLICES, np.uint8)
    through, slopes = np.empty(n_in * size, np.float32), np.ones(n_in * size, np.float32)
    terms, s_tanh = np.empty(size, np.float32), float32(s_tanh)
    grad_bits, term_bits = grad.view(np.uint32), terms.view(np.uint32)
    through_bits, slope_bits = through.view(np.uint32), slopes.view(np.int32)
    low = uint64(start)
    while low < stop:
        n = min(size, stop - low)
        for p in range(uint64(tap_starts.shape[0])):
            first = (p * n_slices + low) * n_in
            _complements(encrypted, first, n, n_in, negative)
            through[:] = float32(0)
            for r in range(uint64(tap_starts.shape[1] - 1)):
                at = r * n_slices + low
                if at >= n_weights:  # surplus
                    break
                end = min(at + n, n_weights)
                length = end - at
                t, t_end = tap_starts[p, r], tap_starts[p, r + uint64(1)]
                _xor_row(negative, n, taps, t, t_end, row)
                _signed(grad_bits, at, row, uint64(0), length, term_bits)
                j = uint64(0)
                while at < end:
                    run = at // run_weights
                    n_run = min((run + uint64(1)) * run_weights, end) - at
                    channel = channels[run]
                    scale_out[low // uint64(PART_SLICES), p, channel] += _sum(terms, j, n_run)
                    factor = scale[p, channel]
                    for k in range(j, j + n_run):
                        terms[k] *= factor
                    at += n_run
                    j += n_run
                for k in range(t, t_end):
                    base = taps[k] * size
                    for j in range(length):
                        through[base + j] += terms[j]
            if not straight_through:
                _slopes(encrypted, first, n * n_in, s_tanh, slopes, slope_bits)
            for i in range(n_in):
                base = i * size
                for j in range(n):
                    through_bits[base + j] ^= uint32(negative[base + j]) << uint32(31)
                    out[first + j * n_in + i] = slopes[j * n_in + i] * through[base + j]
        low += n
