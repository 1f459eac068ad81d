"""Decoding stored bits to weight bits: the reference, which is the definition, and a faster equal.

Bit convention, everywhere: output bit = XOR of its taps, and a weight is scale * (2 * bit - 1).
Weight order, everywhere: weight index = r * n_slices + s for output row r and slice s; the surplus is the tail.
"""

import numpy as np
from numpy.typing import NDArray

from flexor_search.codes.bitpack import unpack_planes
from flexor_search.codes.xor_code import XorCode


def decode_reference(code: XorCode, stored: NDArray[np.uint8], n_weights: int) -> NDArray[np.uint8]:
    """The definition of decoding: a product over GF(2), written to be read.

    Args:
        code: the code of this plane.
        stored: 0/1 entries, shape (code.n_in, n_slices).
        n_weights: how many weights the plane holds; (n_slices - 1) * n_out < n_weights <= n_slices * n_out.

    Returns:
        0/1 entries, shape (n_weights,), in weight order.

    Example:
        >>> decode_reference(XorCode(2, ((0,), (1,), (0, 1))), np.array([[0, 1], [1, 1]], np.uint8), 6).tolist()
        [0, 1, 1, 1, 1, 0]
    """
    output = (code.matrix.astype(np.int64) @ stored.astype(np.int64)) % 2
    return output.astype(np.uint8).reshape(-1)[:n_weights]


def decode_rows(code: XorCode, packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Decode packed planes to packed rows, XORing eight slices in a byte at a time.

    Args:
        code: the code of this plane.
        packed: bytes, shape (code.n_in, plane bytes), as `pack_planes` makes them.

    Returns:
        Bytes, shape (code.n_out, plane bytes), in the layout of the stored planes: row r holds the bits of weights
        r * n_slices ... r * n_slices + n_slices - 1. Padding bits are 0 if those of the stored planes are.

    Example:
        >>> decode_rows(XorCode(2, ((0,), (1,), (0, 1))), np.array([[5], [6]], np.uint8)).tolist()
        [[5], [6], [3]]
    """
    rows = np.empty((code.n_out, packed.shape[1]), np.uint8)
    for row, taps in enumerate(code.taps):
        np.bitwise_xor.reduce(packed[list(taps)], axis=0, out=rows[row])
    return rows


def decode_packed(code: XorCode, packed: NDArray[np.uint8], n_slices: int, n_weights: int) -> NDArray[np.uint8]:
    """Decode packed planes to weight bits.

    Args:
        code: the code of this plane.
        packed: bytes, shape (code.n_in, plane_bytes(n_slices)), as `pack_planes` makes them.
        n_slices: slices of the plane.
        n_weights: how many weights the plane holds.

    Returns:
        0/1 entries, shape (n_weights,), equal to `decode_reference` bit for bit.
    """
    return unpack_planes(decode_rows(code, packed), n_slices).reshape(-1)[:n_weights]


def decode_signs(code: XorCode, packed: NDArray[np.uint8], n_weights: int) -> NDArray[np.int8]:
    """Decode packed planes to signs.

    Args:
        code: the code of this plane.
        packed: bytes, shape (code.n_in, plane bytes), as `pack_planes` makes them.
        n_weights: how many weights the plane holds.

    Returns:
        -1 and +1, shape (n_weights,), in weight order.
    """
    bits = decode_packed(code, packed, -(-n_weights // code.n_out), n_weights).view(np.int8)
    return np.subtract(2 * bits, 1, dtype=np.int8)
