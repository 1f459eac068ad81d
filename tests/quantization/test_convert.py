"""quantize_: whole models, nested, with kept layers; wrong allocations; what training sees."""

import copy

import pytest
import torch
from torch import nn

from flexor_search.errors import ModelError
from flexor_search.planning import KEPT, Allocation, LayerSpec
from flexor_search.quantization import FlexorWeight, describe, flexor_weights, quantize_, set_s_tanh

from .models import encrypted_and_scale, quantize_all, randomize
from .oracles import decoded_weight

SPEC = LayerSpec(n_in=4, n_out=7)


class Nested(nn.Module):
    """Blocks in blocks, a ModuleList, a kept layer, and layers that no code touches."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        inner = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.BatchNorm2d(4), nn.ReLU())
        larger = nn.Sequential(nn.ConvTranspose2d(4, 4, 2), nn.GroupNorm(2, 4))
        self.blocks = nn.ModuleList([nn.Sequential(inner), larger])
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = x[..., :6, :6] + block(x)[..., :6, :6]
        return self.head(x.mean((2, 3)))


def test_a_nested_model_computes_as_a_plain_one_with_the_decoded_weights():
    torch.manual_seed(0)
    plain = Nested().eval()
    chosen = {"blocks.0.0.0": SPEC, "blocks.1.0": LayerSpec("taps", 5, 9, n_planes=2), "head": SPEC}
    model = quantize_(copy.deepcopy(plain), Allocation.of(describe(plain), chosen)).eval()
    assert set(flexor_weights(model)) == set(chosen)
    assert torch.equal(model.stem.weight, plain.stem.weight)
    for name, spec in chosen.items():
        layer = model.get_submodule(name)
        randomize(layer)
        plain.get_submodule(name).weight.data = decoded_weight(layer, *encrypted_and_scale(layer), spec.codes)
    images = torch.randn(3, 1, 6, 6)
    torch.testing.assert_close(model(images), plain(images))


def test_classes_biases_and_training_mode_stay_and_the_weight_is_no_longer_a_parameter():
    model = Nested()
    bias = model.stem.bias
    quantize_all(model, SPEC)
    assert model.training
    assert isinstance(model.stem, nn.Conv2d)
    assert model.stem.bias is bias
    names = {name for name, _ in model.named_parameters()}
    assert not {"stem.weight", "head.weight", "blocks.0.0.0.weight"} & names
    assert {"stem.parametrizations.weight.original0", "stem.parametrizations.weight.original1"} <= names


@pytest.mark.parametrize("surrogate", ["flexor", "ste", "analog"])
def test_a_step_of_training_moves_every_encrypted_weight_and_scale(surrogate):
    torch.manual_seed(0)
    model = quantize_all(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)), SPEC, surrogate=surrogate)
    model(torch.randn(5, 6)).square().sum().backward()
    for layer in (model[0], model[2]):
        for parameter in encrypted_and_scale(layer):
            assert (parameter.grad != 0).float().mean() > 0.9


def test_the_surrogate_is_the_one_asked_for():
    gradients = []
    for surrogate in ("flexor", "ste", "analog"):
        torch.manual_seed(0)
        layer = quantize_all(nn.Linear(6, 8), LayerSpec("taps", 4, 8, n_tap=3), surrogate=surrogate)
        layer(torch.ones(1, 6)).sum().backward()
        gradients.append(encrypted_and_scale(layer)[0].grad)
    assert not torch.allclose(gradients[0], gradients[1])
    assert not torch.allclose(gradients[0], gradients[2])


def test_first_values_follow_the_global_seed():
    def first(seed):
        torch.manual_seed(seed)
        return encrypted_and_scale(quantize_all(nn.Linear(6, 8), SPEC))[0]

    assert torch.equal(first(3), first(3))
    assert not torch.equal(first(3), first(4))


def test_a_model_all_kept_is_left_as_it_is():
    model = Nested()
    before = copy.deepcopy(model.state_dict())
    quantize_(model, Allocation.of(describe(model), {}, default=KEPT))
    assert before.keys() == model.state_dict().keys()
    assert flexor_weights(model) == {}


def test_set_s_tanh_reaches_every_layer():
    model = quantize_all(Nested(), LayerSpec(n_in=4, n_out=7, n_planes=2))
    set_s_tanh(model, 3.5)
    slopes = [module.s_tanh.item() for module in model.modules() if isinstance(module, FlexorWeight)]
    assert slopes == [3.5] * 4


def test_a_quantized_model_can_be_copied_and_its_state_restored():
    model = quantize_all(Nested(), SPEC).eval()
    other = quantize_all(Nested(), SPEC).eval()
    images = torch.randn(2, 1, 6, 6)
    wanted = model(images)
    assert torch.equal(copy.deepcopy(model)(images), wanted)
    assert not torch.equal(other(images), wanted)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(images), wanted)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3)), r"1\[2, 4\], 1\[3, 4\]"),
        (nn.Sequential(nn.Linear(5, 4)), r"1\[2, 4\]"),
        (nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 2, bias=False)), "biases"),
        (nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 2), nn.BatchNorm1d(2)), "biases, batch norms"),
    ],
)
def test_an_allocation_for_another_model_is_refused_and_changes_nothing(other, named):
    allocation = Allocation.of(describe(other), {}, default=SPEC)
    model = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 2))
    with pytest.raises(ModelError, match=f"(?s)another model.*{named}"):
        quantize_(model, allocation)
    assert flexor_weights(model) == {}


def test_quantizing_twice_is_refused():
    model = nn.Sequential(nn.Linear(5, 4))
    allocation = Allocation.of(describe(model), {}, default=SPEC)
    quantize_(model, allocation)
    with pytest.raises(ModelError, match="parametrized already"):
        quantize_(model, allocation)
