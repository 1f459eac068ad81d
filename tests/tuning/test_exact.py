"""The best allocation under a budget is the best of all: held against trying every one."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planning.strategies import LENET5, menus, mixed_menus, questions

from flexor_search.errors import UsageError
from flexor_search.planning import Budget, file_layout, make_space, read_space_file
from flexor_search.tuning import best_under
from flexor_search.tuning.best_under import best_other_profile, best_profile
from flexor_search.tuning.exact import best_choice, best_other

numbers = st.floats(-3, 3).map(lambda value: round(value, 1)) | st.floats(-3, 3)
axes = st.lists(st.lists(st.tuples(numbers, st.integers(0, 30)), min_size=1, max_size=5), min_size=1, max_size=4)


def total(tables, chosen):
    return sum(table[index] for table, index in zip(tables, chosen, strict=True))


def asked(data, menu):
    """A space, a budget, values of its entries, and all profiles that fit, best first."""
    space, budget = data.draw(questions(menu=menu()))
    values = [np.array([data.draw(numbers) for _ in variable.menu]) for variable in space.variables]
    every = itertools.product(*(range(len(variable.menu)) for variable in space.variables))
    ranked = [one for one in every if budget.fits(space.allocation(one), space.model_name)]
    return space, budget, values, sorted(ranked, key=lambda one: -total(values, one))


@settings(max_examples=300)
@given(axes, st.integers(0, 100))
def test_dynamic_programming_finds_the_best_of_all(entries, limit):
    values = [np.array([value for value, _ in axis]) for axis in entries]
    costs = [np.array([cost for _, cost in axis]) for axis in entries]
    every = itertools.product(*(range(len(axis)) for axis in entries))
    fitting = [chosen for chosen in every if total(costs, chosen) <= limit]
    found = best_choice(values, costs, limit)
    if not fitting:
        assert found is None
        return
    assert found is not None
    assert total(costs, found) <= limit
    assert total(values, found) == pytest.approx(max(total(values, chosen) for chosen in fitting), abs=1e-9)


@settings(max_examples=200)
@given(axes, st.integers(0, 100), st.data())
def test_the_best_other_is_the_best_of_all_that_are_not_known(entries, limit, data):
    values = [np.array([value for value, _ in axis]) for axis in entries]
    costs = [np.array([cost for _, cost in axis]) for axis in entries]
    every = itertools.product(*(range(len(axis)) for axis in entries))
    ranked = sorted((one for one in every if total(costs, one) <= limit), key=lambda one: -total(values, one))
    known = set(ranked[: data.draw(st.integers(0, len(ranked)))])  # the best of them, and some others
    known |= set(data.draw(st.lists(st.sampled_from(ranked), max_size=5))) if ranked else {(0,) * len(entries)}
    left = [one for one in ranked if one not in known]
    found = best_other(values, costs, limit, known)
    if not left:
        assert found is None
        return
    assert found in left
    assert total(values, found) == pytest.approx(total(values, left[0]), abs=1e-9)


@settings(max_examples=60)
@given(st.data())
@pytest.mark.parametrize("menu", [menus, mixed_menus])
def test_the_best_other_allocation_fits_and_none_that_is_unknown_is_better(menu, data):
    space, budget, values, ranked = asked(data, menu)
    known = set(ranked[: data.draw(st.integers(0, min(5, len(ranked))))])
    found = best_other_profile(space, values, budget, known)
    if len(known) == len(ranked):
        assert found is None
        return
    assert found in ranked
    assert found not in known
    assert total(values, found) == pytest.approx(total(values, ranked[len(known)]), abs=1e-5)


@settings(max_examples=80)
@given(st.data())
@pytest.mark.parametrize("menu", [menus, mixed_menus])
def test_no_allocation_that_fits_has_a_greater_value(menu, data):
    space, budget, values, ranked = asked(data, menu)
    found = best_profile(space, values, budget)
    assert budget.fits(space.allocation(found), space.model_name)
    assert total(values, found) == pytest.approx(total(values, ranked[0]), abs=1e-5)


@given(st.integers(1, 10**7), st.floats(1e-4, 40))
def test_the_most_bits_of_a_budget_fit_and_one_more_does_not(n_weights, value):
    most = Budget("", "bpw", value).most_weight_bits(n_weights)
    assert round(most / n_weights, 3) <= value < round((most + 1) / n_weights, 3)


@pytest.mark.parametrize("text", ["0.31bpw", "30000B", "0.02x"])
def test_what_is_left_of_a_budget_is_spent_where_every_bit_counts(text):
    space, budget = make_space(LENET5, read_space_file("lenet5")), Budget.parse(text)
    values = [np.log(np.arange(1, 21)) * weight for weight in (1.0, 2.0, 3.0, 0.5)]
    profile = best_profile(space, values, budget)
    for axis, index in enumerate(profile):
        if index + 1 < 20:
            more = (*profile[:axis], index + 1, *profile[axis + 1 :])
            assert not budget.fits(space.allocation(more), space.model_name)


def test_a_budget_of_just_the_cheapest_or_dearest_and_one_that_is_too_small():
    space = make_space(LENET5, read_space_file("lenet5"))
    values = [np.arange(20.0)] * 4
    smallest = Budget.parse(f"{file_layout(space.cheapest, space.model_name).file_bytes}B")
    assert best_profile(space, values, smallest) == (0, 0, 0, 0)
    assert best_profile(space, values, Budget.parse("0.05bpw"))[2] == 0  # bits of small layers are rounded off
    for dearest in ("1bpw", "10MB"):
        assert best_profile(space, values, Budget.parse(dearest)) == (19, 19, 19, 19)
    with pytest.raises(UsageError, match="least reachable"):
        best_profile(space, values, Budget.parse("0.01bpw"))


def test_what_does_not_fit_by_digits_alone_ends_in_something_that_fits(monkeypatch):
    monkeypatch.setattr(best_under, "_LEAST_DIGITS", 2000)  # as if headers could differ by so much
    monkeypatch.setattr(best_under, "MOST_CUTS", 3)
    space, budget = make_space(LENET5, read_space_file("lenet5")), Budget.parse("30000B")
    values = [np.log(np.arange(1, 21))] * 4
    assert budget.fits(space.allocation(best_profile(space, values, budget)))
