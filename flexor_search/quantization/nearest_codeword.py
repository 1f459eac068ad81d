"""Stored bits whose decoded signs agree best with given weights: where training from pretrained weights starts.

Exact for small codes, by trying every codeword. For larger ones a descent: start from the rows that are stored bits
themselves and flip the bit that helps most, until none helps. Finding the nearest codeword is NP-hard in general.
"""

import torch
from torch import Tensor

EXHAUSTIVE_N_IN = 12
_CHUNK_SLICES = 8192


@torch.no_grad()
def nearest_stored_bits(matrix: Tensor, target: Tensor) -> Tensor:
    """Choose stored bits to maximise the sum of target * sign.

    Args:
        matrix: a code as 0.0 / 1.0, shape (n_out, n_in).
        target: real, shape (n_out, n_slices); its signs are wanted, its magnitudes say how much.

    Returns:
        0/1 as uint8, shape (n_slices, n_in).
    """
    matrix = matrix.to(target.dtype)
    search = _exhaustive if matrix.shape[1] <= EXHAUSTIVE_N_IN else _descent
    return torch.cat([search(matrix, part) for part in target.split(_CHUNK_SLICES, dim=1)])


def _signs(matrix: Tensor, bits: Tensor) -> Tensor:
    """Signs of shape (n_out, anything) that bits of shape (n_in, anything) decode to."""
    return 2 * torch.remainder(matrix @ bits, 2) - 1


def _exhaustive(matrix: Tensor, target: Tensor) -> Tensor:
    n_in = matrix.shape[1]
    every = (torch.arange(2**n_in, device=matrix.device)[:, None] >> torch.arange(n_in, device=matrix.device)) & 1
    agreement = _signs(matrix, every.to(matrix.dtype).T).T @ target
    return every[agreement.argmax(0)].to(torch.uint8)


def _descent(matrix: Tensor, target: Tensor) -> Tensor:
    # Start: a stored bit takes the sign of the first row that is this bit alone, else of its rows' summed targets.
    alone = matrix * (matrix.sum(1, keepdim=True) == 1)
    has_own_row = alone.sum(0) > 0
    wish = torch.where(has_own_row[:, None], alone.T @ target, matrix.T @ target)
    bits = (wish >= 0).to(matrix.dtype)
    for _ in range(4 * matrix.shape[1]):
        # Flipping bit j turns the sign of all rows that tap it: it gains -2 * their summed agreement.
        gain, which = (-(matrix.T @ (target * _signs(matrix, bits)))).max(0)
        better = gain > 0
        if not better.any():
            break
        flip = torch.zeros_like(bits).scatter_(0, which[None], better.to(bits.dtype)[None])
        bits = (bits - flip).abs()
    return bits.T.to(torch.uint8)
