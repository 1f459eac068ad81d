"""Weights that several modules share: one layer, counted, trained and decoded once."""

import copy

import pytest
import torch
from torch import nn

from flexor_search.planning import KEPT, LayerSpec
from flexor_search.quantization import describe, flexor_weights

from .models import encrypted_and_scale, quantize_all, randomize
from .oracles import decoded_weight

SPEC = LayerSpec(n_in=4, n_out=7, n_planes=2)


class TwoLinears(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(torch.tanh(self.first(x.float())))


class Language(nn.Module):
    """An embedding whose weight is also the last layer's; either can come first."""

    def __init__(self, embedding_first):
        super().__init__()
        embedding, head = nn.Embedding(9, 6), nn.Linear(6, 9)
        head.weight = embedding.weight
        parts = [("embedding", embedding), ("head", head)]
        for name, part in parts if embedding_first else reversed(parts):
            self.add_module(name, part)

    def forward(self, x):
        return self.head(self.embedding(x).mean(1))


class SameModuleTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Linear(6, 6)
        self.other = self.one

    def forward(self, x):
        return self.other(torch.tanh(self.one(x.float())))


class OwnedByTheModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 6)
        self.shared = self.layer.weight

    def forward(self, x):
        return self.layer(x.float()) @ self.shared


MODELS = {
    "two linears": TwoLinears,
    "embedding, then linear": lambda: Language(True),
    "linear, then embedding": lambda: Language(False),
    "the same module twice": SameModuleTwice,
    "a parameter of the model itself": OwnedByTheModel,
}
INPUTS = torch.randint(0, 9, (4, 6), generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=MODELS)
def plain(request):
    torch.manual_seed(0)
    return MODELS[request.param]()


def test_it_is_described_and_counted_once(plain):
    shape = describe(plain)
    (layer,) = shape.layers
    assert len(layer.tied_to) == 1
    assert layer.tensor_name("weight") not in layer.tied_to
    assert {layer.tensor_name("weight"), *layer.tied_to} <= set(plain.state_dict())
    stored = layer.n_weights + layer.out_channels + sum(tensor.elements for tensor in shape.others)
    assert shape.float_elements == stored == sum(parameter.numel() for parameter in plain.parameters())


def test_it_is_one_pair_of_parameters_that_all_users_train(plain):
    model = quantize_all(copy.deepcopy(plain), SPEC)
    ((name, _),) = flexor_weights(model).items()
    encrypted, scale = encrypted_and_scale(model.get_submodule(name))
    floats = {id(parameter) for parameter in plain.parameters()}
    assert len(list(model.parameters())) == len(floats) + 1  # two in place of one
    model(INPUTS).square().sum().backward()
    assert (encrypted.grad != 0).all()
    assert (scale.grad != 0).any()
    for parameter in model.parameters():
        assert parameter.grad is not None


def test_it_computes_as_the_plain_model_with_the_decoded_weight(plain):
    model = quantize_all(copy.deepcopy(plain), SPEC)
    ((name, _),) = flexor_weights(model).items()
    layer = model.get_submodule(name)
    randomize(layer)
    weight = decoded_weight(layer, *encrypted_and_scale(layer), SPEC.codes)
    with torch.no_grad():
        plain.get_submodule(name).weight.copy_(weight)  # in place: the tie holds
    torch.testing.assert_close(model(INPUTS), plain(INPUTS))


def test_the_gradient_is_the_sum_over_both_uses():
    torch.manual_seed(0)
    plain = TwoLinears()
    model = quantize_all(copy.deepcopy(plain), SPEC)
    randomize(model.first)
    with torch.no_grad():
        plain.first.weight.copy_(model.first.weight)
    model(INPUTS).square().sum().backward()
    plain(INPUTS).square().sum().backward()
    encrypted, scale = encrypted_and_scale(model.first)
    again = model.first.parametrizations.weight[0](encrypted, scale)
    wanted = torch.autograd.grad(again, (encrypted, scale), plain.first.weight.grad)
    torch.testing.assert_close(encrypted.grad, wanted[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(scale.grad, wanted[1], rtol=1e-4, atol=1e-4)


def test_a_tied_layer_that_is_kept_stays_tied(plain):
    model = quantize_all(plain, KEPT)
    (layer,) = describe(model).layers
    assert len(layer.tied_to) == 1
