"""What every search is measured against, and the smaller budgets that it covers."""

from itertools import product

import pytest

from flexor_search.planning import Budget, nearest_uniform, size_rule
from flexor_search.planning.space import check_reachable
from flexor_search.tuning import SearchPlan
from flexor_search.tuning.proposals import LADDER, baselines, ladder

from .models import budgets, space_of

SPACES = {
    "default": {},
    "nothing kept": {"keep": []},
    "tied": {"keep": [], "tie": [{"match": "[37]"}]},
    "one layer fixed": {"keep": [], "layer": [{"match": "3", "rates": ["8/20"]}]},
    "two planes": {"default": {"rates": ["1-10/10"], "planes": [1, 2]}},
    "may be kept": {"default": {"rates": ["4/20", "12/20", "kept"]}},
}
ASKED = ["0.7bpw", "0.25bpw", "0.4bpw,0.8bpw,0.8bpw,1bpw", "2300B", "3KiB,0.5bpw", "0.15x", "100bpw", "1MiB"]


@pytest.fixture(params=product(SPACES, ASKED), ids=" ".join)
def plan(request):
    name, text = request.param
    space = space_of(**SPACES[name])
    reachable = tuple(budget for budget in budgets(text) if budget.fits(space.cheapest))
    assert reachable
    return SearchPlan(space, reachable, 40, 0, 1e9)


def test_baselines_hold_what_each_asked_budget_must_be_compared_with(plan):
    found = baselines(plan)
    digests = [candidate.allocation.digest for candidate in found]
    assert len(set(digests)) == len(digests)
    for candidate in found:
        assert Budget.parse(candidate.budget).fits(candidate.allocation), candidate
    for budget in plan.budgets:
        uniform = nearest_uniform(plan.space, budget)
        if uniform is not None:
            kind = next(candidate.kind for candidate in found if candidate.allocation.digest == uniform.digest)
            assert kind == "uniform"
    assert len(found) <= max(len(plan.budgets), plan.trials // 2)


@pytest.mark.parametrize("trials", [1, 2, 3, 6, 7, 40])
@pytest.mark.parametrize("text", ["0.7bpw", "0.3bpw,0.5bpw,0.7bpw"])
def test_at_most_half_of_the_trials_but_always_the_asked_uniform_ones(trials, text):
    plan = SearchPlan(space_of(), budgets(text), trials, 0, 1e9)
    found, asked = baselines(plan), len(plan.budgets)
    assert len(found) <= max(asked, trials // 2)
    assert len(found) >= min(asked, 5)
    assert [candidate.kind for candidate in found[:asked]] == ["uniform"] * asked
    assert [candidate.budget for candidate in found[:asked]] == [budget.text for budget in plan.budgets]


def test_the_size_rules_of_the_asked_budget_come_before_smaller_budgets():
    plan = SearchPlan(space_of(), budgets("0.7bpw"), 40, 0, 1e9)
    found = {candidate.allocation.digest: candidate.kind for candidate in baselines(plan)}
    for gamma in (0.25, 0.5, 1.0):
        assert size_rule(plan.space, plan.budgets[0], gamma).digest in found
    asked = [candidate.budget == "0.7bpw" for candidate in baselines(plan)]
    assert asked == sorted(asked, reverse=True)
    assert not all(asked)


def test_every_rung_of_the_ladder_is_reachable_and_smaller_than_all_that_was_asked(plan):
    rungs = ladder(plan.space, plan.budgets)
    for rung in rungs:
        check_reachable(plan.space, rung)
        assert Budget.parse(rung.text) == rung
        dearest = rung.size_of(plan.space.dearest)
        for asked in plan.budgets:
            if asked.kind == rung.kind:
                assert rung.value < min(asked.value, dearest)
    values = [rung.value for rung in rungs]
    assert values == sorted(values, reverse=True)
    assert len(rungs) <= len(LADDER)


def test_the_ladder_by_hand():
    rungs = ladder(space_of(), budgets("0.8bpw,0.4bpw"))
    assert [rung.text for rung in rungs] == ["0.34bpw", "0.28bpw", "0.22bpw", "0.16bpw", "0.1bpw"]
    assert ladder(space_of(), budgets("50bpw"))[0].text == "0.85bpw"  # of what the space can use
    assert ladder(space_of(), budgets("0.053bpw")) == ()
