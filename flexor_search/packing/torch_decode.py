"""Decoding in torch, on any device, by whole planes as everywhere: they are gathered and XORed, not multiplied.

Pure functions of tensors, so that they can be traced by torch.export and fused by torch.compile, and so that a module
can hold the stored planes and decode in its forward pass. Weights come row by row, n_slices at a time.
"""

import torch
from torch import Tensor

from flexor_search.codes import XorCode, plane_bytes


def tap_indices(code: XorCode) -> Tensor:
    """The code's taps as a rectangular table.

    Returns:
        int64, shape (n_out, most taps of a row): rows with fewer are filled up with n_in, the index of a plane of zeros
        that `decode_bits` appends.

    Example:
        >>> tap_indices(XorCode(2, ((0,), (0, 1)))).tolist()
        [[0, 2], [0, 1]]
    """
    width = max(map(len, code.taps))
    return torch.tensor([[*taps, *[code.n_in] * (width - len(taps))] for taps in code.taps])


def decode_rows(planes: Tensor, taps: Tensor) -> Tensor:
    """Decode stored planes to packed rows.

    Args:
        planes: uint8, shape (n_in, plane bytes).
        taps: int64, shape (n_out, most taps), as `tap_indices` makes them, on the same device.

    Returns:
        uint8, shape (n_out, plane bytes), in the layout of the stored planes.
    """
    padded = torch.cat([planes, torch.zeros_like(planes[:1])])
    rows = padded.index_select(0, taps[:, 0])  # indexing with brackets is twenty times slower
    for column in range(1, taps.shape[1]):
        rows = rows ^ padded.index_select(0, taps[:, column])
    return rows


def decode_bits(planes: Tensor, taps: Tensor, n_weights: int) -> Tensor:
    """Decode stored planes to weight bits.

    Args:
        planes: uint8, shape (n_in, plane bytes).
        taps: as in `decode_rows`.
        n_weights: how many weights the plane holds.

    Returns:
        0/1 in uint8, shape (n_weights,), in weight order.

    Raises:
        ValueError: planes of another dtype, or of a length that does not belong to n_weights.
    """
    n_slices = -(-n_weights // taps.shape[0])
    if planes.dtype != torch.uint8 or planes.shape[1] != plane_bytes(n_slices):
        raise ValueError(
            f"planes: {n_weights} weights of this code take {plane_bytes(n_slices)} bytes of uint8 a plane, "
            f"got {planes.dtype} of shape {tuple(planes.shape)}"
        )
    places = torch.arange(8, dtype=torch.uint8, device=planes.device)
    bits = (decode_rows(planes, taps).unsqueeze(-1) >> places) & 1
    return bits.flatten(1)[:, :n_slices].flatten()[:n_weights]


def decode_signs(planes: Tensor, taps: Tensor, n_weights: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Decode stored planes to signs.

    Args:
        planes: uint8, shape (n_in, plane bytes).
        taps: as in `decode_rows`.
        n_weights: how many weights the plane holds.
        dtype: of the result, one that holds -1.

    Returns:
        -1 and +1, shape (n_weights,), in weight order.

    Raises:
        ValueError: as `decode_bits`, or a dtype without a sign.
    """
    if not dtype.is_signed:
        raise ValueError(f"dtype: must hold -1, got {dtype}; take decode_bits for 0 and 1")
    return decode_bits(planes, taps, n_weights).to(dtype) * 2 - 1
