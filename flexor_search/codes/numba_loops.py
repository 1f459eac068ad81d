"""The compiled loops behind `kernels`: XOR of whole stored planes, and the expansion of a block of bits to numbers.

One compilation serves every code. A row is the XOR of a few long runs of bytes, so the code's taps can be a table that
is looked at once a run: the loops over a run are straight lines, one for each number of taps, that LLVM turns into
vector instructions. Generating a function for each code instead was measured (benchmarks/straight_line.py): no faster,
and it costs seconds of compilation a code.

Work goes block by block of all planes: the block's stored bits stay in the near caches while every row that needs them
is written as one long run. A fused loop over all planes and rows at once would have some 32 streams, more than LLVM
checks for overlap, and is not vectorized. Runs are places in flat arrays, not slices: a slice counts references, and
with threads that share an array each count is a cache line going back and forth.
"""

import numpy as np
from numba import int8, uint8, uint32, uint64

from flexor_search.codes.sharing import LINE_BYTES
from flexor_search.codes.streaming import compiled, fence, stream_copy, stream_xor, to_line_end

STORED_BLOCK_BYTES = 1 << 19  # packed rows: what is read stays in the second cache level, and runs are long
PARTIAL_BYTES = 4096  # of a streamed row with many taps: its partial XOR stays in the first
EXPANDED_BLOCK_BYTES = 1024  # numbers: as many bytes of a row, and the numbers they become, stay in the first

ONES = 0x0101010101010101
DIAGONAL = 0x8040201008040201
LOW_SEVEN = 0x7F7F7F7F7F7F7F7F
HIGH = 0x8080808080808080


@compiled
def _copy(row, at, planes, a, n):
    for i in range(n):
        row[at + i] = planes[a + i]


@compiled
def _xor2(row, at, planes, a, b, n):
    for i in range(n):
        row[at + i] = planes[a + i] ^ planes[b + i]


@compiled
def _add1(row, at, planes, a, n):
    for i in range(n):
        row[at + i] ^= planes[a + i]


@compiled
def _add3(row, at, planes, a, b, c, n):
    for i in range(n):
        row[at + i] ^= planes[a + i] ^ planes[b + i] ^ planes[c + i]


@compiled
def _xor_row(planes, stride, taps, t, end, start, n, row, at):
    """row[at : at + n] = the XOR of bytes start .. start + n - 1 of the planes in taps[t:end], at least one."""
    one, two, three = uint64(1), uint64(2), uint64(3)
    a = taps[t] * stride + start
    if end - t == one:
        _copy(row, at, planes, a, n)
        return
    _xor2(row, at, planes, a, taps[t + one] * stride + start, n)
    t += two
    while end - t >= three:  # three at a time: more streams are more checks for overlap than LLVM makes
        a, b, c = taps[t] * stride + start, taps[t + one] * stride + start, taps[t + two] * stride + start
        _add3(row, at, planes, a, b, c, n)
        t += three
    while t < end:
        _add1(row, at, planes, taps[t] * stride + start, n)
        t += one


@compiled
def _stream_row(planes, stride, taps, t, end, start, n, row, at, partial):
    """The same past the caches. The last XOR is in the streaming loop; what comes before it is done in `partial`."""
    last = taps[end - uint64(1)] * stride + start
    if end - t == uint64(1):
        stream_copy(row, at, planes, last, n)
        return
    if end - t == uint64(2):
        stream_xor(row, at, planes, taps[t] * stride + start, planes, last, n)
        return
    done = uint64(0)
    while done < n:
        piece = uint64(PARTIAL_BYTES - LINE_BYTES) + to_line_end(row, at + done)  # so that it ends where a line does
        piece = min(piece, n - done)
        _xor_row(planes, stride, taps, t, end - uint64(1), start + done, piece, partial, uint64(0))
        stream_xor(row, at + done, partial, uint64(0), planes, last + done, piece)
        done += piece


