"""How long a run will take, measured before it starts on a few steps of the real training."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from flexor_search.errors import TrainingError
from flexor_search.planning import Allocation, Recipe, SearchSpace
from flexor_search.quantization import quantize_
from flexor_search.runs import CONFIRM, SEARCH, MetricWords
from flexor_search.training import (
    ProfileScorer,
    choose,
    is_open,
    is_out_of_memory,
    most_scored,
    placed,
    seeded,
    shared_model,
    train,
)
from flexor_search.training.score import EVALUATION_BATCH
from flexor_search.tuning.measurer import Measurer
from flexor_search.tuning.observer import Observer, Phase
from flexor_search.workloads import NO_OWN, Data, Own

_WARM_UP_STEPS, _STEPS = 4, 6
_RECORDED_STEPS, _MORE_EPOCHS = 8, 5
"""On a GPU a training records its step first, which takes long and says nothing: so many steps, done once and several
times over, are timed and compared, after once more that pays what only the first training pays."""


def time_plan(measurer: Measurer, allocation: Allocation, trials: int, confirmations: int) -> tuple[Phase, ...]:
    """Estimate the phases.

    Args:
        measurer: gives model, data and recipe.
        allocation: a typical one, to time.
        trials: trainings of the search.
        confirmations: trainings of the confirmation.
    """
    per_image = seconds_per_image(*measurer.training, allocation, measurer.own)
    recipe, images = measurer.recipe, len(measurer.data.train)
    few = min(recipe.search_images or images, images)
    short = recipe.for_search().epochs
    words = MetricWords.of(measurer.run.question)
    return (
        Phase(SEARCH, trials, few, short, per_image * few * short, words),
        Phase(CONFIRM, confirmations, images, recipe.epochs, per_image * images * recipe.epochs, words),
    )


def seconds_per_image(
    build: Callable[[], nn.Module],
    data: Data,
    recipe: Recipe,
    device: str,
    allocation: Allocation,
    own: Own = NO_OWN,
) -> float:
    """Time of training on one image, from a few steps after some that warm up.

    Where the memory does not last, with half the batch, as the training itself will be tried.

    Raises:
        TrainingError: it does not last for that either.
    """
    batch = min(recipe.batch_size, len(data.train))
    for size in dict.fromkeys((batch, max(1, batch // 2))):
        try:
            return _timed_seconds(build, data, replace(recipe, batch_size=size), device, allocation, own)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        if device.startswith("cuda"):
            torch.cuda.empty_cache()
    raise TrainingError(
        f"the memory does not last for a batch of {batch} images, nor for half of it; give a recipe with a smaller "
        "batch_size"
    )


def _timed_seconds(
    build: Callable[[], nn.Module], data: Data, recipe: Recipe, device: str, allocation: Allocation, own: Own
) -> float:
    with seeded(0):
        model = quantize_(build(), allocation)
        teacher = placed(build(), data, recipe, device).eval() if recipe.has_teacher else None

    def timed(steps: int, epochs: int = 1) -> tuple[float, int]:
        count = min(len(data.train), recipe.batch_size * steps)
        sample = replace(data, train=data.train.take(count), validation=data.validation.take(200))
        started = time.perf_counter()
        with suppress(TrainingError):  # to be told by the training that it fails, not by its timing
            train(model, sample, replace(recipe, epochs=epochs), seed=0, device=device, own=own, teacher=teacher)
        return time.perf_counter() - started, count

    if device.startswith("cuda") and own.train is None:
        timed(_RECORDED_STEPS)
        once, count = timed(_RECORDED_STEPS)
        often, _ = timed(_RECORDED_STEPS, _MORE_EPOCHS)
        return max(often - once, 0.01 * once) / ((_MORE_EPOCHS - 1) * count)
    timed(_WARM_UP_STEPS)
    seconds, count = timed(_STEPS)
    return seconds / count


def scoring_seconds(measurer: Measurer, space: SearchSpace) -> float:
    """Time of scoring one allocation on a shared network, from scores of fewer images on one that is not trained.

    Args:
        measurer: gives model, data and recipe.
        space: of the shared network.

    Returns:
        Seconds; 0 where the memory does not last for it.
    """
    data, recipe = measurer.data, measurer.recipe
    few = replace(data, validation=data.validation.take(EVALUATION_BATCH))  # a batch, so that it is as fast as others
    ends = space.profile(space.cheapest), space.profile(space.dearest)  # neighbours that have nothing in common
    try:
        with seeded(0):
            model = shared_model(measurer.build(), space, recipe)
        scorer = ProfileScorer(model, few, recipe, measurer.device)
        scorer(ends[-1])
        started = time.perf_counter()
        for profile in ends:
            scorer(profile)
        seconds = (time.perf_counter() - started) / len(ends)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return 0.0  # to be told when the shared network is trained
    statistics, scored = scorer.image_counts
    every = min(len(data.validation), most_scored(data.validation))
    return seconds * (statistics + every) / (statistics + scored)


def closed_recipe(
    build: Callable[[], nn.Module],
    data: Data,
    recipe: Recipe,
    device: str,
    allocation: Allocation,
    earlier: dict[str, Any],
    observer: Observer,
    own: Own = NO_OWN,
) -> Recipe:
    """A recipe with nothing left open: as an earlier call of the same run closed it, or by a short measurement.

    Args:
        build, data, recipe, device: what is trained, and where.
        allocation: a typical one, to time.
        earlier: fields of the recipe that the run was begun with; {} for a new one.
        observer: is told what was measured.
        own: a training loop of the user's own is what is timed.
    """
    if not is_open(recipe):
        return recipe
    if earlier:
        fields = {name: earlier.get(name, getattr(recipe, name)) for name in ("precision", "memory_format")}
        if not is_open(known := replace(recipe, **fields)):
            return known
    closed, measured = choose(recipe, device, lambda r: seconds_per_image(build, data, r, device, allocation, own))
    if measured:
        told = ", ".join(f"{name} {1000 * seconds:.3g} ms" for name, seconds in measured.items())
        observer.message(f"an image in training: {told}; chosen: {closed.precision} {closed.memory_format}")
    return closed
