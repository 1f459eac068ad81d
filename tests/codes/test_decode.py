import numpy as np
from hypothesis import given

from flexor_search.codes import decode_packed, decode_reference, decode_rows, decode_signs, pack_planes

from .strategies import bits, planes, rngs


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


@given(planes(), rngs())
def test_signs_are_the_reference_bits_as_minus_one_and_one(plane, rng):
    code, n_slices, n_weights = plane
    stored = bits(rng, code.n_in, n_slices)
    signs = decode_signs(code, pack_planes(stored), n_weights)
    assert signs.dtype == np.int8
    assert signs.tolist() == [2 * bit - 1 for bit in decode_reference(code, stored, n_weights).tolist()]


@given(planes(), rngs())
def test_packed_rows_are_the_packed_reference(plane, rng):
    code, n_slices, _ = plane
    stored = bits(rng, code.n_in, n_slices)
    wanted = decode_reference(code, stored, n_slices * code.n_out).reshape(code.n_out, n_slices)
    assert np.array_equal(decode_rows(code, pack_planes(stored)), pack_planes(wanted))
