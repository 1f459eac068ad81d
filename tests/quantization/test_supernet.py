"""One set of encrypted weights for every entry of a menu: each decodes as it would alone, and systematic codes nest."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flexor_search.errors import ModelError
from flexor_search.planning import KEPT, Allocation, LayerSpec, SearchSpace, make_space
from flexor_search.planning.allocation import slices_of
from flexor_search.planning.space import Variable
from flexor_search.planning.space_file import SpaceFile
from flexor_search.quantization import (
    describe,
    flexor_weights,
    quantize_,
    set_profile,
    share_,
    shared_weights,
    why_not_shared,
)

from .models import LAYERS, specs
from .oracles import decoded_weight
from .test_tied import TwoLinears


def space_with(model, *menu):
    """Every layer has this menu and its own choice."""
    shapes = describe(model)
    return SearchSpace(shapes, tuple(Variable((layer.name,), menu) for layer in shapes.layers))


def originals(layer):
    return list(layer.parametrizations.weight.parameters())


def randomize(layer):
    with torch.no_grad():
        for tensor in originals(layer):
            tensor.normal_()


def of_entry(layer, index):
    """Encrypted weights and scales of an entry, as a layer of that spec alone would have them, element by element."""
    encrypted, scales = originals(layer)[:2]
    spec = layer.parametrizations.weight[0].menu[index]
    count = slices_of(layer.parametrizations.weight[0].layer.n_weights, spec)
    alone = torch.zeros(spec.n_planes, count, spec.n_in)
    for p in range(spec.n_planes):
        for s in range(count):
            for j in range(spec.n_in):
                alone[p, s, j] = encrypted[p, j * count + s]
    return alone, (scales[0] + scales[index + 1])[: spec.n_planes]


@settings(max_examples=15)
@given(kind=st.sampled_from(sorted(LAYERS)), menu=st.lists(specs(), min_size=2, max_size=4), seed=st.integers(0, 99))
def test_every_entry_decodes_as_it_would_alone(kind, menu, seed):
    torch.manual_seed(seed)
    model = nn.Sequential(LAYERS[kind][0](True))
    share_(model, space_with(model, *menu, KEPT))
    randomize(model[0])
    for index, spec in enumerate(menu):
        set_profile(model, (index,))
        torch.testing.assert_close(model[0].weight, decoded_weight(model[0], *of_entry(model[0], index), spec.codes))
    set_profile(model, (len(menu),))
    assert torch.equal(model[0].weight, originals(model[0])[2])


@settings(max_examples=20)
@given(rates=st.lists(st.integers(1, 20), min_size=2, max_size=5, unique=True), seed=st.integers(0, 9))
def test_the_identity_rows_of_a_lower_rate_are_those_of_a_higher_one(rates, seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(11, 7))
    share_(model, space_with(model, *(LayerSpec(n_in=n_in, n_out=20) for n_in in sorted(rates))))
    randomize(model[0])
    count = slices_of(77, LayerSpec())
    signs = []
    for index, n_in in enumerate(sorted(rates)):
        set_profile(model, (index,))
        scale = of_entry(model[0], index)[1][0]
        found = (model[0].weight / scale[:, None]).reshape(-1)[: n_in * count].round()
        assert set(found.tolist()) <= {-1.0, 1.0}
        signs.append(found)
    for low, high in itertools.pairwise(signs):
        assert torch.equal(low, high[: len(low)])


def test_gradients_are_those_of_the_entry_alone_and_nothing_else_gets_one():
    torch.manual_seed(0)
    menu = (LayerSpec(n_in=4, n_out=10), LayerSpec("taps", 7, 10, 2), LayerSpec(n_in=5, n_out=8))
    model = nn.Sequential(nn.Linear(9, 6))
    share_(model, space_with(model, *menu))
    with torch.no_grad():
        for tensor in originals(model[0]):
            tensor.normal_(std=0.1)
    wanted = torch.randn(6, 9)
    for index, spec in enumerate(menu):
        alone = nn.Sequential(nn.Linear(9, 6))
        quantize_(alone, Allocation.of(describe(alone), {"0": spec}))
        values = [tensor.detach().clone() for tensor in of_entry(model[0], index)]
        for own, value in zip(originals(alone[0]), values, strict=True):
            own.data.copy_(value)
        (alone[0].weight * wanted).sum().backward()
        model.zero_grad()
        set_profile(model, (index,))
        (model[0].weight * wanted).sum().backward()
        encrypted, scales = (tensor.grad for tensor in originals(model[0]))
        count = alone[0].parametrizations.weight[0].n_slices
        there = torch.zeros_like(encrypted)
        for p in range(spec.n_planes):
            flat = originals(alone[0])[0].grad[p].T.reshape(-1)
            there[p, : spec.n_in * count] = flat
        torch.testing.assert_close(encrypted, there)
        for place in (0, index + 1):
            torch.testing.assert_close(scales[place, : spec.n_planes], originals(alone[0])[1].grad)
        assert scales[[i + 1 for i in range(3) if i != index]].abs().sum() == 0


def test_pretrained_weights_keep_their_signs_where_a_rate_stores_all_of_them():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 5))
    before = model[0].weight.detach().clone()
    share_(model, space_with(model, LayerSpec(n_in=8), LayerSpec(n_in=20)), pretrained=True)
    set_profile(model, (1,))
    assert torch.equal(model[0].weight.sign(), before.sign())
    torch.testing.assert_close(model[0].weight[:, 0].abs(), before.abs().mean(1))
    set_profile(model, (0,))
    signs = model[0].weight.sign()
    assert torch.equal(signs.reshape(-1)[:16], before.sign().reshape(-1)[:16])
    torch.testing.assert_close(model[0].weight, signs * (signs * before).mean(1, keepdim=True))


def test_it_starts_as_a_model_of_its_own_would():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 40, 3), nn.BatchNorm2d(40), nn.Flatten(), nn.Linear(40, 50))
    share_(model, space_with(model, LayerSpec(n_in=8), LayerSpec(n_in=8, n_planes=2)))
    set_profile(model, (0, 1))
    assert model[0].weight.abs().unique().tolist() == pytest.approx([0.2])
    high = (2 / 40) ** 0.5
    assert model[3].weight.abs().unique().tolist() == pytest.approx([high / 2, 1.5 * high])
    assert originals(model[0])[0].std().item() == pytest.approx(1e-3, rel=0.1)
    assert flexor_weights(model) == {}


def test_tied_layers_take_the_same_entry_and_shared_weights_stay_shared():
    model = TwoLinears()
    share_(model, space_with(model, LayerSpec(n_in=2, n_out=6), KEPT))
    set_profile(model, (0,))
    assert torch.equal(model.first.weight, model.second.weight)
    assert len(list(model.parameters())) == 5  # both biases; encrypted weights, scales and the kept weight once
    assert len(shared_weights(model)) == 1
    tied = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    file = {"keep": [], "default": {"rates": ["2/6", "4/6"]}, "tie": [{"match": "*"}]}
    space = make_space(describe(tied), SpaceFile.model_validate(file))
    share_(tied, space)
    set_profile(tied, (1,))
    assert [weight.choice for weight in shared_weights(tied)] == [1, 1]


def test_what_cannot_be_shared_is_told():
    model = nn.Sequential(nn.Linear(6, 6))
    single = space_with(model, LayerSpec(n_in=8))
    assert "one entry" in why_not_shared(single)
    with pytest.raises(ModelError, match="one entry"):
        share_(model, single)
    with pytest.raises(ModelError, match="another model"):
        share_(nn.Sequential(nn.Linear(7, 6)), space_with(model, LayerSpec(n_in=8), LayerSpec(n_in=9)))
