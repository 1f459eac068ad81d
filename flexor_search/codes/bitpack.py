"""The byte layout of stored bits: plane by plane, least significant bit first, each plane padded to whole bytes.

A layer stores, for each of its n_planes codes and each of that code's rank inputs, one *stored plane*: the bit of that
input in slice 0, 1, 2, ... Output row r of a plane's code is then the XOR of whole stored planes, and lands on weights
r * n_slices ... r * n_slices + n_slices - 1, so that decoding moves no single bits and needs no transpose.
"""

import numpy as np
from numpy.typing import NDArray


def plane_bytes(n_slices: int) -> int:
    """Bytes of one stored plane of n_slices bits.

    Example:
        >>> plane_bytes(9)
        2
    """
    return (n_slices + 7) // 8


def padding_bits(n_slices: int) -> int:
    """Bits of one stored plane that only fill its last byte.

    Example:
        >>> padding_bits(9)
        7
    """
    return 8 * plane_bytes(n_slices) - n_slices


def pack_planes(bits: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pack stored bits into bytes.

    Args:
        bits: 0/1 entries, shape (stored planes, n_slices).

    Returns:
        Bytes of shape (stored planes, plane_bytes(n_slices)): bit s of a plane is bit s % 8, counted from the least
        significant, of byte s // 8; padding bits are 0.

    Example:
        >>> pack_planes(np.array([[1, 0, 0, 0, 0, 0, 0, 0, 1]], np.uint8)).tolist()
        [[1, 1]]
    """
    return np.packbits(bits, axis=1, bitorder="little")


def unpack_planes(packed: NDArray[np.uint8], n_slices: int) -> NDArray[np.uint8]:
    """Undo `pack_planes`.

    Args:
        packed: bytes, shape (stored planes, plane_bytes(n_slices)).
        n_slices: bits per plane.

    Returns:
        0/1 entries, shape (stored planes, n_slices).

    Raises:
        ValueError: the byte count does not belong to n_slices, or a padding bit is set.
    """
    if packed.ndim != 2 or packed.shape[1] != plane_bytes(n_slices):
        raise ValueError(
            f"packed: {n_slices} slices take {plane_bytes(n_slices)} bytes a plane, got an array of {packed.shape}"
        )
    bits = np.unpackbits(packed, axis=1, bitorder="little")
    if bits[:, n_slices:].any():
        raise ValueError("packed: padding bits must be zero; the payload is damaged")
    return bits[:, :n_slices]
