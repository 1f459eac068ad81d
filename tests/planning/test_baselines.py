import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexor_search.codes import XorCode
from flexor_search.planning import (
    GAMMAS,
    KEPT,
    Allocation,
    Budget,
    LayerSpec,
    SearchSpace,
    Variable,
    nearest_uniform,
    size_rule,
    uniform_allocations,
)

from .strategies import LENET5, layer, model_of, questions

MENU = (LayerSpec(n_in=4), LayerSpec(n_in=12))
LENET_SPACE = SearchSpace(LENET5, tuple(Variable((one.name,), MENU) for one in LENET5.layers))


def test_uniform_allocations_are_all_rates_not_only_those_of_the_menu():
    found = uniform_allocations(LENET_SPACE)
    assert found == [Allocation.of(LENET5, {}, default=LayerSpec(n_in=n_in)) for n_in in range(1, 21)]


def test_uniform_allocations_go_up_to_the_most_planes_of_the_space():
    two = (LayerSpec("taps", 4, 10), LayerSpec("taps", 4, 10, n_planes=2))
    found = uniform_allocations(SearchSpace(LENET5, (Variable(("conv2", "fc1"), two),)))
    specs = {one.layers["fc1"] for one in found}
    assert specs == {LayerSpec("taps", n_in, 10, planes) for n_in in range(1, 11) for planes in (1, 2)}
    assert [one.weight_bits for one in found] == sorted(one.weight_bits for one in found)


def test_what_is_uniform_does_not_depend_on_what_is_tied():
    tens, twenties = (LayerSpec(n_in=4, n_out=10),), (LayerSpec(n_in=4), LayerSpec(n_in=8))
    last, alike = Variable(("fc2",), twenties), ("conv1", "conv2", "fc1")
    tied = SearchSpace(LENET5, (Variable(alike, tens), last))
    free = SearchSpace(LENET5, (*(Variable((name,), tens) for name in alike), last))
    assert uniform_allocations(tied) == uniform_allocations(free)


def test_fixed_layers_stay_what_the_space_says():
    given_code = LayerSpec.from_code(XorCode(1, ((0,), (0,))))
    menus = [(LayerSpec(n_in=19),), MENU, (given_code, KEPT), (LayerSpec("taps", 4, 20), KEPT)]
    names = [one.name for one in LENET5.layers]
    space = SearchSpace(LENET5, tuple(Variable((name,), menu) for name, menu in zip(names, menus, strict=True)))
    found = uniform_allocations(space)
    assert {one.layers["conv1"] for one in found} == {LayerSpec(n_in=19)}
    assert {one.layers["conv2"].n_in for one in found} == set(range(1, 21))
    assert {one.layers["fc1"] for one in found} == {given_code}
    assert {one.layers["fc2"].family for one in found} == {"taps"}


@given(questions())
def test_the_nearest_uniform_is_the_largest_that_fits(question):
    space, budget = question
    nearest = nearest_uniform(space, budget)
    fitting = [one for one in uniform_allocations(space) if budget.fits(one)]
    assert (nearest is None) == (not fitting)
    if nearest is not None:
        assert budget.fits(nearest)
        assert all(nearest.weight_bits >= one.weight_bits for one in fitting)


@given(st.lists(st.tuples(st.integers(1, 8), st.integers(1, 8)), min_size=1, max_size=4), st.integers(1, 20))
def test_a_uniform_rate_fits_its_nominal_budget_when_slices_fill_bytes(shapes, n_in):
    model = model_of(*[layer(str(i), 20 * rows, 8 * columns) for i, (rows, columns) in enumerate(shapes)])
    space = SearchSpace(model, tuple(Variable((one.name,), MENU) for one in model.layers))
    nearest = nearest_uniform(space, Budget.parse(f"{n_in / 20}bpw"))
    assert nearest == Allocation.of(model, {}, default=LayerSpec(n_in=n_in))


@pytest.mark.parametrize(
    ("text", "n_in"), [("0.4bpw", 8), ("0.7bpw", 14), ("0.05bpw", 1), ("0.099bpw", 1), ("3bpw", 20)]
)
def test_nearest_uniform_of_lenet5(text, n_in):
    assert nearest_uniform(LENET_SPACE, Budget.parse(text)).layers["fc1"] == LayerSpec(n_in=n_in)


def test_there_may_be_no_uniform_that_fits():
    assert nearest_uniform(LENET_SPACE, Budget.parse("0.049bpw")) is None


@given(questions(), st.sampled_from([0.0, *GAMMAS, 3.0]))
def test_the_size_rule_fits(question, gamma):
    space, budget = question
    assert budget.fits(size_rule(space, budget, gamma))


@pytest.mark.parametrize("gamma", GAMMAS)
def test_the_size_rule_gives_larger_layers_lower_rates(gamma):
    menu = tuple(LayerSpec(n_in=n_in) for n_in in range(1, 21))
    space = SearchSpace(LENET5, tuple(Variable((one.name,), menu) for one in LENET5.layers))
    allocation = size_rule(space, Budget.parse("0.4bpw"), gamma)
    by_size = sorted(LENET5.layers, key=lambda one: one.n_weights)
    rates = [allocation.layers[one.name].n_in for one in by_size]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > rates[-1]


def test_the_size_rule_is_proportional_to_the_weights_to_the_minus_gamma():
    model = model_of(layer("small", 40, 64), layer("large", 160, 64), layer("tied", 160, 64))
    menu = tuple(LayerSpec(n_in=n_in) for n_in in range(1, 21))
    space = SearchSpace(model, (Variable(("small",), menu), Variable(("large", "tied"), menu)))
    for (gamma, ratio), n_in in itertools.product([(0.5, 2), (1.0, 4)], [1, 2, 5]):
        exact = {"small": LayerSpec(n_in=n_in * ratio), "large": LayerSpec(n_in=n_in), "tied": LayerSpec(n_in=n_in)}
        wished = Allocation.of(model, exact)
        assert size_rule(space, Budget.parse(f"{wished.bits_per_weight:.3f}bpw"), gamma) == wished
