"""pack: folding by hand, rounding once, values that a file cannot hold; and the arrays a packed model gives."""

import numpy as np
import pytest
import torch
from torch import nn

from flexor_search.errors import ModelError, VerificationError
from flexor_search.packing import check_storable, from_bytes, pack, to_bytes
from flexor_search.planning import KEPT, Allocation, LayerSpec, file_layout
from flexor_search.quantization import describe, flexor_weights, quantize_

from .models import as_trained, digits_case


def test_folding_by_hand():
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2, eps=0.25)).eval()
    with torch.no_grad():
        net[1].running_mean.copy_(torch.tensor([1.0, -2.0]))
        net[1].running_var.copy_(torch.tensor([3.75, 0.0]))  # with eps: roots 2 and 0.5
        net[1].weight.copy_(torch.tensor([4.0, -1.0]))
        net[1].bias.copy_(torch.tensor([0.5, 0.25]))
        net[0].bias.copy_(torch.tensor([3.0, 1.0]))
    kept = pack(net, Allocation.of(describe(net), {}, "float32")).kept
    assert kept["0.bias"].tolist() == [(3 - 1) * 2 + 0.5, (1 + 2) * -2 + 0.25]
    assert np.array_equal(kept["0.weight"], net[0].weight.detach().numpy() * np.float32([[2], [-2]]))
    allocation = Allocation.of(describe(net), {"0": LayerSpec(n_in=2, n_out=2)}, "float32")
    quantize_(net, allocation)
    with torch.no_grad():
        net[0].parametrizations.weight.original1.copy_(torch.tensor([[0.5, 0.75]]))
    packed = pack(net, allocation)
    assert packed.layers[0].scale.tolist() == [[1.0, -1.5]]
    assert packed.folded == ("1",)


def test_what_is_folded_is_computed_in_float64_and_rounded_once():
    case = digits_case("float32")
    norm, scale = case.model[1].double(), case.model[0].parametrizations.weight.original1.double()
    exact = (scale * norm.weight / torch.sqrt(norm.running_var + norm.eps)).detach().numpy()
    norm.float()
    packed = pack(case.model, case.allocation)
    assert np.array_equal(packed.layers[0].scale, exact.astype(np.float32))


def test_the_weight_is_the_sum_of_scaled_signs_in_either_decoder():
    case = digits_case("float32")
    for layer in from_bytes(to_bytes(pack(case.model, case.allocation), case.allocation)).layers:
        if layer.name != "0":  # whose scales the batch norm changed
            trained = case.model.get_submodule(layer.name).weight.detach().numpy()
            assert np.allclose(layer.weight(), trained, rtol=1e-6, atol=0)
        assert np.array_equal(layer.weight("reference"), layer.weight("fast"))
        assert layer.weight().dtype == np.float32
        assert layer.weight().shape == layer.weight_shape


@pytest.mark.parametrize("value", [1e6, -1e6, float("inf"), float("nan")])
@pytest.mark.parametrize("where", ["scale", "bias", "buffer"])
def test_a_value_that_float16_cannot_hold(where, value):
    case = digits_case()
    tensors = {
        "scale": case.model[0].parametrizations.weight.original1,
        "bias": case.model[8].bias,
        "buffer": case.model[5].running_mean,
    }
    with torch.no_grad():
        tensors[where].view(-1)[0] = value
    with pytest.raises(VerificationError, match="float16 cannot; set kept_dtype to float32"):
        pack(case.model, case.allocation)


def test_float32_holds_what_float16_cannot_but_no_more():
    case = digits_case("float32")
    bias = case.model[8].bias
    with torch.no_grad():
        bias[0] = 1e6
    assert pack(case.model, case.allocation).kept["8.bias"][0] == 1e6
    with torch.no_grad():
        bias[0] = float("nan")
    with pytest.raises(VerificationError, match=r"8.bias holds a value that float32 cannot; train again"):
        pack(case.model, case.allocation)


@pytest.mark.parametrize("spec", [KEPT, LayerSpec(n_in=4, n_out=8)])
def test_a_model_that_is_one_layer(spec):
    layer = nn.Linear(4, 4, bias=False)
    allocation = Allocation.of(describe(layer), {}, default=spec)
    packed = pack(as_trained(quantize_(layer, allocation), 0), allocation)
    raw = to_bytes(packed, allocation)
    assert len(raw) == file_layout(allocation).file_bytes
    assert from_bytes(raw).payload_bytes == allocation.payload_bits // 8


def test_a_code_that_two_layers_share_is_stored_once():
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    allocation = Allocation.of(describe(net), {}, default=LayerSpec(n_in=8))
    found = from_bytes(to_bytes(pack(quantize_(net, allocation), allocation), allocation))
    assert found.layers[0].codes[0] is found.layers[1].codes[0]


def test_slices_of_consecutive_weights_are_refused():
    layer = nn.Linear(40, 8)
    allocation = Allocation.of(describe(layer), {}, default=LayerSpec(n_in=8, n_out=20))
    quantize_(layer, allocation)
    for weight in flexor_weights(layer).values():
        weight.slice_order = "consecutive"
    with pytest.raises(VerificationError, match="has slice_order 'consecutive'; the format has \"planes\""):
        pack(layer, allocation)


class Masked(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 40), nn.ReLU(), nn.Linear(40, 3))
        self.register_buffer("mask", torch.tensor([0.0, value]))


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        (-1e9, "float16", "mask holds a value that float16 cannot; set kept_dtype to float32 in the space"),
        (-1e9, "float32", None),
        (float("-inf"), "float32", "mask holds a value that no float32 of a packed file can.* persistent=False"),
    ],
)
def test_a_constant_that_no_file_can_hold_is_refused_before_any_training(value, dtype, message):
    model = Masked(value)
    allocation = Allocation.of(describe(model), {}, default=LayerSpec(), kept_dtype=dtype)
    if message is None:
        check_storable(model, allocation)
    else:
        with pytest.raises(ModelError, match=f"model: .*{message}"):
            check_storable(model, allocation)
