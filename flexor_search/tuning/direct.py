"""The direct strategy: every trial trains. Baselines first, then what the model of accuracy proposes."""

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

from flexor_search.errors import RunError
from flexor_search.planning import Allocation, Budget, SearchSpace
from flexor_search.runs import ACCURACY, DONE, SEARCH, Measurement, MetricWords
from flexor_search.tuning.clock import SearchClock
from flexor_search.tuning.fitted import allocation_of, keep_model_of_trainings
from flexor_search.tuning.flow import Flow, Team
from flexor_search.tuning.measurer import Measurer
from flexor_search.tuning.observer import Observer
from flexor_search.tuning.optuna_backend import StudyRecord
from flexor_search.tuning.proposals import SearchPlan, baselines, next_proposal
from flexor_search.tuning.rungs import halving
from flexor_search.tuning.trial import PROPOSED, Candidate, Trial

_TIME_IS_UP = "the time for the search is up after {done} of {trials} trials"
_NOTHING_NEW = "nothing new to measure was found under any budget; the search ends after {done} trials"


def search(plan: SearchPlan, measurer: Measurer, observer: Observer, team: Team | None = None) -> None:
    """Measure baselines and proposals until the trials or the time are used up.

    Everything is looked up in the run first, so calling this again continues where an earlier call ended.

    Args:
        plan: what to do.
        measurer: of the run.
        observer: is told of progress.
        team: trains several at a time; None: one at a time.
    """
    try:
        with Flow(measurer, team) as flow:
            _Search(plan, measurer, observer, flow).run()
    except KeyboardInterrupt:
        _keep_model(plan.space, measurer, observer)
        raise
    _keep_model(plan.space, measurer, observer)


def _keep_model(space: SearchSpace, measurer: Measurer, observer: Observer) -> None:
    try:
        keep_model_of_trainings(space, measurer.run)
    except RunError as error:
        observer.message(str(error))


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
        if len(self.begun) >= plan.trials and self._are_for_others():
            self.observer.message(
                f"the {plan.trials} trials are used up by what was trained for other budgets; a larger --trials gives "
                "this one proposals of its own"
            )
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

    def _are_for_others(self) -> bool:
        """Whether all proposals that were trained were made for budgets that are not asked for now."""
        ours = {budget.text for budget in self.plan.budgets}
        proposed = [candidate.budget for candidate in self.begun.values() if candidate.kind == PROPOSED]
        return bool(proposed) and ours.isdisjoint(proposed)

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
            rule = halving(self._seen(), candidate.allocation.bits_per_weight, epochs)
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


def best_so_far(budget: Budget, space: SearchSpace, done: Sequence[Measurement], words: MetricWords = ACCURACY) -> str:
    """The most accurate finished trial that fits a budget, in words."""
    fitting = [m for m in done if m.state == DONE and budget.fits(allocation_of(space, m), space.model_name)]
    best = max(fitting, key=lambda m: (m.val_accuracy, -m.val_loss), default=None)
    return f"{words.text(best.val_accuracy)} at {best.bits_per_weight:g} bpw" if best else ""
