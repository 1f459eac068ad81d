import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexor_search.codes import pack_planes, plane_bytes, unpack_planes

from .strategies import bits, rngs


@given(rngs(), st.integers(0, 5), st.integers(1, 70))
def test_unpacking_undoes_packing_at_any_length(rng, planes, n_slices):
    stored = bits(rng, planes, n_slices)
    packed = pack_planes(stored)
    assert packed.shape == (planes, plane_bytes(n_slices))
    assert (unpack_planes(packed, n_slices) == stored).all()


@given(rngs(), st.integers(1, 70))
def test_a_packed_plane_is_one_little_endian_number(rng, n_slices):
    stored = bits(rng, 1, n_slices)
    number = int.from_bytes(pack_planes(stored).tobytes(), "little")
    assert number == sum(int(bit) << s for s, bit in enumerate(stored[0]))


@given(rngs(), st.integers(1, 70).filter(lambda n: n % 8), st.data())
def test_a_padding_bit_that_is_set_is_refused(rng, n_slices, data):
    packed = pack_planes(bits(rng, 3, n_slices))
    packed[data.draw(st.integers(0, 2)), -1] |= 1 << data.draw(st.integers(n_slices % 8, 7))
    with pytest.raises(ValueError, match="padding bits must be zero"):
        unpack_planes(packed, n_slices)


@pytest.mark.parametrize("shape", [(2, 1), (2, 3), (2,), (1, 2, 2)])
def test_bytes_that_do_not_belong_to_the_slices_are_refused(shape):
    with pytest.raises(ValueError, match="9 slices take 2 bytes a plane"):
        unpack_planes(np.zeros(shape, np.uint8), 9)


@pytest.mark.parametrize(("n_slices", "expected"), [(1, 1), (8, 1), (9, 2), (16, 2), (17, 3)])
def test_a_plane_takes_whole_bytes(n_slices, expected):
    assert plane_bytes(n_slices) == expected
