"""XOR codes: N_in stored bits give N_out weights through a network of XOR gates.

A code is the list of its rows' taps: row r names the stored bits whose XOR is output bit r (paper: M^xor). Codes are
plain data. Files store the taps, so nothing that is written depends on how a code was drawn; drawing is still
deterministic in its seed, from numpy's raw PCG64 stream, which numpy documents as stable across versions (its
`Generator` methods are not).
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from flexor_search.codes.gf2 import BitMatrix, gf2_rank, gf2_row_reduce

Taps = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class ReducedCode:
    """An equal code in fewest stored bits, and the map that re-codes stored bits.

    Attributes:
        code: has n_in == rank of the original and the same image, row for row.
        recode: 0/1 matrix, shape (rank, n_in of the original). New stored bits are `recode @ old (mod 2)`, and they
            decode under `code` to exactly what the old ones decode to under the original.
    """

    code: "XorCode"
    recode: BitMatrix


@dataclass(frozen=True)
class XorCode:
    """A linear map from n_in stored bits to n_out output bits.

    Attributes:
        n_in: stored bits per slice.
        taps: for each output bit the ascending, distinct indices of the stored bits whose XOR it is; none is empty.
        family: the name of the rule that made it, "matrix" for one given by the user.

    Raises:
        ValueError: a tap out of range, repeated or unordered, an empty row, or not 1 <= n_in <= n_out.

    Source: FleXOR (Lee et al., NeurIPS 2020), the matrix M^xor of shape (N_out, N_in).
    """

    n_in: int
    taps: Taps
    family: str = "matrix"

    def __post_init__(self) -> None:
        if not 1 <= self.n_in <= len(self.taps):
            raise ValueError(
                f"n_in: a code needs 1 <= n_in <= n_out, got n_in={self.n_in} with n_out={len(self.taps)} rows; "
                "store the weights themselves if no bits can be saved"
            )
        for row, row_taps in enumerate(self.taps):
            if not row_taps:
                raise ValueError(f"taps: row {row} is empty, its output would be constant; give it at least one tap")
            if list(row_taps) != sorted(set(row_taps)) or row_taps[0] < 0 or row_taps[-1] >= self.n_in:
                raise ValueError(
                    f"taps: row {row} must hold ascending distinct indices in 0..{self.n_in - 1}, got {row_taps}"
                )

    @property
    def n_out(self) -> int:
        """Output bits (weights) per slice."""
        return len(self.taps)

    @cached_property
    def matrix(self) -> BitMatrix:
        """The code as a 0/1 matrix, shape (n_out, n_in), read-only."""
        matrix = np.zeros((self.n_out, self.n_in), np.uint8)
        for row, row_taps in enumerate(self.taps):
            matrix[row, list(row_taps)] = 1
        matrix.setflags(write=False)
        return matrix

    @cached_property
    def rank(self) -> int:
        """Stored bits per slice that the code can make use of; sizes, budgets and files count these."""
        return gf2_rank(self.matrix)

    def reduced(self) -> ReducedCode:
        """The equal code in `rank` stored bits.

        The columns kept are a basis of the column space, so rows only lose taps; for two-tap codes this deletes one
        input per connected component.

        Example:
            >>> ring = XorCode(3, ((0, 1), (1, 2), (0, 2)))
            >>> ring.reduced().code.taps
            ((0, 1), (1,), (0,))
        """
        echelon, pivots = gf2_row_reduce(self.matrix)
        kept = self.matrix[:, pivots]
        taps = tuple(tuple(int(j) for j in np.flatnonzero(row)) for row in kept)
        return ReducedCode(XorCode(len(pivots), taps, self.family), echelon)

    @classmethod
    def from_matrix(cls, matrix: BitMatrix) -> "XorCode":
        """A code from a 0/1 matrix of shape (n_out, n_in) given by the user.

        Raises:
            ValueError: not two-dimensional, entries other than 0 and 1, an empty row, or n_in > n_out.
        """
        array = np.asarray(matrix)
        if array.ndim != 2 or not np.isin(array, (0, 1)).all():
            raise ValueError(f"matrix: must be two-dimensional with entries 0 and 1, got shape {array.shape}")
        return cls(array.shape[1], tuple(tuple(int(j) for j in np.flatnonzero(row)) for row in array))


class _Stream:
    """Uniform integers from numpy's raw PCG64 stream, by rejection, so that no range is favoured."""

    def __init__(self, seed: int) -> None:
        self._bits = np.random.PCG64(seed)

    def below(self, bound: int) -> int:
        limit = (1 << 64) - (1 << 64) % bound
        while True:
            value = int(self._bits.random_raw())
            if value < limit:
                return value % bound

    def shuffled(self, items: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
        items = list(items)
        for last in range(len(items) - 1, 0, -1):
            other = self.below(last + 1)
            items[last], items[other] = items[other], items[last]
        return items


def _combination(stream: _Stream, n_in: int, n_tap: int) -> tuple[int, ...]:
    chosen: set[int] = set()
    while len(chosen) < n_tap:
        chosen.add(stream.below(n_in))
    return tuple(sorted(chosen))


def _taps_rows(stream: _Stream, n_in: int, n_out: int, n_tap: int) -> Taps:
    """The paper's code: every row has exactly n_tap distinct inputs; rows may repeat, inputs may stay unused."""
    return tuple(_combination(stream, n_in, min(n_tap, n_in)) for _ in range(n_out))


def _random_rows(stream: _Stream, n_in: int, n_out: int, n_tap: int) -> Taps:
    """Every entry is 1 with probability 1/2; an empty row is drawn again. n_tap is not used."""
    rows: list[tuple[int, ...]] = []
    while len(rows) < n_out:
        row = tuple(j for j in range(n_in) if stream.below(2))
        if row:
            rows.append(row)
    return tuple(rows)


def _distinct_rows(stream: _Stream, n_in: int, n_tap: int, count: int) -> Iterator[tuple[int, ...]]:
    """`count` rows of n_tap inputs, distinct while the supply lasts, then repeating evenly."""
    supply = math.comb(n_in, n_tap)
    every = list(itertools.combinations(range(n_in), n_tap)) if supply <= max(4096, 2 * count) else []
    while count > 0:
        if every:
            batch = stream.shuffled(every)[:count]
        else:  # too many combinations to list: draw, and redraw the rare repeat
            drawn: dict[tuple[int, ...], None] = {}
            while len(drawn) < count:
                drawn[_combination(stream, n_in, n_tap)] = None
            batch = list(drawn)
        yield from batch
        count -= len(batch)


def _systematic_rows(stream: _Stream, n_in: int, n_out: int, n_tap: int) -> Taps:
    """Identity rows first (output j is stored bit j), then XOR rows of n_tap stored bits; n_in = 1 is repetition."""
    identity = tuple((j,) for j in range(n_in))
    return identity + tuple(_distinct_rows(stream, n_in, min(n_tap, n_in), n_out - n_in))


def _dense_rows(stream: _Stream, n_in: int, n_out: int, n_tap: int) -> Taps:
    """Identity rows first, then rows of any number of stored bits, at least two of them where there are two.

    Rows are distinct while the supply lasts, then repeat evenly: 4/20 has eleven such rows, and only six of two bits.
    n_tap is not used.
    """
    rows = [(j,) for j in range(n_in)]
    if n_in <= 12:
        counts = range(min(2, n_in), n_in + 1)
        every = [taps for count in counts for taps in itertools.combinations(range(n_in), count)]
        while len(rows) < n_out:
            rows += stream.shuffled(every)[: n_out - len(rows)]
        return tuple(rows)
    drawn: dict[tuple[int, ...], None] = {}
    while len(drawn) < n_out - n_in:  # of so many that a repeat is rare
        taps = tuple(j for j in range(n_in) if stream.below(2))
        if len(taps) > 1:
            drawn[taps] = None
    return (*rows, *drawn)


FAMILIES: dict[str, Callable[[_Stream, int, int, int], Taps]] = {
    "systematic": _systematic_rows,
    "taps": _taps_rows,
    "random": _random_rows,
    "dense": _dense_rows,
}


@lru_cache(maxsize=4096)
def make_code(family: str, n_in: int, n_out: int, *, n_tap: int = 2, seed: int = 0) -> XorCode:
    """Draw the code of a family, deterministically in its seed.

    Args:
        family: "systematic" (identity rows, then XOR of n_tap stored bits), "taps" (n_tap ones in every row, the
            paper's), "random" (each entry 0/1 with probability 1/2, no empty rows), or "dense" (identity rows, then
            rows of two or more stored bits).
        n_in: stored bits per slice, 1 <= n_in <= n_out.
        n_out: weights per slice.
        n_tap: ones per XOR row; rows of a code with n_in < n_tap have n_in ones.
        seed: any non-negative integer.

    Raises:
        ValueError: an argument outside its range.

    Example:
        >>> make_code("systematic", 2, 4).taps
        ((0,), (1,), (0, 1), (0, 1))
    """
    if family not in FAMILIES:
        raise ValueError(f"family: must be one of {', '.join(FAMILIES)}, got {family!r}")
    if not 1 <= n_in <= n_out:
        raise ValueError(f"n_in: must satisfy 1 <= n_in <= n_out, got n_in={n_in}, n_out={n_out}")
    if n_tap < 1:
        raise ValueError(f"n_tap: must be at least 1, got {n_tap}")
    if seed < 0:
        raise ValueError(f"seed: must not be negative, got {seed}")
    return XorCode(n_in, FAMILIES[family](_Stream(seed), n_in, n_out, n_tap), family)
