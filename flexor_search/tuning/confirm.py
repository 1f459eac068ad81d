"""Confirm: finalists and the uniform baseline train again, in full and with fresh seeds; the mean decides.

The best of many single trainings is a lucky one, so nothing is shipped on the strength of the search's own values. The
uniform baseline takes part in the choice: if nothing beats it, it is what is shipped.
"""

import hashlib
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flexor_search.planning import Budget, SearchSpace, full_precision, nearest_uniform
from flexor_search.runs import CONFIRM, DONE, FULL_PRECISION, MAX_SEEDS, SEARCH, Measurement, MetricWords, Run
from flexor_search.tuning.accuracy_model import AccuracyModel
from flexor_search.tuning.fitted import allocation_of, model_of_trainings, searched
from flexor_search.tuning.flow import Flow, Team
from flexor_search.tuning.measurer import Measurer
from flexor_search.tuning.observer import Observer
from flexor_search.tuning.trial import PROPOSED, Candidate, Trial, each_once

Finalists = Mapping[str, Sequence[Candidate]]
"""Who trains in full, by the text of the budget."""

FINALISTS = 2
"""Allocations that go on to confirmation for each budget, beside the uniform one."""


def confirmation_seeds(seed: int, count: int) -> tuple[int, ...]:
    """Seeds that no search training used, and that differ between runs of different seeds."""
    return tuple(MAX_SEEDS * (seed + 1) + index for index in range(count))


def finalists(
    space: SearchSpace, budget: Budget, measurements: Sequence[Measurement], model: AccuracyModel | None = None
) -> list[Candidate]:
    """The uniform baseline of a budget, then the best allocations that fit it.

    The first of them is the best by the model of accuracy, if there is one, of all but those whose training failed or
    was stopped, trained or not: the best of many observed is a lucky one (docs/log.md). The others are the best
    measured, by the mean of two ranks, by accuracy and by loss: the loss of one training says more about an allocation
    than its accuracy does, and the two together more than either.

    Args:
        space: the menus.
        budget: one of those asked for.
        measurements: of the run.
        model: fitted to them, from `model_of_trainings`.
    """
    uniform = nearest_uniform(space, budget)
    chosen = [Candidate(uniform, "uniform", budget.text)] if uniform is not None else []
    trials = searched(measurements)
    fitting = [
        m
        for m in trials
        if m.state == DONE
        and (uniform is None or m.digest != uniform.digest)
        and budget.fits(allocation_of(space, m), space.model_name)
    ]
    by_accuracy = sorted(fitting, key=lambda m: -m.val_accuracy)
    by_loss = sorted(fitting, key=lambda m: m.val_loss)
    ranked = sorted(fitting, key=lambda m: (by_accuracy.index(m) + by_loss.index(m), m.file_bytes, m.number))
    best = [Candidate(allocation_of(space, m), m.kind, budget.text) for m in ranked]
    if model is not None:
        predicted = model.best_other_under(budget, [allocation_of(space, m) for m in trials if m.state != DONE])
        if predicted is not None:
            kinds = {m.digest: m.kind for m in trials}
            best.insert(0, Candidate(predicted, kinds.get(predicted.digest, PROPOSED), budget.text))
    return list(each_once([*chosen, *best]))[: len(chosen) + FINALISTS]


def confirm(
    space: SearchSpace,
    budgets: Sequence[Budget],
    measurer: Measurer,
    seeds: Sequence[int],
    observer: Observer,
    team: Team | None = None,
    *,
    named: Finalists | None = None,
) -> None:
    """Train the finalists of every budget and the full-precision model with every seed; what is known is looked up.

    Args:
        space: the menus.
        budgets: those asked for.
        measurer: of the run.
        seeds: of each finalist.
        observer: is told of progress.
        team: trains several at a time; None: one at a time.
        named: the finalists; None: those that the measurements of the search say.
    """
    if named is None:
        named = _named_by_trainings(space, budgets, measurer)
    candidates: dict[str, Candidate] = {}
    for budget in budgets:
        for candidate in named[budget.text]:
            candidates.setdefault(candidate.allocation.digest, candidate)
    full = Candidate(full_precision(space.model), FULL_PRECISION)
    trials = [Trial(one, CONFIRM, seed) for one in (*candidates.values(), full) for seed in seeds]
    trials += _lost(space, budgets, measurer, seeds, candidates)
    observer.phase(CONFIRM, len(trials))

    def end() -> None:
        found, _ = flow.end()
        observer.measured(found, best_confirmed(space, budgets[0], measurer.run))

    with Flow(measurer, team) as flow:
        for trial in trials:
            if len(flow) == flow.width:
                end()
            bits = f"{trial.candidate.allocation.bits_per_weight:g} bits per weight"
            observer.begin(f"{trial.candidate.kind} at {bits}, seed {trial.seed}")
            flow.begin(trial)
        while flow:
            end()


