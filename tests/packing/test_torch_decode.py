"""Decoding in torch gives the reference's bits on every device, and can be traced."""

import numpy as np
import pytest
import torch
from codes.strategies import bits, planes, rngs
from hypothesis import given, settings
from hypothesis import strategies as st

from flexor_search import codes
from flexor_search.codes import make_code, pack_planes
from flexor_search.packing.torch_decode import decode_bits, decode_rows, decode_signs, tap_indices


def check(plane, rng, device):
    code, n_slices, n_weights = plane
    stored = bits(rng, code.n_in, n_slices)
    packed, taps = torch.from_numpy(pack_planes(stored)).to(device), tap_indices(code).to(device)
    expected = codes.decode_reference(code, stored, n_weights)
    found = decode_bits(packed, taps, n_weights)
    assert found.dtype == torch.uint8
    assert np.array_equal(found.cpu().numpy(), expected)
    assert np.array_equal(decode_rows(packed, taps).cpu().numpy(), codes.decode_rows(code, pack_planes(stored)))
    for dtype in (torch.int8, torch.float16, torch.float32):
        signs = decode_signs(packed, taps, n_weights, dtype)
        assert signs.dtype == dtype
        assert np.array_equal(signs.cpu().numpy(), expected.astype(np.int8) * 2 - 1)


@given(plane=planes(), rng=rngs())
def test_bits_and_signs_are_those_of_the_reference(plane, rng):
    check(plane, rng, "cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@given(plane=planes(), rng=rngs())
def test_bits_and_signs_are_those_of_the_reference_on_a_gpu(plane, rng):
    check(plane, rng, "cuda")


class Decoder(torch.nn.Module):
    """A module that holds stored planes and decodes them when it is called."""

    def __init__(self, packed, code, n_weights):
        super().__init__()
        self.register_buffer("planes", packed)
        self.register_buffer("taps", tap_indices(code))
        self.n_weights = n_weights

    def forward(self, scale):
        return scale * decode_signs(self.planes, self.taps, self.n_weights)


@settings(max_examples=5)
@given(rngs(), st.integers(1, 400))
def test_it_can_be_exported(rng, n_weights):
    code = make_code("taps", 6, 10, n_tap=3)
    packed = torch.from_numpy(pack_planes(bits(rng, 6, -(-n_weights // 10))))
    module, scale = Decoder(packed, code, n_weights), torch.tensor(0.25)
    exported = torch.export.export(module, (scale,)).module()
    assert torch.equal(exported(scale), module(scale))


@pytest.mark.parametrize("packed", [torch.zeros(2, 1, dtype=torch.uint8), torch.zeros(2, 2)])
def test_planes_that_do_not_belong_to_the_weights_are_refused(packed):
    with pytest.raises(ValueError, match="27 weights of this code take 2 bytes of uint8 a plane"):
        decode_bits(packed, tap_indices(make_code("systematic", 2, 3)), 27)


def test_a_dtype_without_a_sign_is_refused():
    code = make_code("systematic", 2, 3)
    with pytest.raises(ValueError, match=r"must hold -1, got torch\.uint8; take decode_bits"):
        decode_signs(torch.zeros(2, 1, dtype=torch.uint8), tap_indices(code), 24, torch.uint8)
