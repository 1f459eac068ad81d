"""Proposals: a pure function of what was measured, within the budget, never the same twice."""

import itertools
import math
import random
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexor_search.planning import Budget
from flexor_search.runs import FAILED, STOPPED
from flexor_search.tuning import SearchPlan
from flexor_search.tuning.fitted import left_undone, trainings
from flexor_search.tuning.proposals import baselines, ladder, next_proposal

from .models import budgets, measured, space_of, uniform_at

CURVES = "flexor_search.tuning.proposals.drawn_curves"
SPACE = space_of()


def plan_for(text, space=SPACE, seed=0):
    return SearchPlan(space, budgets(text), 40, seed, 1e9)


def measured_baselines(plan):
    return [
        measured(c.allocation, i, 0.5 + 0.3 * c.allocation.bits_per_weight + 0.01 * i, kind=c.kind, budget=c.budget)
        for i, c in enumerate(baselines(plan))
    ]


def scrambled(space, model, random):
    """Anything, in place of what a model thinks."""
    return [random.standard_normal(len(variable.menu)) for variable in space.variables]


def is_new_and_fits(plan, candidate, done):
    assert Budget.parse(candidate.budget).fits(candidate.allocation, plan.space.model_name)
    assert candidate.allocation.digest not in {m.digest for m in done}
    assert candidate.kind == "proposed"
    profile = plan.space.profile(candidate.allocation)
    assert plan.space.allocation(profile) == candidate.allocation  # from the menus


@pytest.mark.parametrize("text", ["0.7bpw", "2300B", "0.4bpw,0.8bpw"])
def test_the_same_measurements_give_the_same_proposal(text):
    plan = plan_for(text)
    done = measured_baselines(plan)
    first = next_proposal(plan, done)
    np.random.seed(1)  # noqa: NPY002  # what others draw does not matter
    random.seed(1)
    assert next_proposal(plan, list(done)) == first
    is_new_and_fits(plan, first, done)


@pytest.mark.parametrize("layer", [0, 1])
def test_proposals_learn_from_what_was_measured(layer):
    plan = plan_for("0.5bpw")
    seen = [(first, (7 * number) % 20) for number, first in enumerate(range(0, 20, 2))]
    done = [measured(SPACE.allocation(one), n, 0.5 + 0.02 * one[layer]) for n, one in enumerate(seen)]
    proposed = SPACE.profile(next_proposal(plan, done).allocation)
    assert proposed[layer] > proposed[1 - layer] + 3


@pytest.mark.parametrize("text", ["0.7bpw", "2300B"])
def test_after_many_trainings_proposals_still_fit_and_are_new_and_pure(text):
    plan = plan_for(text)
    profiles = [(i, j) for i in range(0, 20, 2) for j in range(0, 20, 3)]
    done = [measured(SPACE.allocation(one), n, 0.5 + 0.01 * one[1]) for n, one in enumerate(profiles)]
    first = next_proposal(plan, done)
    is_new_and_fits(plan, first, done)
    assert next_proposal(plan, done) == first


def test_what_is_on_its_way_is_not_proposed_again():
    plan, pending = plan_for("0.7bpw"), []
    done = measured_baselines(plan)
    for _ in range(6):
        pending.append(next_proposal(plan, done, pending))
        is_new_and_fits(plan, pending[-1], done)
    assert len({candidate.allocation.digest for candidate in pending}) == 6


@pytest.mark.parametrize("seed", [0, 42_950, 20_260_101, 2**32 - 1])
def test_any_seed_that_a_question_may_have_proposes(seed):
    plan = plan_for("0.7bpw", seed=seed)
    is_new_and_fits(plan, next_proposal(plan, measured_baselines(plan)), [])


def test_a_search_of_nothing_but_failures_still_proposes():
    plan = plan_for("0.7bpw")
    done = [measured(c.allocation, i, state=FAILED, kind=c.kind) for i, c in enumerate(baselines(plan))]
    is_new_and_fits(plan, next_proposal(plan, done), done)


SPACES = [space_of(), space_of(keep=[]), space_of(keep=[], tie=[{"match": "[37]"}], default={"planes": [1, 2]})]


@settings(max_examples=60)
@given(
    st.integers(0, len(SPACES) - 1),
    st.sampled_from(["0.7bpw", "0.11bpw", "2100B", "0.5bpw,0.3bpw,0.9bpw", "0.16x", "99bpw"]),
    st.integers(0, 30),
    st.integers(0, 1000),
)
def test_whatever_is_proposed_is_new_fits_and_comes_from_the_menus(which, text, n_done, seed):
    space = SPACES[which]
    asked = tuple(budget for budget in budgets(text) if budget.fits(space.cheapest))
    if not asked:
        return
    plan = SearchPlan(space, asked, 40, seed, 1e9)
    done = []
    with mock.patch(CURVES, scrambled):
        for number in range(n_done % 8 + 1):
            candidate = next_proposal(plan, done)
            if candidate is None:
                return
            is_new_and_fits(plan, candidate, done)
            assert next_proposal(plan, done) == candidate
            done.append(measured(candidate.allocation, number))


