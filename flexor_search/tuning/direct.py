"""The direct strategy: every trial trains. Baselines first, then Optuna's proposals, each projected onto a budget."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

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
from flexor_search.runs import ACCURACY, DONE, SEARCH, STOPPED, Measurement, MetricWords
from flexor_search.tuning.clock import SearchClock
from flexor_search.tuning.flow import Flow, Team
from flexor_search.tuning.measurer import Measurer
from flexor_search.tuning.observer import Observer
from flexor_search.tuning.optuna_backend import StudyRecord, propose
from flexor_search.tuning.rungs import weak_rule
from flexor_search.tuning.trial import Candidate, Trial

LADDER = (0.85, 0.7, 0.55, 0.4, 0.25)
"""Smaller budgets that the search covers too, as shares of the smallest asked for: what would less cost?"""
_PATTERN = (True, True, False)
"""Of three proposals two aim at a budget asked for, one at a smaller one."""
_MAX_MOVES = 100
_TIME_IS_UP = "the time for the search is up after {done} of {trials} trials"
_NOTHING_NEW = "nothing new to measure was found under any budget; the search ends after {done} trials"


@dataclass(frozen=True)
class SearchPlan:
    """What the direct strategy is asked to do.

    Attributes:
        space: the menus.
        budgets: those asked for, all reachable.
        trials: how many trainings, baselines included.
        seed: of proposals and of every search training, the same for all so that they compare.
        timeout_seconds: no training begins once the search has taken so long, all calls of the run together.
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
        asked += _uniform(plan.space, budget)
        rules += [_size_rule(plan.space, budget, gamma) for gamma in GAMMAS]
    for budget in ladder(plan.space, plan.budgets):
        smaller += [*_uniform(plan.space, budget), _size_rule(plan.space, budget, GAMMAS[1])]
    unique = {candidate.allocation.digest: candidate for candidate in reversed([*asked, *rules, *smaller])}
    ordered = [c for c in [*asked, *rules, *smaller] if unique[c.allocation.digest] is c]
    return ordered[: max(len({c.allocation.digest for c in asked}), plan.trials // 2)]


def search(plan: SearchPlan, measurer: Measurer, observer: Observer, team: Team | None = None) -> None:
    """Measure baselines and proposals until the trials or the time are used up.

    Everything is looked up in the run first, so calling this again continues where an earlier call ended.

    Args:
        plan: what to do.
        measurer: of the run.
        observer: is told of progress.
        team: trains several at a time; None: one at a time.
    """
    with Flow(measurer, team) as flow:
        _Search(plan, measurer, observer, flow).run()


class _Search:
    """One search: which trials were begun, in order, and what those came to that have ended."""

    def __init__(self, plan: SearchPlan, measurer: Measurer, observer: Observer, flow: Flow) -> None:
        self.plan, self.measurer, self.observer, self.flow = plan, measurer, observer, flow
        self.record = StudyRecord(measurer.run, plan.space)
        self.begun: dict[str, Candidate] = {}
        self.done: dict[str, Measurement] = {}
        self.clock, self._ending = SearchClock(measurer.run), ""

    def run(self) -> None:
        """All of it."""
        plan = self.plan
        self.observer.phase(SEARCH, plan.trials)
        for place, candidate in enumerate(baselines(plan)):
            self._make_room(self.flow.width - 1)
            if self._agree(f"baseline {place}", lambda candidate=candidate: candidate) is None:
                break
            self._begin(candidate, may_stop=False)
        if not self.flow.is_shared:  # there the earlier proposals are agreed on already
            self._replay()
        place = 0
        while len(self.begun) < plan.trials:
            self._make_room(plan.ahead)
            candidate = self._agree(f"proposal {place}", self._propose)
            if candidate is None:
                break
            place += 1
            if candidate.allocation.digest not in self.begun:
                self._begin(candidate, may_stop=True)
        self._make_room(0)
        if len(self.done) < plan.trials:
            self.observer.message(self._ending.format(done=len(self.done), trials=plan.trials))

    def _agree(self, place: str, offer: Callable[[], Candidate | None]) -> Candidate | None:
        """What is begun next; None: the search ends here, because the time is up or nothing is left to propose.

        Workers that share a study agree on it. That it ends binds only those whose time is no longer.
        """

        def told() -> dict[str, Any]:
            if self._time_is_up():
                return {"end": _TIME_IS_UP, "after_seconds": self.plan.timeout_seconds}
            candidate = offer()
            if candidate is None:
                return {"end": _NOTHING_NEW, "after_seconds": math.inf}
            return candidate.to_json()

        found = self.measurer.agree(
            place, told, lambda value: "end" not in value or value["after_seconds"] >= self.plan.timeout_seconds
        )
        if "end" in found:
            self._ending = found["end"]
            return None
        return Candidate.from_json(self.plan.space, found)

    def _replay(self) -> None:
        """Proposals of an interrupted call, in their order.

        Where one is missing among them, the last are proposed again: they come out the same, and the missing one too.
        """
        measurements = self.measurer.run.measurements
        earlier = [
            m
            for m in sorted(measurements, key=lambda m: m.number)
            if m.phase == SEARCH and m.seed == self.plan.seed and m.digest not in self.begun
        ]
        is_missing = len({m.number for m in measurements}) <= max((m.number for m in measurements), default=-1)
        again = min(self.plan.ahead, len(earlier)) if is_missing else 0
        for measurement in earlier[: len(earlier) - again]:
            self._begin_again(measurement)
        left = {m.digest: m for m in earlier[len(earlier) - again :]}
        for _ in range(2 * self.plan.ahead):
            if not left or (candidate := self._propose()) is None:
                break
            left.pop(candidate.allocation.digest, None)
            self._begin(candidate, may_stop=True)
        for measurement in left.values():
            self._begin_again(measurement)

    def _propose(self) -> Candidate | None:
        self._make_room(self.plan.ahead)
        seen = self._seen()
        return next_proposal(self.plan, seen, list(self.begun.values())[len(seen) :])

    def _seen(self) -> list[Measurement]:
        """What the next trial may depend on: all but the last trials begun, even if they have ended already."""
        return [self.done[digest] for digest in list(self.begun)[: max(0, len(self.begun) - self.plan.ahead)]]

    def _begin_again(self, earlier: Measurement) -> None:
        if earlier.digest not in self.begun:
            allocation = Allocation.from_json(self.plan.space.model, json.loads(earlier.allocation))
            self._begin(Candidate(allocation, earlier.kind, earlier.budget), may_stop=True)

    def _begin(self, candidate: Candidate, *, may_stop: bool) -> None:
        rule = None
        if may_stop:
            self._make_room(self.plan.ahead)
            epochs = self.measurer.recipe.for_search().epochs
            rule = weak_rule(self._seen(), candidate.allocation.bits_per_weight, epochs)
        self.begun[candidate.allocation.digest] = candidate
        self.observer.begin(f"{candidate.kind} at {candidate.allocation.bits_per_weight:g} bits per weight")
        self.flow.begin(Trial(candidate, SEARCH, self.plan.seed, rule))
        if self.flow.is_alone:
            self._make_room(0)

    def _make_room(self, count: int) -> None:
        """Wait until no more than so many are on their way."""
        while len(self.flow) > count:
            found, is_new = self.flow.end()
            self.done[found.digest] = found
            if is_new:
                self.record.add(found)
                self.clock.write()
            words = MetricWords.of(self.measurer.run.question)
            best = best_so_far(self.plan.budgets[0], self.plan.space, list(self.done.values()), words)
            self.observer.measured(found, best)

    def _time_is_up(self) -> bool:
        return bool(self.begun) and self.clock.seconds > self.plan.timeout_seconds


def next_proposal(plan: SearchPlan, done: Sequence[Measurement], pending: Sequence[Candidate] = ()) -> Candidate | None:
    """The next allocation to measure: proposed, projected onto a budget, and not measured yet.

    A pure function of what was measured and of what is on its way; that counts as the mean of what was measured, so
    that it is not proposed again.

    Returns:
        A candidate, or None when nothing new was found near the proposal under any budget.
    """
    space, number = plan.space, len(done) + len(pending)
    gains = gains_over_uniform(done)
    observed = [
        (space.profile(Allocation.from_json(space.model, json.loads(m.allocation))), gains[m.digest])
        for m in done
        if m.digest in gains
    ]
    mean = float(np.mean([gain for _, gain in observed])) if observed else 0.0
    observed += [(space.profile(candidate.allocation), mean) for candidate in pending]
    proposed = propose(space, observed, (plan.seed * 100_003 + number) % 2**32)
    measured = {m.digest for m in done} | {candidate.allocation.digest for candidate in pending}
    random = np.random.Generator(np.random.PCG64([plan.seed, number]))
    for budget in _budgets_by_turn(plan, number):
        profile = proposed
        for _ in range(_MAX_MOVES):
            allocation = onto(space, profile, budget)
            if allocation.digest not in measured:
                return Candidate(allocation, "proposed", budget.text)
            profile = moved(space, profile, random)
    # Where one layer holds most weights, few allocations use a budget up, and they run out: take ones that leave some.
    for _ in range(_MAX_MOVES):
        budget = plan.budgets[int(random.integers(len(plan.budgets)))]
        wished = tuple(int(random.integers(len(variable.menu))) for variable in space.variables)
        most = space.profile(onto(space, wished, budget))
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


def best_so_far(budget: Budget, space: SearchSpace, done: Sequence[Measurement], words: MetricWords = ACCURACY) -> str:
    """The most accurate finished trial that fits a budget, in words."""
    fitting = [
        m
        for m in done
        if m.state == DONE
        and budget.fits(Allocation.from_json(space.model, json.loads(m.allocation)), space.model_name)
    ]
    best = max(fitting, key=lambda m: (m.val_accuracy, -m.val_loss), default=None)
    return f"{words.text(best.val_accuracy)} at {best.bits_per_weight:g} bpw" if best else ""


def _budgets_by_turn(plan: SearchPlan, number: int) -> list[Budget]:
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


def _uniform(space: SearchSpace, budget: Budget) -> list[Candidate]:
    allocation = nearest_uniform(space, budget)
    return [Candidate(allocation, "uniform", budget.text)] if allocation is not None else []


def _size_rule(space: SearchSpace, budget: Budget, gamma: float) -> Candidate:
    return Candidate(size_rule(space, budget, gamma), f"size rule {gamma:g}", budget.text)