def _lost(
    space: SearchSpace,
    budgets: Sequence[Budget],
    measurer: Measurer,
    seeds: Sequence[int],
    named: Mapping[str, Candidate],
) -> list[Trial]:
    """What an earlier call confirmed, who may still be chosen, and whose packed file is lost: it is made again."""
    fitting = {
        m.key: m
        for budget in budgets
        for group in _fitting(space, budget, measurer.run, CONFIRM, seeds)
        for m in group.measurements
        if m.digest not in named and len(group.measurements) == len(seeds)
    }
    lost = [m for m in fitting.values() if measurer.damage(m)]
    return [Trial(Candidate(allocation_of(space, m), m.kind, m.budget), CONFIRM, m.seed) for m in lost]


def _named_by_trainings(space: SearchSpace, budgets: Sequence[Budget], measurer: Measurer) -> Finalists:
    """The finalists that the trainings of the search say, agreed on by workers that made the same ones.

    A fit may end otherwise on another machine, by rounding alone.
    """
    measurements = measurer.run.measurements
    seen = [[m.digest, m.seed, m.state, m.val_accuracy, m.val_loss] for m in searched(measurements)]
    of = hashlib.sha256(json.dumps(seen).encode()).hexdigest()[:16]

    def offer() -> dict[str, Any]:
        model = model_of_trainings(space, measurements)
        named = {budget.text: finalists(space, budget, measurements, model) for budget in budgets}
        return {text: [candidate.to_json() for candidate in some] for text, some in named.items()}

    texts = ",".join(budget.text for budget in budgets)
    agreed = measurer.agree(f"finalists at {texts} of {of}", offer, lambda _: True)
    return {text: [Candidate.from_json(space, body) for body in some] for text, some in agreed.items()}


@dataclass(frozen=True)
class Group:
    """The finished trainings of one allocation at one fidelity.

    Attributes:
        measurements: one a seed.
    """

    measurements: tuple[Measurement, ...]

    @property
    def first(self) -> Measurement:
        """Any of them, for what they share."""
        return self.measurements[0]

    @property
    def mean(self) -> float:
        """Mean validation accuracy."""
        return self.mean_of(len(self.measurements))

    def mean_of(self, count: int) -> float:
        """Mean validation accuracy of the first so many seeds."""
        return statistics.fmean(m.val_accuracy for m in self.measurements[:count])

    @property
    def best(self) -> Measurement:
        """The one with the best validation accuracy: the one that is shipped."""
        return max(self.measurements, key=lambda m: (m.val_accuracy, -m.val_loss, -m.number))


def choose(
    space: SearchSpace, budget: Budget, run: Run, seeds: Sequence[int] | None = None, *, confirmed: bool = True
) -> Group | None:
    """The group to ship for a budget: of those that fit, the best mean validation accuracy.

    Groups confirmed with the most of these seeds are compared; seeds None: by the seeds that all groups of two or more
    share, as an earlier budget may have been confirmed with fewer. In a run that was interrupted before all
    were confirmed (`confirmed` False) the search's own trainings are, because uniform is confirmed first and would win
    by that alone.
    Equal means go to the smaller file.

    Returns:
        None if nothing that fits has finished.
    """
    for phase in (CONFIRM, SEARCH) if confirmed else (SEARCH, CONFIRM):
        fitting = _fitting(space, budget, run, phase, seeds if phase == CONFIRM else None)
        if fitting:
            counts = sorted(len(group.measurements) for group in fitting)
            least = counts[-1] if seeds is not None else next((n for n in counts if n >= 2), 1)
            equal = [group for group in fitting if len(group.measurements) >= least]
            return max(equal, key=lambda group: (group.mean_of(least), -group.first.file_bytes, -group.first.number))
    return None


def groups(run: Run, phase: str, seeds: Sequence[int] | None = None) -> list[Group]:
    """Finished trainings of a phase, grouped by allocation; only those with these seeds, if given.

    Of a training that was made again, its file having been lost, the last counts.
    """
    found: dict[str, dict[int, Measurement]] = {}
    for m in run.measurements:
        if m.phase == phase and m.state == DONE and (seeds is None or m.seed in seeds):
            found.setdefault(m.digest, {})[m.seed] = m
    return [Group(tuple(same[seed] for seed in sorted(same))) for same in found.values()]


def _fitting(
    space: SearchSpace, budget: Budget, run: Run, phase: str, seeds: Sequence[int] | None = None
) -> list[Group]:
    """The groups that may be shipped for a budget."""
    return [
        group
        for group in groups(run, phase, seeds)
        if group.first.kind != FULL_PRECISION and budget.fits(allocation_of(space, group.first), space.model_name)
    ]


def best_confirmed(space: SearchSpace, budget: Budget, run: Run) -> str:
    """The best mean so far that fits a budget, in words."""
    best = max(_fitting(space, budget, run, CONFIRM), key=lambda group: group.mean, default=None)
    return f"{MetricWords.of(run.question).text(best.mean)} at {best.first.bits_per_weight:g} bpw" if best else ""
