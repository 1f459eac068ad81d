"""Starting from a model's present weights: the nearest codeword, and scales by least squares."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flexor_search.codes import make_code
from flexor_search.planning import LayerSpec
from flexor_search.quantization import flexor_weights
from flexor_search.quantization.nearest_codeword import nearest_stored_bits

from .models import LAYERS, encrypted_and_scale, quantize_all, specs
from .oracles import channel_of


def agreement(code, bits, target):
    """Sum of target * sign for each column of bits, shape (n_in, n)."""
    return ((2 * (code.matrix.astype(int) @ bits % 2) - 1) * target).sum(0)


def whole_numbers(seed, n_out, n_slices):
    """Targets without rounding errors in their sums; ties and zeros occur."""
    return np.random.default_rng(seed).integers(-9, 10, (n_out, n_slices))


def found_bits(code, target):
    matrix = torch.tensor(code.matrix, dtype=torch.float32)
    return nearest_stored_bits(matrix, torch.tensor(target, dtype=torch.float32)).numpy().T.astype(int)


@given(specs(max_out=14).filter(lambda spec: spec.n_in <= 7), st.integers(0, 2**32))
def test_up_to_twelve_inputs_no_codeword_is_nearer(spec, seed):
    code, target = spec.codes[0], whole_numbers(seed, spec.n_out, 3)
    found = agreement(code, found_bits(code, target), target)
    every = np.array(list(itertools.product((0, 1), repeat=code.n_in))).T
    for s in range(3):
        assert found[s] == agreement(code, every, target[:, s : s + 1]).max()


@pytest.mark.parametrize("family", ["systematic", "taps", "random"])
def test_exactly_twelve_inputs_are_still_exhaustive(family):
    code, target = make_code(family, 12, 20), whole_numbers(1, 20, 5)
    every = np.array(list(itertools.product((0, 1), repeat=12))).T
    best = [agreement(code, every, target[:, s : s + 1]).max() for s in range(5)]
    assert agreement(code, found_bits(code, target), target).tolist() == best


@settings(max_examples=30)
@given(st.sampled_from(["systematic", "taps", "random"]), st.integers(13, 24), st.integers(0, 2**32))
def test_larger_codes_end_no_worse_than_the_start_and_where_no_single_flip_helps(family, n_in, seed):
    code, target = make_code(family, n_in, 24, seed=seed), whole_numbers(seed, 24, 6)
    bits = found_bits(code, target)
    found = agreement(code, bits, target)
    start = np.zeros_like(bits)
    for j in range(n_in):
        alone = [r for r, taps in enumerate(code.taps) if taps == (j,)]
        tapped = [r for r, taps in enumerate(code.taps) if j in taps]
        start[j] = target[alone or tapped].sum(0) >= 0
    assert (found >= agreement(code, start, target)).all()
    for j in range(n_in):
        flipped = bits.copy()
        flipped[j] ^= 1
        assert (agreement(code, flipped, target) <= found).all()


@given(st.sampled_from(sorted(LAYERS)), specs(max_planes=1))
def test_scales_are_least_squares_of_the_weights(name, spec):
    layer = LAYERS[name][0](True)
    before = layer.weight.detach().clone()
    quantize_all(layer, spec, pretrained=True)
    encrypted, scale = (tensor.detach() for tensor in encrypted_and_scale(layer))
    signs = 2.0 * flexor_weights(layer)[""].weight_bits(encrypted)[0].view(before.shape) - 1
    products = {}
    for index in np.ndindex(*before.shape):
        products.setdefault(channel_of(index, layer), []).append((before[index] * signs[index]).item())
    for channel, values in products.items():
        assert scale[0, channel].item() == pytest.approx(np.mean(values), abs=1e-5)


@pytest.mark.parametrize("name", sorted(LAYERS))
def test_a_code_without_loss_keeps_the_signs_and_each_plane_brings_the_weights_nearer(name):
    torch.manual_seed(1)
    layer = LAYERS[name][0](True)
    before = layer.weight.detach().clone()
    errors = []
    for n_planes in (1, 2, 3, 4):
        copy = LAYERS[name][0](True)
        copy.load_state_dict(layer.state_dict())
        quantize_all(copy, LayerSpec(n_in=8, n_out=8, n_planes=n_planes), pretrained=True)
        errors.append((copy.weight - before).square().sum().item())
        if n_planes == 1:
            assert torch.equal(copy.weight.sign(), before.sign())
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.05 * before.square().sum().item()


def test_pretrained_draws_no_random_numbers():
    before = torch.get_rng_state()
    state = nn.Linear(8, 8).state_dict()
    torch.set_rng_state(before)
    layer = nn.Linear(8, 8)
    layer.load_state_dict(state)
    after = torch.get_rng_state()
    quantize_all(layer, LayerSpec(n_in=4), pretrained=True)
    assert torch.equal(torch.get_rng_state(), after)
