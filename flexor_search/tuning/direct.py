"""The direct strategy: every trial trains. Baselines first, then Optuna's proposals, each projected onto a budget."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

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
from flexor_search.runs import DONE, SEARCH, STOPPED, Measurement
from flexor_search.tuning.measurer import Candidate, Measurer
from flexor_search.tuning.observer import Observer
from flexor_search.tuning.optuna_backend import StudyRecord, propose
from flexor_search.tuning.rungs import weak_rule

LADDER = (0.85, 0.7, 0.55, 0.4, 0.25)
"""Smaller budgets that the search covers too, as shares of the smallest asked for: what would less cost?"""
_PATTERN = (True, True, False)
"""Of three proposals two aim at a budget asked for, one at a smaller one."""
_MAX_MOVES = 100


@dataclass(frozen=True)
class SearchPlan:
    """What the direct strategy is asked to do.

    Attributes:
        space: the menus.
        budgets: those asked for, all reachable.
        trials: how many trainings, baselines included.
        seed: of proposals and of every search training, the same for all so that they compare.
        timeout_seconds: no training begins later than this after the start.
    """

    space: SearchSpace
    budgets: tuple[Budget, ...]
    trials: int
    seed: int
    timeout_seconds: float


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
        asked += _uniform(plan.space, budget)
        rules += [_size_rule(plan.space, budget, gamma) for gamma in GAMMAS]
    for budget in ladder(plan.space, plan.budgets):
        smaller += [*_uniform(plan.space, budget), _size_rule(plan.space, budget, GAMMAS[1])]
    unique = {candidate.allocation.digest: candidate for candidate in reversed([*asked, *rules, *smaller])}
    ordered = [c for c in [*asked, *rules, *smaller] if unique[c.allocation.digest] is c]
    return ordered[: max(len({c.allocation.digest for c in asked}), plan.trials // 2)]


def search(plan: SearchPlan, measurer: Measurer, observer: Observer) -> None:
    """Measure baselines and proposals until the trials or the time are used up.

    Everything is looked up in the run first, so calling this again continues where an earlier call ended.
    """
    started = time.monotonic()
    record = StudyRecord(measurer.run, plan.space)
    done: dict[str, Measurement] = {}
    observer.phase(SEARCH, plan.trials)

    def measure(candidate: Candidate, may_stop: bool) -> None:
        known = measurer.known(candidate, SEARCH, plan.seed)
        observer.begin(f"{candidate.kind} at {candidate.allocation.bits_per_weight:g} bits per weight")
        epochs = measurer.recipe.for_search().epochs
        rule = weak_rule(measurer.run.measurements, candidate.allocation.bits_per_weight, epochs)
        found = measurer.measure(candidate, SEARCH, plan.seed, rule if may_stop else None)
        done[found.digest] = found
        if known is None:
            record.add(found)
        observer.measured(found, best_so_far(plan.budgets[0], plan.space, list(done.values())))

    def time_is_up() -> bool:
        return bool(done) and time.monotonic() - started > plan.timeout_seconds

    for candidate in baselines(plan):
        if time_is_up():
            break
        measure(candidate, may_stop=False)
    for earlier in measurer.run.measurements:  # proposals of an interrupted call, in their order
        if earlier.phase == SEARCH and earlier.seed == plan.seed and earlier.digest not in done:
            allocation = Allocation.from_json(plan.space.model, json.loads(earlier.allocation))
            measure(Candidate(allocation, earlier.kind, earlier.budget), may_stop=True)
    while len(done) < plan.trials and not time_is_up():
        candidate = next_proposal(plan, list(done.values()))
        if candidate is None:
            observer.message(
                f"nothing new to measure was found under any budget; the search ends after {len(done)} trials"
            )
            return
        measure(candidate, may_stop=True)
    if len(done) < plan.trials:
        observer.message(f"the time for the search is up after {len(done)} of {plan.trials} trials")


def next_proposal(plan: SearchPlan, done: Sequence[Measurement]) -> Candidate | None:
    """The next allocation to measure: proposed, projected onto a budget, and not measured yet.

    A pure function of what was measured.

    Returns:
        A candidate, or None when nothing new was found near the proposal under any budget.
    """
    space, number = plan.space, len(done)
    gains = gains_over_uniform(done)
    observed = [
        (space.profile(Allocation.from_json(space.model, json.loads(m.allocation))), gains[m.digest])
        for m in done
        if m.digest in gains
    ]
    proposed = propose(space, observed, (plan.seed * 100_003 + number) % 2**32)
    measured = {m.digest for m in done}
    random = np.random.Generator(np.random.PCG64([plan.seed, number]))
    for budget in _budgets_by_turn(plan, number):
        profile = proposed
        for _ in range(_MAX_MOVES):
            allocation = _onto(space, profile, budget)
            if allocation.digest not in measured:
                return Candidate(allocation, "proposed", budget.text)
            profile = _moved(space, profile, random)
    # Where one layer holds most weights, few allocations use a budget up, and they run out: take ones that leave some.
    for _ in range(_MAX_MOVES):
        budget = plan.budgets[int(random.integers(len(plan.budgets)))]
        wished = tuple(int(random.integers(len(variable.menu))) for variable in space.variables)
        most = space.profile(_onto(space, wished, budget))
        allocation = space.allocation(tuple(int(random.integers(index + 1)) for index in most))
        if budget.fits(allocation, space.model_name) and allocation.digest not in measured:
            return Candidate(allocation, "proposed", budget.text)
    return None


def gains_over_uniform(done: Sequence[Measurement]) -> dict[str, float]:
    """Accuracy less the uniform curve's at equal bits (linear between the uniform models measured), by digest.

    This is what proposals are learned from: it compares allocations of different sizes. A stopped trial counts with its
    last accuracy, a failed one with the worst gain of all.
    """
    curve = sorted((m.bits_per_weight, m.val_accuracy) for m in done if m.kind == "uniform" and m.state == DONE)
    usable = [m for m in done if m.state in (DONE, STOPPED)]
    bits, accuracies = zip(*curve, strict=True) if curve else ((0.0,), (0.0,))
    gains = {m.digest: m.val_accuracy - float(np.interp(m.bits_per_weight, bits, accuracies)) for m in usable}
    worst = min(gains.values(), default=0.0)
    return {m.digest: gains.get(m.digest, worst) for m in done}


def best_so_far(budget: Budget, space: SearchSpace, done: Sequence[Measurement]) -> str:
    """The most accurate finished trial that fits a budget, in words."""
    fitting = [
        m
        for m in done
        if m.state == DONE
        and budget.fits(Allocation.from_json(space.model, json.loads(m.allocation)), space.model_name)
    ]
    best = max(fitting, key=lambda m: (m.val_accuracy, -m.val_loss), default=None)
    return f"{100 * best.val_accuracy:.2f} % at {best.bits_per_weight:g} bpw" if best else ""


def _budgets_by_turn(plan: SearchPlan, number: int) -> list[Budget]:
    """The budget whose turn it is, then the others, for when nothing new is left at it."""
    smaller = list(ladder(plan.space, plan.budgets))
    turn, place = divmod(number, len(_PATTERN))
    if _PATTERN[place] or not smaller:  # counted by themselves, so that each of three budgets gets its turn
        first = plan.budgets[(turn * sum(_PATTERN) + sum(_PATTERN[:place])) % len(plan.budgets)]
    else:
        first = smaller[turn % len(smaller)]
    return [first, *(budget for budget in [*smaller, *plan.budgets] if budget != first)]


def _onto(space: SearchSpace, profile: Profile, budget: Budget) -> Allocation:
    rates = [spec_log_rate(variable.menu[index]) for variable, index in zip(space.variables, profile, strict=True)]
    return space.allocation(project_log_rates(space, rates, budget))


def _moved(space: SearchSpace, profile: Profile, random: np.random.Generator) -> Profile:
    """One variable of the profile moved by up to a quarter of its menu."""
    variable = int(random.integers(len(profile)))
    reach = max(1, len(space.variables[variable].menu) // 4)
    step = int(random.integers(1, reach + 1)) * (1 if random.random() < 0.5 else -1)
    index = min(max(profile[variable] + step, 0), len(space.variables[variable].menu) - 1)
    return (*profile[:variable], index, *profile[variable + 1 :])


def _uniform(space: SearchSpace, budget: Budget) -> list[Candidate]:
    allocation = nearest_uniform(space, budget)
    return [Candidate(allocation, "uniform", budget.text)] if allocation is not None else []


def _size_rule(space: SearchSpace, budget: Budget, gamma: float) -> Candidate:
    return Candidate(size_rule(space, budget, gamma), f"size rule {gamma:g}", budget.text)
