import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from flexor_search.codes import decode_packed, decode_reference, pack_planes

from .strategies import bits, codes, rngs


@st.composite
def planes(draw):
    """A code, its slices, and how many of their weights the plane holds."""
    code, n_slices = draw(codes()), draw(st.integers(1, 40))
    surplus = draw(st.integers(0, code.n_out - 1))
    return code, n_slices, n_slices * code.n_out - surplus


@given(planes(), rngs())
def test_every_weight_is_the_xor_of_its_rows_taps(plane, rng):
    code, n_slices, n_weights = plane
    stored = bits(rng, code.n_in, n_slices)
    decoded = decode_reference(code, stored, n_weights)
    for index in rng.integers(0, n_weights, 20):
        row, s = divmod(int(index), n_slices)
        assert decoded[index] == sum(int(stored[tap, s]) for tap in code.taps[row]) % 2
    assert decoded.shape == (n_weights,)


@given(planes(), rngs())
def test_decoding_is_linear(plane, rng):
    code, n_slices, n_weights = plane
    one, other = bits(rng, code.n_in, n_slices), bits(rng, code.n_in, n_slices)
    apart = decode_reference(code, one, n_weights) ^ decode_reference(code, other, n_weights)
    assert (decode_reference(code, one ^ other, n_weights) == apart).all()


@given(planes(), rngs())
def test_the_packed_decoder_equals_the_reference(plane, rng):
    code, n_slices, n_weights = plane
    stored = bits(rng, code.n_in, n_slices)
    decoded = decode_packed(code, pack_planes(stored), n_slices, n_weights)
    assert decoded.dtype == np.uint8
    assert decoded.tolist() == decode_reference(code, stored, n_weights).tolist()
