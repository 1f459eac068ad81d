"""The encrypted weight of one layer: weight order, the scales' axis, first values."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flexor_search.planning import LayerSpec
from flexor_search.quantization import flexor_weights

from .models import LAYERS, encrypted_and_scale, quantize_all, randomize, specs
from .oracles import decoded_weight

layer_names = st.sampled_from(sorted(LAYERS))


def quantized(name, spec, bias=False):
    make, shape = LAYERS[name]
    layer = quantize_all(make(bias), spec)
    randomize(layer)
    return layer, torch.randn(shape)


@given(st.integers(1, 60), st.integers(1, 9), specs(max_planes=1))
def test_row_r_of_slice_s_is_weight_r_times_slices_plus_s(n_inputs, n_outputs, spec):
    layer = quantize_all(nn.Linear(n_inputs, n_outputs, bias=False), spec)
    randomize(layer)
    encrypted, scale = encrypted_and_scale(layer)
    n_slices = math.ceil(n_inputs * n_outputs / spec.n_out)
    assert encrypted.shape == (1, n_slices, spec.n_in)
    bits = (encrypted[0] >= 0).tolist()
    for index, weight in enumerate(layer.weight.flatten().tolist()):
        row, s = divmod(index, n_slices)
        bit = sum(bits[s][tap] for tap in spec.codes[0].taps[row]) % 2
        assert weight == scale[0, index // n_inputs].item() * (1 if bit else -1)


@given(st.integers(1, 60), st.integers(1, 9), specs(max_planes=1))
def test_consecutive_weights_share_a_slice_where_a_study_asks_for_it(n_inputs, n_outputs, spec):
    layer = quantize_all(nn.Linear(n_inputs, n_outputs, bias=False), spec)
    randomize(layer)
    (weight,) = flexor_weights(layer).values()
    weight.slice_order = "consecutive"
    encrypted, scale = encrypted_and_scale(layer)
    bits = (encrypted[0] >= 0).tolist()
    for index, value in enumerate(layer.weight.flatten().tolist()):
        s, row = divmod(index, spec.n_out)
        bit = sum(bits[s][tap] for tap in spec.codes[0].taps[row]) % 2
        assert value == scale[0, index // n_inputs].item() * (1 if bit else -1)


@settings(max_examples=60)
@given(layer_names, specs())
def test_every_kind_of_layer_computes_with_the_decoded_weights(name, spec):
    layer, inputs = quantized(name, spec, bias=True)
    weight = decoded_weight(layer, *encrypted_and_scale(layer), spec.codes)
    torch.testing.assert_close(layer.weight, weight)
    plain = LAYERS[name][0](True)
    plain.load_state_dict({"weight": weight, "bias": layer.bias})
    torch.testing.assert_close(layer(inputs), plain(inputs))


@pytest.mark.parametrize("n_planes", [1, 2])
@pytest.mark.parametrize("name", sorted(LAYERS))
def test_a_scale_changes_its_output_channel_and_no_other(name, n_planes):
    layer, inputs = quantized(name, LayerSpec(n_in=4, n_out=7, n_planes=n_planes))
    scale = encrypted_and_scale(layer)[1]
    with torch.no_grad():
        before, first = layer(inputs), scale.clone()
        for channel in range(before.shape[1]):
            scale.copy_(first)[-1, channel] += 3
            changed = (layer(inputs) != before).transpose(0, 1).flatten(1).any(1)
            assert changed.nonzero().flatten().tolist() == [channel]


@given(layer_names, specs())
def test_weight_bits_and_stored_bits_are_the_signs(name, spec):
    layer, _ = quantized(name, spec)
    encrypted, _ = encrypted_and_scale(layer)
    weight = flexor_weights(layer)[""]
    with torch.no_grad():
        encrypted[0, 0, 0] = -0.0  # counts as +0.0 everywhere
    stored = weight.stored_bits(encrypted.detach()).numpy()
    assert np.array_equal(stored, (encrypted.detach().numpy() >= 0).transpose(0, 2, 1))
    with torch.no_grad():
        encrypted_and_scale(layer)[1].fill_(1)
    bits = weight.weight_bits(encrypted.detach())
    assert bits.dtype == torch.uint8
    assert torch.equal((2.0 * bits - 1).sum(0).view(layer.weight.shape), layer.weight.detach())


@given(layer_names, specs())
def test_under_bfloat16_autocast_the_weight_is_still_exact(name, spec):
    layer, _ = quantized(name, spec)
    plain = layer.weight.detach().clone()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer.weight, plain)


def test_first_values_are_the_papers_behind_a_batch_norm():
    torch.manual_seed(0)
    net = quantize_all(nn.Sequential(nn.Conv2d(16, 32, 3), nn.BatchNorm2d(32)), LayerSpec(n_in=12, n_planes=2))
    encrypted, scale = encrypted_and_scale(net[0])
    assert scale.tolist() == [[pytest.approx(0.2)] * 32, [pytest.approx(0.1)] * 32]
    assert encrypted.mean().item() == pytest.approx(0, abs=1e-4)
    assert encrypted.std().item() == pytest.approx(1e-3, rel=0.1)


@pytest.mark.parametrize("name", sorted(LAYERS))
def test_without_batch_norm_the_first_scale_is_by_fan_in(name):
    layer = quantize_all(LAYERS[name][0](True), LayerSpec(n_in=4, n_out=7))
    fan_in = layer.weight.numel() / (layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)
    assert encrypted_and_scale(layer)[1].flatten().tolist() == pytest.approx([math.sqrt(2 / fan_in)] * len(layer.bias))


def test_a_net_without_batch_norm_neither_collapses_nor_explodes():
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(1, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 10)),
    )
    quantize_all(net, LayerSpec(n_in=12))
    values = torch.randn(64, 1, 28, 28)
    for layer in net:
        values = layer(values)
        if hasattr(layer, "weight"):
            assert 0.3 < values.std().item() < 5
            assert values.std(0).mean().item() > 0.2  # the images still differ


def test_it_shows_what_it_stores():
    assert "2x8/20, 35 weights" in repr(quantize_all(nn.Linear(7, 5), LayerSpec(n_in=8, n_planes=2)))
