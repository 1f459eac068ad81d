"""Train a run's shared network, once, and score allocations on it; both go on where an interrupted call ended.

What is scored: first what is known beforehand (single rates throughout, the rules of thumb at every size, one layer
away from the others, and random allocations, half of them anywhere and half at the sizes that are asked for), then what
a first model of accuracy proposes at each of these sizes. All of it is in sensitivity.json.

Where ties between layers were found, the network is trained and scored with these ties opened, so that the scores tell
whether they hold; half of the random allocations and of the proposals keep them, as what is chosen in the end mostly
does.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
from torch import nn

from flexor_search.files import write_error
from flexor_search.planning import GAMMAS, Budget, SearchSpace, project_log_rates, size_rule
from flexor_search.planning.space import Profile
from flexor_search.planning.ties import opened
from flexor_search.runs import Run
from flexor_search.runs.sensitivity import DamagedError, Sensitivity, SharedScore, identity, read_sensitivity
from flexor_search.training import (
    Checkpoint,
    ProfileScorer,
    SharedNetworkError,
    check_learned,
    is_out_of_memory,
    seeded,
    shared_model,
    train_shared,
)
from flexor_search.training.checkpoint import do_nothing, read_checkpoint, write_checkpoint
from flexor_search.tuning.accuracy_model import AccuracyModel, fit_accuracy_model
from flexor_search.tuning.fitted import observations
from flexor_search.tuning.measurer import Measurer
from flexor_search.tuning.observer import Observer
from flexor_search.workloads.own import first_line

NETWORK_PATHS = "random"
SCORES = 240
"""Allocations scored before the model proposes any; a space with no more is scored whole."""
DRAWS = 6
"""Proposals at each size: the model's best, then the best of models drawn from what it is unsure of."""
_SAVE_SECONDS = 10.0
T = TypeVar("T")
_PART = 40
"""Allocations that are scored in one order; the first so many hold the single rates throughout."""


@dataclass(frozen=True)
class SharedPlan:
    """What is to be scored.

    Attributes:
        space: the menus of the search.
        budgets: those asked for and the smaller ones, the sizes that matter.
        seed: of the network and of random allocations.
        seconds_per_image: of a plain training, for what it all cost in such trainings.
        deadline: time.monotonic() after which no more is scored than what is scored first. The network stays then, for
            a call that has more time.
        saved: is called whenever the network or scores are on disk.
    """

    space: SearchSpace
    budgets: tuple[Budget, ...]
    seed: int
    seconds_per_image: float
    deadline: float = math.inf
    saved: Callable[[], None] = do_nothing

    @cached_property
    def opened(self) -> SearchSpace:
        """The space of the shared network and of the profiles of its scores: without the ties that were found."""
        return opened(self.space)


def shared_scores(plan: SharedPlan, measurer: Measurer, observer: Observer) -> Sensitivity:
    """The scores of a run, looked up or made.

    Raises:
        SharedNetworkError: the network did not learn or the memory did not last, now or in an earlier call.
        RunError: sensitivity.json is of another search, or the run folder cannot be written.
    """
    run = measurer.run
    try:
        known = read_sensitivity(run.folder, plan.opened, run.fingerprint)
    except DamagedError as error:
        observer.message(f"{error}; it is made again, for which the shared network is trained once more")
        known = None
    if known is not None and (known.failed or known.complete):
        _unlink(run)
    if known is not None and known.failed:
        raise SharedNetworkError(known.failed)
    if known is not None and known.complete:
        observer.message(f"{len(known.scores)} allocations are scored already; no shared network is trained")
        return known
    enough = known is not None and len(known.scores) >= min(_PART, plan.opened.size)
    if known is not None and enough and time.monotonic() > plan.deadline:
        observer.message(f"{len(known.scores)} allocations are scored; the time for more is up, --timeout gives it")
        return known
    try:
        model, found = _in_memory(lambda: _trained(plan, measurer, observer, known))
        found = _in_memory(lambda: _scored(plan, measurer, observer, model, found))
    except SharedNetworkError as error:
        # A larger machine has more memory; a network that has not learned has not learned anywhere.
        if error.__cause__ is None or not is_out_of_memory(error.__cause__):
            Sensitivity(identity(run.fingerprint), failed=str(error)).write(run.folder)
            _unlink(run)
        raise
    if found.complete:
        _unlink(run)
    return found