def test_a_space_of_one_allocation_is_soon_exhausted():
    space = space_of(keep=["0", "9"], default={"rates": ["10/20"]})
    assert space.size == 1
    plan = plan_for("0.7bpw", space)
    assert [c.allocation.digest for c in baselines(plan)] == [space.cheapest.digest]
    assert next_proposal(plan, [measured(space.cheapest, 0)]) is None


def test_a_small_space_is_measured_to_its_end_and_no_further():
    space = space_of(default={"rates": ["4/20", "10/20", "16/20"]})
    plan = plan_for("0.55bpw", space)
    done = []
    with mock.patch(CURVES, scrambled):
        while (candidate := next_proposal(plan, done)) is not None:
            is_new_and_fits(plan, candidate, done)
            done.append(measured(candidate.allocation, len(done)))
    every = map(space.allocation, itertools.product(range(3), repeat=2))
    fitting = {one.digest for one in every if plan.budgets[0].fits(one, space.model_name)}
    assert {m.digest for m in done} == fitting
    assert 3 <= len(fitting) < space.size


@pytest.mark.parametrize("text", ["0.1bpw", "0.15bpw,0.3bpw"])
def test_a_small_budget_that_is_used_up_does_not_end_the_search(text):
    space = space_of(keep=[])
    plan = plan_for(text, space)
    done = [measured(c.allocation, i, kind=c.kind) for i, c in enumerate(baselines(plan))]
    with mock.patch(CURVES, scrambled):
        while len(done) < 30:
            candidate = next_proposal(plan, done)
            assert candidate is not None, len(done)
            is_new_and_fits(plan, candidate, done)
            done.append(measured(candidate.allocation, len(done)))


@pytest.mark.parametrize(
    "text", ["0.7bpw", "0.4bpw,0.8bpw", "0.4bpw,0.6bpw,0.8bpw", "0.3bpw,0.4bpw,0.5bpw,0.6bpw,0.7bpw,0.8bpw"]
)
def test_every_budget_asked_for_and_every_smaller_one_is_aimed_at(text):
    plan = plan_for(text, space_of(keep=[]))
    aimed = []
    with mock.patch(CURVES, scrambled):
        for number in range(36):
            done = [measured(plan.space.dearest, index) for index in range(number)]
            aimed.append(next_proposal(plan, done).budget)
    smaller = [budget.text for budget in ladder(plan.space, plan.budgets)]
    assert set(aimed) == {*(budget.text for budget in plan.budgets), *smaller}
    assert sum(text in smaller for text in aimed) == len(aimed) // 3
    counts = [aimed.count(budget.text) for budget in plan.budgets]
    assert max(counts) - min(counts) <= 1


def test_the_model_learns_from_what_has_finished_and_it_can_tell_apart():
    coarse = space_of(default={"rates": ["4/20", "10/20", "16/20"]})
    rows = [
        measured(uniform_at(SPACE, 10), 0, 0.75, kind="uniform"),
        measured(uniform_at(SPACE, 12), 1, 0.8, kind="uniform"),  # in no menu of the coarse space
        measured(uniform_at(SPACE, 4), 2, 0.5, state=STOPPED),
        measured(uniform_at(SPACE, 16), 3, state=FAILED),
        measured(uniform_at(SPACE, 16), 4, math.nan),
    ]
    assert [one.value for one in trainings(coarse, rows)] == [0.75]
    assert [one.value for one in trainings(SPACE, rows)] == [0.75, 0.8]


def test_what_was_stopped_or_failed_counts_as_what_it_would_have_come_to():
    rows = [
        measured(uniform_at(SPACE, 10), 0, 0.9, rungs="1:0.5 2:0.8", epochs=3),
        measured(uniform_at(SPACE, 12), 1, 0.8, rungs="1:0.6", epochs=3),
        measured(uniform_at(SPACE, 4), 2, 0.3, state=STOPPED, epochs=1),
        measured(uniform_at(SPACE, 6), 3, 0.4, state=STOPPED, epochs=5),
        measured(uniform_at(SPACE, 16), 4, state=FAILED),
    ]
    assert [one.value for one in left_undone(SPACE, rows)] == pytest.approx([0.3 + (0.4 + 0.2) / 2, 0.4, 0.8])
    assert left_undone(SPACE, rows[2:]) == []
    plan = plan_for("0.5bpw")
    poor = [measured(SPACE.allocation((19, i)), 50 + i, 0.1, state=STOPPED, epochs=9) for i in range(6)]
    before, after = (
        sum(SPACE.profile(next_proposal(replace(plan, seed=seed), done).allocation)[0] for seed in range(8))
        for done in (measured_baselines(plan), [*measured_baselines(plan), *poor])
    )
    assert after < before
