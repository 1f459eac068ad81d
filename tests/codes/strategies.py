import numpy as np
from hypothesis import strategies as st

from flexor_search.codes import FAMILIES, XorCode, make_code


def bits(rng, *shape):
    """Random 0/1 entries."""
    return rng.integers(0, 2, shape, dtype=np.uint8)


def rngs():
    return st.integers(0, 2**32 - 1).map(np.random.default_rng)


@st.composite
def matrices(draw, max_rows=24, max_columns=24):
    """Any 0/1 matrix, of any rank."""
    rows, columns = draw(st.integers(1, max_rows)), draw(st.integers(1, max_columns))
    inner = draw(st.integers(0, min(rows, columns)))
    rng = draw(rngs())
    if draw(st.booleans()):
        return bits(rng, rows, columns)
    product = bits(rng, rows, inner).astype(int) @ bits(rng, inner, columns)
    return (product % 2).astype(np.uint8)


@st.composite
def user_codes(draw, max_in=40, max_out=64):
    """A code of any density, as a user could give it."""
    n_in = draw(st.integers(1, max_in))
    n_out = draw(st.integers(n_in, max_out))
    density, rng = draw(st.floats(0.02, 1)), draw(rngs())
    matrix = (rng.random((n_out, n_in)) < density).astype(np.uint8)
    matrix[np.arange(n_out), rng.integers(0, n_in, n_out)] = 1  # no row is empty
    return XorCode.from_matrix(matrix)


@st.composite
def drawn_codes(draw, families=tuple(FAMILIES), max_in=40, max_out=64, taps=(1, 2, 3)):
    """A code of a family."""
    n_in = draw(st.integers(1, max_in))
    n_out = draw(st.integers(n_in, max_out))
    return make_code(
        draw(st.sampled_from(families)),
        n_in,
        n_out,
        n_tap=draw(st.sampled_from(taps)),
        seed=draw(st.integers(0, 10**6)),
    )


def codes():
    return user_codes() | drawn_codes()


@st.composite
def planes(draw, max_slices=40):
    """A code, its slices, and how many of their weights the plane holds."""
    code, n_slices = draw(codes()), draw(st.integers(1, max_slices))
    surplus = draw(st.integers(0, code.n_out - 1))
    return code, n_slices, n_slices * code.n_out - surplus