def _unlink(run: Run) -> None:
    for path in unfinished_files(run):
        path.unlink(missing_ok=True)


def _in_memory(work: Callable[[], T]) -> T:
    """Do a work, for which the memory may not last."""
    try:
        return work()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise SharedNetworkError("the memory does not last for training and scoring the shared network") from error


def first_profiles(plan: SharedPlan, count: int = SCORES) -> list[Profile]:
    """What is scored before any model: all of a small space, else so many, each once; single rates throughout first."""
    space, menus = plan.opened, [len(variable.menu) for variable in plan.opened.variables]
    ends = tuple(size - 1 for size in menus)
    levels = max(menus)
    found = [ends] + [tuple(round(level * end / (levels - 1)) for end in ends) for level in range(levels)]
    rules = [space.profile(size_rule(space, budget, gamma)) for budget in plan.budgets for gamma in GAMMAS]
    alone = [(*ends[:v], 0, *ends[v + 1 :]) for v in range(len(ends))]
    random = np.random.Generator(np.random.PCG64([plan.seed, 7]))
    if space.size <= count:
        every = [tuple(int(i) for i in np.unravel_index(number, menus)) for number in random.permutation(space.size)]
        return list(dict.fromkeys([*found, *alone, *every]))
    found = list(dict.fromkeys([*found, *rules, *alone]))[: count * 2 // 3]
    seen = set(found)
    for number in range(20 * count):
        if len(found) >= count:
            break
        drawn = plan.space if number // (2 * len(plan.budgets)) % 2 else space
        profile = tuple(int(random.integers(len(variable.menu))) for variable in drawn.variables)
        if number % 2:
            wishes = [float(random.normal(0, 1)) for _ in profile]
            profile = project_log_rates(drawn, wishes, plan.budgets[number // 2 % len(plan.budgets)])
        profile = space.profile(drawn.allocation(profile)) if drawn is not space else profile
        if profile not in seen:
            seen.add(profile)
            found.append(profile)
    return found


def most_scores(plan: SharedPlan) -> int:
    """How many allocations are scored, at most."""
    return min(plan.opened.size, SCORES + DRAWS * len(plan.budgets))


def proposed_profiles(plan: SharedPlan, model: AccuracyModel) -> list[Profile]:
    """What a model finds best at each size, and may find best."""
    found = []
    for place, budget in enumerate(plan.budgets):
        for draw in range(DRAWS):
            drawn = model if draw == 0 else model.draw((plan.seed * 1009 + place) * DRAWS + draw)
            drawn = drawn.choosing_from(plan.space if draw % 2 else plan.opened)
            found.append(plan.opened.profile(drawn.best_under(budget)))
    return list(dict.fromkeys(found))


def _trained(
    plan: SharedPlan, measurer: Measurer, observer: Observer, known: Sensitivity | None
) -> tuple[nn.Module, Sensitivity]:
    checkpoint, weights = unfinished_files(measurer.run)
    recipe, data, fingerprint = measurer.recipe, measurer.data, identity(measurer.run.fingerprint)
    with seeded(plan.seed):
        model = shared_model(measurer.build(), plan.opened, recipe)
    if known is not None and known.network and weights.exists():
        try:
            tensors, about = read_checkpoint(weights)
            if about == fingerprint:
                model.load_state_dict(tensors)
                observer.message(f"the shared network is trained; {len(known.scores)} allocations are scored already")
                return model, known
        except Exception as error:  # there is no end to what a damaged file can raise
            reason = first_line(error)
            observer.message(f"{weights} cannot be used ({reason}); the shared network is trained again")
    elif known is not None and known.scores:
        observer.message(f"{weights} is lost; the shared network is trained again, and all is scored anew")
    observer.begin("the shared network")
    result = train_shared(
        *(model, plan.opened, data, recipe),
        seed=plan.seed,
        device=measurer.device,
        paths=NETWORK_PATHS,
        checkpoint=Checkpoint(checkpoint, measurer.checkpoint_seconds, fingerprint, measurer.tell, plan.saved),
    )
    network = {"paths": NETWORK_PATHS, "epochs": recipe.epochs, "images": len(data.train)}
    found = Sensitivity(fingerprint, network | {"train_seconds": round(result.train_seconds, 3)})
    try:
        write_checkpoint(weights, model.state_dict(), fingerprint)  # type: ignore[arg-type]
    except OSError as error:
        raise write_error(weights, error) from error
    found.write(measurer.run.folder)
    return model, found


def _scored(
    plan: SharedPlan, measurer: Measurer, observer: Observer, model: nn.Module, found: Sensitivity
) -> Sensitivity:
    scorer = ProfileScorer(model, measurer.data, measurer.recipe, measurer.device)
    ends = tuple(len(variable.menu) - 1 for variable in plan.opened.variables)
    check_learned(scorer(ends), measurer.data)
    scoring = _Scoring(plan, measurer, observer, scorer)
    found, is_whole = scoring.add(found, first_profiles(plan))
    if is_whole and plan.opened.size > SCORES:
        fitted = fit_accuracy_model(plan.opened, observations(plan.opened, found))
        found, is_whole = scoring.add(found, proposed_profiles(plan, fitted))
    spent = found.network["train_seconds"] + found.network.get("score_seconds", 0.0)
    plain = plan.seconds_per_image * len(measurer.data.train) * measurer.recipe.epochs
    network = found.network | {"training_equivalents": round(spent / max(plain, 1e-9), 2)}
    found = replace(found, complete=is_whole, network=network)
    found.write(measurer.run.folder)
    observer.message(
        f"shared network: trained in {network['train_seconds']:.0f} s, {len(found.scores)} allocations scored in "
        f"{network.get('score_seconds', 0.0):.0f} s, in all the cost of {network['training_equivalents']:g} trainings"
    )
    return found


@dataclass(frozen=True)
class _Scoring:
    plan: SharedPlan
    measurer: Measurer
    observer: Observer
    scorer: ProfileScorer

    def add(self, found: Sensitivity, profiles: Sequence[Profile]) -> tuple[Sensitivity, bool]:
        """Score what is not known, and write it down every few seconds; returns whether the time lasted, too.

        Part after part, so that what the time leaves out are the last: within a part in the order that is fastest. The
        first part is scored whatever the time, because nothing can be fitted to nothing.
        """
        known = {score.profile for score in found.scores}
        wanted = list(dict.fromkeys(profiles))
        parts = (sorted(wanted[start : start + _PART]) for start in range(0, len(wanted), _PART))
        todo = [profile for part in parts for profile in part if profile not in known]
        least = max(0, _PART - len(known))
        made: list[SharedScore] = []
        is_whole, last = True, time.monotonic()
        try:
            for number, profile in enumerate(todo):
                if number >= least and time.monotonic() > self.plan.deadline:
                    self.observer.message(f"the time for scoring is up after {number} of {len(todo)} allocations")
                    is_whole = False
                    break
                self.observer.begin(f"scoring allocation {len(known) + number + 1} on the shared network")
                score = self.scorer(profile)
                if math.isfinite(score.loss):
                    made.append(SharedScore(profile, score.accuracy, score.loss))
                if time.monotonic() - last > _SAVE_SECONDS:
                    found = self._saved(found, made, time.monotonic() - last)
                    made, last = [], time.monotonic()
        finally:
            found = self._saved(found, made, time.monotonic() - last)
        return found, is_whole

    def _saved(self, found: Sensitivity, made: list[SharedScore], seconds: float) -> Sensitivity:
        found = found.adding(made, seconds)
        found.write(self.measurer.run.folder)
        self.plan.saved()
        return found


def unfinished_files(run: Run) -> tuple[Path, Path]:
    """The checkpoint of the network's training, and its weights once it is trained, until all is scored."""
    folder = run.folder / "trained"
    return folder / "unfinished-shared.safetensors", folder / "shared-network.safetensors"
