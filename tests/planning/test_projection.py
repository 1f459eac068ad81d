import itertools
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexor_search.errors import UsageError
from flexor_search.planning import (
    KEPT,
    Allocation,
    Budget,
    LayerSpec,
    SearchSpace,
    Variable,
    check_reachable,
    exceeds_space,
    project,
    project_log_rates,
)

from .strategies import (
    LENET5,
    allocations,
    budgets,
    file_bytes,
    layer,
    menus,
    mixed_menus,
    model_of,
    profiles,
    questions,
    spaces,
)

wishes = st.lists(st.floats(-4, 4), min_size=4, max_size=4)


def steps_up(space, profile):
    """Every profile that is one menu entry above in one variable."""
    for v, variable in enumerate(space.variables):
        if profile[v] + 1 < len(variable.menu):
            yield (*profile[:v], profile[v] + 1, *profile[v + 1 :])


@given(questions() | questions(menu=mixed_menus()), wishes)
def test_a_projection_fits_and_is_maximal(question, wish):
    space, budget = question
    profile = project_log_rates(space, wish[: len(space.variables)], budget)
    assert budget.fits(space.allocation(profile))
    assert not any(budget.fits(space.allocation(raised)) for raised in steps_up(space, profile))


@given(questions() | questions(menu=mixed_menus()), st.data())
def test_projecting_again_changes_nothing(question, data):
    space, budget = question
    once = project(space, space.allocation(data.draw(profiles(space))), budget)
    assert project(space, once, budget) == once


def test_projecting_again_changes_nothing_where_a_step_up_makes_the_file_smaller():
    """Of tiny layers kept ones are smaller, and the last one that is quantized pays for the code table."""
    menu = (LayerSpec(n_in=1), KEPT)
    model = model_of(*[layer(name, 1, 1) for name in "abc"])
    space = SearchSpace(model, (Variable(("a",), menu), Variable(("b", "c"), menu)))
    for size in range(file_bytes(space.cheapest), file_bytes(space.cheapest) + 40):
        for profile in itertools.product((0, 1), repeat=2):
            once = project(space, space.allocation(profile), Budget.parse(f"{size}B"))
            assert project(space, once, Budget.parse(f"{size}B")) == once


@given(spaces(menus(kept=False)), st.data())
def test_an_allocation_keeps_all_it_has_when_projected_onto_its_own_size(space, data):
    profile = data.draw(profiles(space))
    budget = Budget.parse(f"{space.allocation(profile).bits_per_weight:.3f}bpw")
    projected = space.profile(project(space, space.allocation(profile), budget))
    assert all(now >= before for now, before in zip(projected, profile, strict=True))


@given(questions(), st.data())
def test_tied_layers_stay_equal_and_the_others_stay_kept(question, data):
    space, budget = question
    projected = project(space, space.allocation(data.draw(profiles(space))), budget)
    tied = [name for variable in space.variables for name in variable.layers]
    for variable in space.variables:
        specs = {projected.layers[name] for name in variable.layers}
        assert len(specs) == 1
        assert specs <= set(variable.menu)
    assert all(spec.is_kept for name, spec in projected.layers.items() if name not in tied)


@given(questions(["bpw"], menus(kept=False)), wishes)
def test_rates_keep_the_wished_proportions(question, wish):
    """The oracle tries every common factor: the result is the largest that fits, plus what is left spent upwards."""
    space, budget = question
    wish = wish[: len(space.variables)]
    menus = [[spec.n_in / 20 for spec in variable.menu] for variable in space.variables]
    factors = {rate / math.exp(one) for menu, one in zip(menus, wish, strict=True) for rate in menu}
    scaled = [
        tuple(max(sum(rate <= factor * math.exp(one) * (1 + 1e-9) for rate in menu) - 1, 0) for menu, one in pairs)
        for factor in factors
        for pairs in [list(zip(menus, wish, strict=True))]
    ]
    largest = max((one for one in scaled if budget.fits(space.allocation(one))), default=(0,) * len(menus), key=sum)
    profile = project_log_rates(space, wish, budget)
    assert all(got >= least for got, least in zip(profile, largest, strict=True))


@given(wishes, st.sampled_from(["bpw", "bytes", "ratio"]), st.data())
def test_of_equal_layers_the_one_that_wishes_more_gets_no_less(wish, kind, data):
    menu = tuple(LayerSpec(n_in=n_in) for n_in in (2, 5, 8, 12, 16, 20))
    model = model_of(*[layer(name, 16, 40) for name in "abcd"])
    space = SearchSpace(model, tuple(Variable((name,), menu) for name in "abcd"))
    profile = project_log_rates(space, wish, data.draw(budgets(space, [kind])))
    for one, other in itertools.combinations(range(4), 2):
        if wish[one] > wish[other] + 1e-6:
            assert profile[one] >= profile[other]


@given(questions(), wishes, st.floats(-3, 3))
def test_only_proportions_matter(question, wish, shift):
    space, budget = question
    wish = [round(one, 3) for one in wish[: len(space.variables)]]
    shifted = [one + round(shift, 3) for one in wish]
    assert project_log_rates(space, wish, budget) == project_log_rates(space, shifted, budget)