@compiled
def rows_kernel(planes, stride, tap_starts, taps, start, stop, streams, rows):
    """Bytes start .. stop - 1 of every packed row.

    planes and rows are flat: plane j starts at byte j * stride, row r at r * stride. The taps of row r are
    taps[tap_starts[r] : tap_starts[r + 1]]; both are uint64.
    """
    stride, low, stop = uint64(stride), uint64(start), uint64(stop)
    lines = uint64(STORED_BLOCK_BYTES // LINE_BYTES) * stride // uint64(planes.size)  # over the number of planes
    block = max(lines, uint64(1)) * uint64(LINE_BYTES)
    partial = np.empty(PARTIAL_BYTES, np.uint8)
    while low < stop:
        n = min(block, stop - low)
        for r in range(uint64(tap_starts.size - 1)):
            t, end, at = tap_starts[r], tap_starts[r + uint64(1)], r * stride + low
            if streams:
                _stream_row(planes, stride, taps, t, end, low, n, rows, at, partial)
            else:
                _xor_row(planes, stride, taps, t, end, low, n, rows, at)
        low += n
    fence()


@compiled
def _expand_signs(row, signs):
    """The first bits of a packed row as -1 and +1."""
    whole = signs.size // 8
    body = signs[: 8 * whole]
    for j in range(whole):  # a byte's bits to the bytes of one word: bit k -> 0x01 or 0xff in byte k
        high = ((uint64(row[j]) * uint64(ONES) & uint64(DIAGONAL)) + uint64(LOW_SEVEN)) & uint64(HIGH)
        word = ~((high - (high >> uint64(7))) << uint64(1))
        for k in range(8):
            body[8 * j + k] = int8((word >> uint64(8 * k)) & uint64(255))
    for i in range(8 * whole, signs.size):
        signs[i] = int8(2 * ((row[i >> 3] >> uint8(i & 7)) & uint8(1)) - 1)


@compiled
def signs_kernel(planes, stride, tap_starts, taps, start, stop, n_slices, signs):
    """Bytes start .. stop - 1 of every row as -1 and +1 at their weights' places; planes as in `rows_kernel`."""
    n_rows = tap_starts.size - 1
    stride = uint64(stride)
    row = np.empty(EXPANDED_BLOCK_BYTES, np.uint8)
    for low in range(start, stop, EXPANDED_BLOCK_BYTES):
        high = min(low + EXPANDED_BLOCK_BYTES, stop)
        n_bytes = uint64(high - low)
        for r in range(n_rows):
            first = r * n_slices + 8 * low
            last = min(r * n_slices + min(8 * high, n_slices), signs.size)
            if first < last:  # not surplus
                _xor_row(planes, stride, taps, tap_starts[r], tap_starts[r + 1], uint64(low), n_bytes, row, uint64(0))
                _expand_signs(row, signs[first:last])


@compiled
def _signed(byte, k, scale):
    """Bits of the float32 +scale where bit k of the byte is set, of -scale where it is not."""
    return ((~uint32(byte) << uint32(31 - k)) & uint32(0x80000000)) ^ scale


@compiled
def _expand_scaled(row, bit, weight, scale):
    """Bits bit, bit + 1, ... of a packed row as -scale and +scale; scale and weight are the bits of float32 values."""
    head = min((-bit) & 7, weight.size)
    for i in range(head):
        weight[i] = _signed(row[(bit + i) >> 3], (bit + i) & 7, scale)
    whole = (weight.size - head) // 8
    source, body = row[(bit + head) >> 3 :], weight[head : head + 8 * whole]
    for j in range(whole):
        for k in range(8):
            body[8 * j + k] = _signed(source[j], k, scale)
    for i in range(head + 8 * whole, weight.size):
        weight[i] = _signed(row[(bit + i) >> 3], (bit + i) & 7, scale)


@compiled
def _expand_runs(row, first, run_weights, scale, weight):
    """A packed row's first bits, those of weights first, first + 1, ..., one run of one scale after the other."""
    done = 0
    while done < weight.size:
        run = (first + done) // run_weights
        end = min((run + 1) * run_weights - first, weight.size)
        _expand_scaled(row, done, weight[done:end], scale[run])
        done = end


@compiled
def scaled_kernel(planes, stride, tap_starts, taps, start, stop, n_slices, run_weights, scale, adds, weight):
    """Bytes start .. stop - 1 of every row as -scale and +scale at their weights' places; planes as in `rows_kernel`.

    scale[w // run_weights] is weight w's, as the bits of a float32; adds says to add to what stands in weight.
    """
    n_rows = tap_starts.size - 1
    stride = uint64(stride)
    row = np.empty(EXPANDED_BLOCK_BYTES, np.uint8)
    terms, weight_bits = np.empty(8 * EXPANDED_BLOCK_BYTES, np.float32), weight.view(np.uint32)
    for low in range(start, stop, EXPANDED_BLOCK_BYTES):
        high = min(low + EXPANDED_BLOCK_BYTES, stop)
        n_bytes = uint64(high - low)
        for r in range(n_rows):
            first = r * n_slices + 8 * low
            last = min(r * n_slices + min(8 * high, n_slices), weight.size)
            if first >= last:  # the surplus
                continue
            _xor_row(planes, stride, taps, tap_starts[r], tap_starts[r + 1], uint64(low), n_bytes, row, uint64(0))
            if not adds:
                _expand_runs(row, first, run_weights, scale, weight_bits[first:last])
                continue
            _expand_runs(row, first, run_weights, scale, terms.view(np.uint32)[: last - first])
            for i in range(last - first):
                weight[first + i] += terms[i]
