"""The supernet strategy: one shared training tells what every layer's rate is worth, and few trainings check it.

A model of accuracy is fitted to the scores of the shared network (shared_scores.py), and once there are enough also to
the trainings of the search: the uniform allocation and the rules of thumb of each budget, and what the model itself
finds best there. Finalists are chosen by what the model predicts, never by the luckiest score; the uniform allocation
is always one of them. For one budget so are the best by the scores alone, the best by scores and trainings together and
the rules of thumb; for several the middle rule is trained in the search beside the model's own, and one of the two is
confirmed, as these pairs of trainings say together.

Where ties between layers were found, scores and model are of the space with these ties opened; ties of a file stay.
The scores say which layers get a rate of their own (refine.py), once: that is in sensitivity.json, and neither
trainings nor later calls change it. Everything from there on is chosen from the space with the other ties kept, by
the sums of the curves of tied layers; predictions stay those of the opened space, which holds all that can be chosen.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from flexor_search.planning import GAMMAS, Budget
from flexor_search.planning.ties import opened, refined
from flexor_search.runs import DONE, SEARCH, STOPPED, Measurement
from flexor_search.runs.sensitivity import Sensitivity
from flexor_search.tuning.accuracy_model import AccuracyModel, fit_accuracy_model
from flexor_search.tuning.clock import SearchClock
from flexor_search.tuning.confirm import Finalists
from flexor_search.tuning.direct import best_so_far
from flexor_search.tuning.fitted import keep_model, observations, searched, trainings
from flexor_search.tuning.flow import Flow, Team
from flexor_search.tuning.measurer import Measurer
from flexor_search.tuning.observer import Observer
from flexor_search.tuning.optuna_backend import StudyRecord
from flexor_search.tuning.proposals import (
    SearchPlan,
    ladder,
    moved,
    onto,
    rule_candidate,
    uniform_candidate,
)
from flexor_search.tuning.refine import own_rates, told
from flexor_search.tuning.trial import PROPOSED, Candidate, Trial, each_once

TRIALS, TRIALS_FOR_MANY = 16, 10
"""Trainings of the search for one budget and for several, where none are asked for. Several budgets cover the smaller
sizes themselves, and their confirmations take longer; so five cost less than half as much again as one."""
ENOUGH_TRAINED = 5
"""Trainings for each choice, from which on a model fitted to them and to the scores is trusted as it is. Fewer move a
fit to hundreds of scores mostly by their noise."""


def sizes(plan: SearchPlan) -> tuple[Budget, ...]:
    """The budgets asked for, then the smaller ones that the search covers too."""
    return (*plan.budgets, *ladder(plan.space, plan.budgets))


def supernet_search(
    plan: SearchPlan, found: Sensitivity, measurer: Measurer, observer: Observer, team: Team | None = None
) -> Finalists:
    """Train what the scores propose, refit, and name the finalists of each budget.

    Everything is looked up in the run first, so calling this again continues where an earlier call ended.

    Args:
        plan: what to do; `trials` trainings in all.
        found: the scores.
        measurer: of the run.
        observer: is told of progress.
        team: trains several at a time; None: one at a time.

    Returns:
        The finalists of each budget asked for, by its text.
    """
    scored = observations(opened(plan.space), found)
    model = fit_accuracy_model(opened(plan.space), scored)
    if ties := plan.space.found_ties:
        own = found.own_rates if found.own_rates is not None else own_rates(model, ties)
        found = replace(found, own_rates=own)
        found.write(measurer.run.folder)
        observer.message(told(own, ties))
        plan = replace(plan, space=refined(plan.space, own))
        model = model.choosing_from(plan.space)
    if "values" not in found.model:  # for the report of a search that goes on or is interrupted
        keep_model(measurer.run, found, model)
    observer.phase(SEARCH, plan.trials)
    record, clock = StudyRecord(measurer.run, plan.space), SearchClock(measurer.run)
    done: list[Measurement] = []

    has_new = False

    def end() -> None:
        nonlocal has_new
        measurement, is_new = flow.end()
        has_new |= is_new
        done.append(measurement)
        if is_new:
            record.add(measurement)
            clock.write()
        observer.measured(measurement, best_so_far(plan.budgets[0], plan.space, done))

    begun = 0
    with Flow(measurer, team) as flow:
        for candidate in candidates(plan, model):
            if begun == plan.trials:
                break
            trial = Trial(candidate, SEARCH, plan.seed)
            found_before = measurer.run.find(trial.key)
            is_known = found_before is not None and found_before.state != STOPPED and not measurer.damage(found_before)
            if begun and clock.seconds > plan.timeout_seconds and not is_known:
                observer.message(f"the time for the search is up after {begun} of {plan.trials} trials")
                break
            while len(flow) >= flow.width:
                end()
            observer.begin(f"{candidate.kind} at {candidate.allocation.bits_per_weight:g} bits per weight")
            flow.begin(trial)
            begun += 1
            if flow.is_alone:  # it trains now, so that the time that it takes counts before the next
                end()
        while flow:
            end()
    trained = trainings(model.space, searched(measurer.run.measurements))
    both = fit_accuracy_model(model.space, [*scored, *trained]).choosing_from(plan.space)
    keep_model(measurer.run, found, both, has_new=has_new)
    for doubt in both.doubts()[:2]:
        observer.message(f"the model of accuracy: {doubt}")
    if len(trained) >= ENOUGH_TRAINED * len(plan.space.variables):
        return finalists(plan, both)
    values = {m.digest: m.val_accuracy if m.state == DONE else -math.inf for m in done}
    return finalists(plan, model, Tried(values, len(measurer.data.validation)), both)


def candidates(plan: SearchPlan, model: AccuracyModel) -> Iterator[Candidate]:
    """What the search trains, most needed first, each allocation once; never the same without end."""
    return each_once(_ordered(plan, model))


@dataclass(frozen=True)
class Tried:
    """What the search trained.

    Attributes:
        values: digest -> validation accuracy; minus infinity for what failed.
        images: of which an accuracy is the share that is classified rightly.
    """

    values: Mapping[str, float]
    images: int


def finalists(
    plan: SearchPlan, model: AccuracyModel, tried: Tried | None = None, both: AccuracyModel | None = None
) -> dict[str, list[Candidate]]:
    """Who trains in full, by the text of the budget.

    For one budget uniform, the best of each model and all rules of thumb. For several, each of which is confirmed,
    uniform and one of two: the model's best, or the rule of thumb that was trained beside it.

    Args:
        plan: the search.
        model: of accuracy.
        tried: decides between the two: a short training is noisy, but it has no bias, as the scores of a shared network
            have (docs/log.md). None: the model is fitted to enough trainings to be trusted.
        both: fitted to the few trainings of the search too, which may have moved its best for better or worse: for one
            budget the confirmation finds out, for several that would cost too much.
    """
    pairs = [(_best(model, budget), _rule(plan, budget)) for budget in plan.budgets]
    if len(plan.budgets) == 1:
        ((best, _),) = pairs
        moved_by_trainings = [_best(both, plan.budgets[0])] if both is not None else []
        others = [[best, *moved_by_trainings, *_rules(plan, plan.budgets[0])]]
    elif tried is None:
        others = [[best] for best, _ in pairs]
    else:
        values = [
            [
                tried.values.get(one.allocation.digest, math.nan) if best.allocation != rule.allocation else math.nan
                for one in (best, rule)
            ]
            for best, rule in pairs
        ]
        leads = leads_of_rules(values, tried.images)
        others = [[rule if lead > 0 else best] for (best, rule), lead in zip(pairs, leads, strict=True)]
    return {
        budget.text: list(each_once([*uniform_candidate(plan.space, budget), *some]))
        for budget, some in zip(plan.budgets, others, strict=True)
    }


def leads_of_rules(values: Sequence[Sequence[float]], images: int) -> list[float]:
    """By how much the second of each pair is better than the first, as all pairs say together.

    Two short trainings differ by chance as much as by their allocations, and whether a model knows more of a network
    than a rule of thumb does is much the same question at every budget. So each difference is moved towards the mean
    of all, the more, the less they vary beyond noise (an empirical Bayes estimate). The noise of a difference is taken
    to be that of one accuracy as a share of images: trainings that differ by their seeds alone were found to vary by
    about half of that each (studies/resnet20-fashion-mnist).

    Args:
        values: a pair of accuracies for each budget: nan where none was trained, because the time was up or because
            both are the same allocation; minus infinity for one that failed.
        images: that an accuracy is of.

    Returns:
        One number a pair. Where one was not trained the mean of the others, where one failed an infinity.
    """
    apart = np.array([second - first for first, second in values])
    apart = apart[np.isfinite(apart)]
    mean, kept = float(apart.mean()) if len(apart) else 0.0, 1.0
    if len(apart) > 1:
        share = float(np.clip(np.mean([value for pair in values for value in pair if math.isfinite(value)]), 0, 1))
        kept = max(0.0, 1 - share * (1 - share) / images / max(float(apart.var(ddof=1)), 1e-12))
    leads = []
    for first, second in values:
        lead = second - first
        leads.append(mean if math.isnan(lead) else mean + kept * (lead - mean) if math.isfinite(lead) else lead)
    return leads


def _ordered(plan: SearchPlan, model: AccuracyModel) -> Iterator[Candidate]:
    smaller = ladder(plan.space, plan.budgets)
    for budget in plan.budgets:
        if len(plan.budgets) == 1:
            yield from (*uniform_candidate(plan.space, budget), _best(model, budget), *_rules(plan, budget))
        else:  # the uniform ones are confirmed anyway
            yield from (_best(model, budget), _rule(plan, budget))
    for budget in smaller:
        yield _best(model, budget)
    for budget in smaller:
        yield from uniform_candidate(plan.space, budget)
    # More than that is for those who ask for it: what may well be best, and what lies near it.
    random = np.random.Generator(np.random.PCG64([plan.seed, 11]))
    for draw in range(20 * plan.trials):
        budget = plan.budgets[draw % len(plan.budgets)]
        allocation = model.draw(plan.seed * 100_003 + draw).best_under(budget)
        yield Candidate(allocation, PROPOSED, budget.text)
        yield Candidate(
            onto(plan.space, moved(plan.space, plan.space.profile(allocation), random), budget), PROPOSED, budget.text
        )


def _best(model: AccuracyModel, budget: Budget) -> Candidate:
    return Candidate(model.best_under(budget), PROPOSED, budget.text)


def _rules(plan: SearchPlan, budget: Budget) -> list[Candidate]:
    return [rule_candidate(plan.space, budget, gamma) for gamma in GAMMAS]


def _rule(plan: SearchPlan, budget: Budget) -> Candidate:
    """The middle one of the rules of thumb: what a shared network thinks of them is no better than the middle."""
    return _rules(plan, budget)[len(GAMMAS) // 2]