@given(spaces(), st.data())
def test_every_profile_is_found_again(space, data):
    profile = data.draw(profiles(space))
    assert space.profile(space.allocation(profile)) == profile


def test_a_rate_outside_the_menu_goes_to_the_nearest():
    menu = tuple(LayerSpec(n_in=n_in) for n_in in (4, 8, 20))
    space = SearchSpace(LENET5, (Variable(("conv1", "fc1"), menu), Variable(("conv2", "fc2"), menu)))
    wished = {"conv1": 9, "fc1": 5, "conv2": 20, "fc2": 13}
    allocation = Allocation.of(LENET5, {name: LayerSpec(n_in=n_in) for name, n_in in wished.items()})
    assert space.profile(allocation) == (1, 2)


@given(allocations(), st.data())
def test_any_allocation_of_the_model_can_be_projected(allocation, data):
    menu = tuple(LayerSpec(n_in=n_in) for n_in in (2, 10, 20))
    space = SearchSpace(allocation.model, tuple(Variable((name,), menu) for name in allocation.layers))
    budget = data.draw(budgets(space))
    assert budget.fits(project(space, allocation, budget))


@given(questions())
def test_what_the_cheapest_fits_is_reachable(question):
    space, budget = question
    check_reachable(space, budget)


@given(spaces(), st.sampled_from(["bpw", "bytes", "ratio"]))
def test_the_least_size_that_a_refusal_names_is_reachable(space, kind):
    tiny = {"bpw": "1e-9bpw", "bytes": "1B", "ratio": "1e-9x"}[kind]
    with pytest.raises(UsageError, match="below the least reachable size") as refusal:
        check_reachable(space, Budget.parse(tiny))
    least = re.search(r"least reachable size, (\S+),", str(refusal.value))
    check_reachable(space, Budget.parse(least[1]))


LENET_SPACE = SearchSpace(
    LENET5, tuple(Variable((one.name,), (LayerSpec(n_in=4), LayerSpec(n_in=8))) for one in LENET5.layers)
)


def test_a_refusal_says_what_takes_the_space_and_what_to_change():
    with pytest.raises(UsageError, match=r"0\.1bpw .* 0\.2bpw, .* most by fc1 at 4/20; .* lower rates in --space"):
        check_reachable(LENET_SPACE, Budget.parse("0.1bpw"))
    size = file_bytes(LENET_SPACE.cheapest)
    message = rf"1kB .* {size}B, of which kept tensors take 1236 B, scales 1236 B, header and codes \d+ B, encrypted"
    with pytest.raises(UsageError, match=message):
        check_reachable(LENET_SPACE, Budget.parse("1kB"))
    with pytest.raises(UsageError, match="below the least reachable"):
        project(LENET_SPACE, LENET_SPACE.dearest, Budget.parse("0.001x"))


@pytest.mark.parametrize(("text", "exceeds"), [("0.399bpw", False), ("0.4bpw", False), ("0.401bpw", True)])
def test_a_budget_exceeds_the_space_when_the_dearest_leaves_some(text, exceeds):
    assert exceeds_space(LENET_SPACE, Budget.parse(text)) == exceeds


@given(spaces(), st.integers(-2, 2))
def test_a_budget_of_bytes_exceeds_the_space_from_one_byte_more(space, more):
    assert exceeds_space(space, Budget.parse(f"{file_bytes(space.dearest) + more}B")) == (more > 0)


def test_a_larger_budget_than_the_space_gives_the_dearest():
    assert project(LENET_SPACE, LENET_SPACE.cheapest, Budget.parse("9bpw")) == LENET_SPACE.dearest


@given(st.data())
def test_an_allocation_is_found_by_the_labels_of_its_layers(data):
    space = data.draw(spaces())
    profile = data.draw(profiles(space))
    named = {
        name: variable.menu[index].label
        for variable, index in zip(space.variables, profile, strict=True)
        for name in variable.layers
    }
    found = space.labelled(named | {"not searched": "kept"})
    labels = [found.layers[name].label for name in named]
    assert labels == list(named.values())
    assert found == space.allocation(space.profile(found))


def test_labels_that_name_no_allocation_are_refused():
    a, b = (LayerSpec("systematic", n_in, 20) for n_in in (4, 8))
    model = model_of(layer("x", 40, 40), layer("y", 40, 40))
    tied = SearchSpace(model, (Variable(("x", "y"), (a, b)),))
    assert tied.labelled({"x": "8/20", "y": "8/20"}) == tied.dearest
    with pytest.raises(UsageError, match=re.escape("layers: x+y are tied, so they need one entry, got 4/20, 8/20")):
        tied.labelled({"x": "4/20", "y": "8/20"})
    with pytest.raises(UsageError, match=re.escape("layers: 'y' needs an entry of its menu (4/20, 8/20), got '9/20'")):
        tied.labelled({"x": "4/20", "y": "9/20"})
    with pytest.raises(UsageError, match=re.escape("layers: 'x' needs an entry of its menu (4/20, 8/20), got none")):
        tied.labelled({})
