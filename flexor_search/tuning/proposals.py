"""What a search may train next: the plan, the rules of thumb, and what the model of accuracy proposes under a budget.

Nothing here trains or looks anything up: each is a function of the plan and of what was measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flexor_search.planning import (
    GAMMAS,
    Allocation,
    Budget,
    SearchSpace,
    nearest_uniform,
    project_log_rates,
    size_rule,
)
from flexor_search.planning.space import Profile, spec_log_rate
from flexor_search.runs import Measurement
from flexor_search.tuning.accuracy_model import AccuracyModel, fit_accuracy_model
from flexor_search.tuning.best_under import best_other_profile, best_profile
from flexor_search.tuning.fitted import allocation_of, left_undone, trainings
from flexor_search.tuning.trial import PROPOSED, Candidate

LADDER = (0.85, 0.7, 0.55, 0.4, 0.25)
"""Smaller budgets that the search covers too, as shares of the smallest asked for: what would less cost?"""
_PATTERN = (True, True, False)
"""Of three proposals two aim at a budget asked for, one at a smaller one."""
_DRAWS = 8
"""Of the model, after which the best allocation of the last draw that is not measured yet is proposed."""


@dataclass(frozen=True)
class SearchPlan:
    """What a search is asked to do, by either strategy.

    Attributes:
        space: the menus.
        budgets: those asked for, all reachable.
        trials: how many trainings, baselines included.
        seed: of proposals and of every search training, the same for all so that they compare.
        timeout_seconds: no training begins once the search has taken so long, all calls with these budgets together.
        ahead: proposals are made while so many earlier trials are on their way, their results unknown. Part of the
            plan and not of what the machine happens to manage, so that the same plan proposes the same everywhere.
    """

    space: SearchSpace
    budgets: tuple[Budget, ...]
    trials: int
    seed: int
    timeout_seconds: float
    ahead: int = 0


def ladder(space: SearchSpace, budgets: Sequence[Budget]) -> tuple[Budget, ...]:
    """The smaller budgets that the search covers too: reachable, and not larger than the smallest asked for."""
    least = min(budgets, key=lambda budget: (nearest_uniform(space, budget) or space.cheapest).weight_bits)
    top = least.size_of(space.dearest, space.model_name)
    start = least if least.value <= top else least.scaled(top / least.value)
    smaller = [start.scaled(share) for share in LADDER]
    return tuple(budget for budget in smaller if budget.fits(space.cheapest, space.model_name))


def baselines(plan: SearchPlan) -> list[Candidate]:
    """The rules of thumb, each allocation once: uniform first, at the budgets asked for, then at the smaller ones.

    At most half of the trials go to them, but the nearest uniform model of each budget asked for is always among them.
    """
    asked: list[Candidate] = []
    rules: list[Candidate] = []
    smaller: list[Candidate] = []
    for budget in plan.budgets:
        asked += uniform_candidate(plan.space, budget)
        rules += [rule_candidate(plan.space, budget, gamma) for gamma in GAMMAS]
    for budget in ladder(plan.space, plan.budgets):
        smaller += [*uniform_candidate(plan.space, budget), rule_candidate(plan.space, budget, GAMMAS[1])]
    unique = {candidate.allocation.digest: candidate for candidate in reversed([*asked, *rules, *smaller])}
    ordered = [c for c in [*asked, *rules, *smaller] if unique[c.allocation.digest] is c]
    return ordered[: max(len({c.allocation.digest for c in asked}), plan.trials // 2)]


def uniform_candidate(space: SearchSpace, budget: Budget) -> list[Candidate]:
    """The nearest uniform allocation under a budget, if there is one."""
    allocation = nearest_uniform(space, budget)
    return [Candidate(allocation, "uniform", budget.text)] if allocation is not None else []


def rule_candidate(space: SearchSpace, budget: Budget, gamma: float) -> Candidate:
    """The rule of thumb of a gamma under a budget."""
    return Candidate(size_rule(space, budget, gamma), f"size rule {gamma:g}", budget.text)


def next_proposal(plan: SearchPlan, done: Sequence[Measurement], pending: Sequence[Candidate] = ()) -> Candidate | None:
    """The next allocation to measure: what may well be the best under a budget, and is not measured yet.

    It is the best, exactly, of curves drawn from the model of accuracy that is fitted to the trainings (Thompson
    sampling): where the model is unsure draws differ, and that is where trainings tell most. Where the best of several
    draws are measured already, it is the best of the last draw that is not. How that compares with Optuna's samplers:
    docs/log.md, `python -m benchmarks.proposers`.

    A pure function of what was measured and of what is on its way, which is not proposed again.

    Returns:
        A candidate, or None when nothing new fits any budget, or none was found.
    """
    space, number = plan.space, len(done) + len(pending)
    trained = [*trainings(space, done), *left_undone(space, done)]
    model = fit_accuracy_model(space, trained) if trained else None
    measured = [allocation_of(space, m) for m in done] + [candidate.allocation for candidate in pending]
    known = space.held(measured)
    random = np.random.Generator(np.random.PCG64([plan.seed, number]))
    for budget in budgets_by_turn(plan, number):
        for draw in range(_DRAWS):
            curves = drawn_curves(space, model, random)
            is_last = draw == _DRAWS - 1
            found = best_other_profile(space, curves, budget, known) if is_last else best_profile(space, curves, budget)
            if found not in known:
                break
        if found is not None:
            return Candidate(space.allocation(found), PROPOSED, budget.text)
    return None


def drawn_curves(
    space: SearchSpace, model: AccuracyModel | None, random: np.random.Generator
) -> list[NDArray[np.float64]]:
    """What each entry of each menu is worth by a draw of the model.

    Where nothing has finished yet, by a slope at random for each variable.
    """
    if model is not None:
        return model.draw(int(random.integers(2**63))).choices
    slopes = random.lognormal(size=len(space.variables))
    return [
        slope * np.array([spec_log_rate(spec) for spec in variable.menu])
        for slope, variable in zip(slopes, space.variables, strict=True)
    ]


def budgets_by_turn(plan: SearchPlan, number: int) -> list[Budget]:
    """The budget whose turn it is, then the others, for when nothing new is left at it."""
    smaller = list(ladder(plan.space, plan.budgets))
    turn, place = divmod(number, len(_PATTERN))
    if _PATTERN[place] or not smaller:  # counted by themselves, so that each of three budgets gets its turn
        first = plan.budgets[(turn * sum(_PATTERN) + sum(_PATTERN[:place])) % len(plan.budgets)]
    else:
        first = smaller[turn % len(smaller)]
    return [first, *(budget for budget in [*smaller, *plan.budgets] if budget != first)]


def onto(space: SearchSpace, profile: Profile, budget: Budget) -> Allocation:
    """The allocation of a profile, moved onto a budget."""
    rates = [spec_log_rate(variable.menu[index]) for variable, index in zip(space.variables, profile, strict=True)]
    return space.allocation(project_log_rates(space, rates, budget))


def moved(space: SearchSpace, profile: Profile, random: np.random.Generator) -> Profile:
    """One variable of the profile moved by up to a quarter of its menu."""
    variable = int(random.integers(len(profile)))
    reach = max(1, len(space.variables[variable].menu) // 4)
    step = int(random.integers(1, reach + 1)) * (1 if random.random() < 0.5 else -1)
    index = min(max(profile[variable] + step, 0), len(space.variables[variable].menu) - 1)
    return (*profile[:variable], index, *profile[variable + 1 :])
