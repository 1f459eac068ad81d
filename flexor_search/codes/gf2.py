"""Linear algebra over GF(2), the field of two elements, on small uint8 matrices.

Decoding is linear over GF(2), so all that a code can lose or save is a question of rank. The matrices here are at most
a few hundred on a side; plain Gaussian elimination is the readable choice and is never on a hot path.
"""

import numpy as np
from numpy.typing import NDArray

BitMatrix = NDArray[np.uint8]


def gf2_row_reduce(matrix: BitMatrix) -> tuple[BitMatrix, tuple[int, ...]]:
    """Bring a 0/1 matrix to reduced row echelon form over GF(2).

    Args:
        matrix: 0/1 entries, shape (rows, columns).

    Returns:
        The non-zero rows of the echelon form, shape (rank, columns), and the pivot column of each of them. The columns
        of `matrix` at the pivots are a basis of its column space, and `matrix == matrix[:, pivots] @ echelon (mod 2)`.

    Example:
        >>> echelon, pivots = gf2_row_reduce(np.array([[1, 1, 0], [0, 1, 1], [1, 0, 1]], np.uint8))
        >>> echelon.tolist(), pivots
        ([[1, 0, 1], [0, 1, 1]], (0, 1))
    """
    work = np.bitwise_and(matrix, 1, dtype=np.uint8, casting="unsafe")
    pivots: list[int] = []
    for column in range(work.shape[1]):
        row = len(pivots)
        candidates = np.flatnonzero(work[row:, column])
        if candidates.size == 0:
            continue
        pivot_row = row + int(candidates[0])
        work[[row, pivot_row]] = work[[pivot_row, row]]
        others = np.flatnonzero(work[:, column])
        others = others[others != row]
        work[others] ^= work[row]
        pivots.append(column)
        if len(pivots) == work.shape[0]:
            break
    return work[: len(pivots)], tuple(pivots)


def gf2_rank(matrix: BitMatrix) -> int:
    """Rank of a 0/1 matrix over GF(2).

    Example:
        >>> gf2_rank(np.array([[1, 1, 0], [0, 1, 1], [1, 0, 1]], np.uint8))
        2
    """
    return len(gf2_row_reduce(matrix)[1])
