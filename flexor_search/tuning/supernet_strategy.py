"""The supernet strategy: one shared training tells what every layer's rate is worth, and few trainings check it.

A model of accuracy is fitted to the scores of the shared network (shared_scores.py), and once there are enough also to
the trainings of the search: the uniform allocation and the rules of thumb of each budget, and what the model itself
finds best there. Finalists are chosen by what the model predicts, never by the luckiest score; the uniform allocation
is always one of them. For one budget so are the rules of thumb; for several the one predicted best is trained in the
search beside the model's own, and one of the two is confirmed, as these pairs of trainings say together.

Where ties between layers were found, scores and model are of the space with these ties opened; ties of a file stay.
The scores say which layers get a rate of their own (refine.py), once: that is in sensitivity.json, and neither
trainings nor later calls change it. Everything from there on is chosen from the space with the other ties kept, by
the sums of the curves of tied layers; predictions stay those of the opened space, which holds all that can be chosen.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from flexor_search.planning import GAMMAS, Budget
from flexor_search.planning.ties import opened, refined
from flexor_search.runs import SEARCH, Measurement
from flexor_search.runs.sensitivity import Sensitivity
from flexor_search.tuning.accuracy_model import AccuracyModel, fit_accuracy_model
from flexor_search.tuning.clock import SearchClock
from flexor_search.tuning.confirm import ENOUGH_TRAINED, Finalists, trainings
from flexor_search.tuning.direct import best_so_far
from flexor_search.tuning.flow import Flow, Team
from flexor_search.tuning.measurer import Measurer
from flexor_search.tuning.observer import Observer
from flexor_search.tuning.optuna_backend import StudyRecord
from flexor_search.tuning.proposals import SearchPlan, ladder, moved, onto, rule_candidate, uniform_candidate
from flexor_search.tuning.refine import own_rates, told
from flexor_search.tuning.shared_scores import observations
from flexor_search.tuning.trial import Candidate, Trial

TRIALS, TRIALS_FOR_MANY = 16, 10
"""Trainings of the search for one budget and for several, where none are asked for. Several budgets cover the smaller
sizes themselves, and their confirmations take longer; so five cost less than half as much again as one."""


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
    observer.phase(SEARCH, plan.trials)
    record, clock = StudyRecord(measurer.run, plan.space), SearchClock(measurer.run)
    done: list[Measurement] = []

    def end() -> None:
        measurement, is_new = flow.end()
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
            if begun and clock.seconds > plan.timeout_seconds:
                observer.message(f"the time for the search is up after {begun} of {plan.trials} trials")
                break
            while len(flow) >= flow.width:
                end()
            observer.begin(f"{candidate.kind} at {candidate.allocation.bits_per_weight:g} bits per weight")
            flow.begin(Trial(candidate, SEARCH, plan.seed))
            begun += 1
        while flow:
            end()
    trained = trainings(model.space, measurer.run.measurements)
    measured: dict[str, float] | None = {one.allocation.digest: one.value for one in trained}
    both = fit_accuracy_model(model.space, [*scored, *trained]).choosing_from(plan.space)
    replace(found, model=both.to_json()).write(measurer.run.folder)
    for doubt in both.doubts()[:2]:
        observer.message(f"the model of accuracy: {doubt}")
    if len(trained) >= ENOUGH_TRAINED * len(plan.space.variables):
        model, measured = both, None
    return finalists(plan, model, measured, len(measurer.data.validation))


def candidates(plan: SearchPlan, model: AccuracyModel) -> Iterator[Candidate]:
    """What the search trains, most needed first, each allocation once; never the same without end."""
    return _each_once(_ordered(plan, model))


def finalists(
    plan: SearchPlan, model: AccuracyModel, measured: Mapping[str, float] | None = None, images: int = 0
) -> dict[str, list[Candidate]]:
    """Who trains in full, by the text of the budget.

    For one budget uniform, the model's best and all rules of thumb. For several, each of which is confirmed, uniform
    and one of two: the model's best, or the rule of thumb that the model thinks most of.

    Args:
        plan: the search.
        model: of accuracy.
        measured: digest -> validation accuracy of what the search trained, by which one of the two is taken: a
            short training is noisy, but it has no bias, as the scores of a shared network have (docs/log.md).
            None: the model is fitted to enough trainings to decide itself.
        images: of which an accuracy is the share that is classified rightly.
    """
    rules = {budget.text: _rules(plan, budget) for budget in plan.budgets}
    others = {budget.text: [_best(plan, model, budget), *rules[budget.text]] for budget in plan.budgets}
    if len(plan.budgets) > 1:
        pairs = {text: (best, _likeliest(model, rules[text])) for text, (best, *_) in others.items()}
        leads = _leads(list(pairs.values()), model, measured, images)
        others = {text: [pair[lead > 0]] for (text, pair), lead in zip(pairs.items(), leads, strict=True)}
    return {
        budget.text: list(_each_once([*uniform_candidate(plan.space, budget), *others[budget.text]]))
        for budget in plan.budgets
    }


def _leads(
    pairs: Sequence[tuple[Candidate, Candidate]],
    model: AccuracyModel,
    measured: Mapping[str, float] | None,
    images: int,
) -> list[float]:
    """By how much the second of each pair is better than the first, as all pairs say together.

    Two short trainings differ by chance as much as by their allocations, and whether a model knows more of a network
    than a rule of thumb is much the same question at every budget. So each difference is moved towards their mean, the
    more, the less they vary beyond the noise that an accuracy has by its images alone (an empirical Bayes estimate).
    A pair of which one was not trained, because it failed or because the time was up, says that the other is better.
    """
    if measured is None:
        found = [model.predict([one.allocation for one in pair])[0] for pair in pairs]
        return [float(second - first) for first, second in found]
    values = [[measured.get(one.allocation.digest, -math.inf) for one in pair] for pair in pairs]
    known = np.array([pair for pair in values if np.isfinite(pair).all()]).reshape(-1, 2)
    apart = known[:, 1] - known[:, 0]
    mean, kept = float(apart.mean()) if len(apart) else 0.0, 1.0
    if len(apart) > 1:
        share = float(np.clip(known.mean(), 0, 1))
        noise = 2 * share * (1 - share) / max(images, 1)
        kept = max(0.0, 1 - noise / max(float(apart.var(ddof=1)), 1e-12))
    leads = []
    for first, second in values:
        if math.isfinite(first) and math.isfinite(second):
            leads.append(mean + kept * (second - first - mean))
        else:
            leads.append(mean if first == second else second - first)
    return leads


def _ordered(plan: SearchPlan, model: AccuracyModel) -> Iterator[Candidate]:
    smaller = ladder(plan.space, plan.budgets)
    for budget in plan.budgets:
        rules = _rules(plan, budget)
        if len(plan.budgets) == 1:
            yield from (*uniform_candidate(plan.space, budget), _best(plan, model, budget), *rules)
        else:  # the uniform ones are confirmed anyway
            yield from (_best(plan, model, budget), _likeliest(model, rules))
    for budget in smaller:
        yield _best(plan, model, budget)
    for budget in smaller:
        yield from uniform_candidate(plan.space, budget)
    # More than that is for those who ask for it: what may well be best, and what lies near it.
    random = np.random.Generator(np.random.PCG64([plan.seed, 11]))
    for draw in range(20 * plan.trials):
        budget = plan.budgets[draw % len(plan.budgets)]
        allocation = model.draw(plan.seed * 100_003 + draw).best_under(budget)
        yield Candidate(allocation, "proposed", budget.text)
        yield Candidate(
            onto(plan.space, moved(plan.space, plan.space.profile(allocation), random), budget), "proposed", budget.text
        )


def _best(plan: SearchPlan, model: AccuracyModel, budget: Budget) -> Candidate:
    return Candidate(model.best_under(budget), "proposed", budget.text)


def _each_once(candidates: Iterable[Candidate]) -> Iterator[Candidate]:
    seen: set[str] = set()
    for candidate in candidates:
        if candidate.allocation.digest not in seen:
            seen.add(candidate.allocation.digest)
            yield candidate


def _rules(plan: SearchPlan, budget: Budget) -> list[Candidate]:
    return [rule_candidate(plan.space, budget, gamma) for gamma in GAMMAS]


def _likeliest(model: AccuracyModel, rules: Sequence[Candidate]) -> Candidate:
    predicted = model.predict([rule.allocation for rule in rules])[0]
    return rules[int(np.argmax(predicted))]
