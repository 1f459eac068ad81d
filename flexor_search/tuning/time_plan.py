"""How long a run will take, measured before it starts on a few steps of the real training."""

import time
from contextlib import suppress
from dataclasses import replace

from flexor_search.errors import TrainingError
from flexor_search.planning import Allocation
from flexor_search.quantization import quantize_
from flexor_search.runs import CONFIRM, SEARCH
from flexor_search.training import seeded, train
from flexor_search.tuning.measurer import Measurer
from flexor_search.tuning.observer import Phase

_STEPS = 6


def time_plan(measurer: Measurer, allocation: Allocation, trials: int, confirmations: int) -> tuple[Phase, ...]:
    """Estimate the phases.

    Args:
        measurer: gives model, data and recipe.
        allocation: a typical one, to time.
        trials: trainings of the search.
        confirmations: trainings of the confirmation.
    """
    per_image = seconds_per_image(measurer, allocation)
    recipe, images = measurer.recipe, len(measurer.data.train)
    few = min(recipe.search_images or images, images)
    short = recipe.for_search().epochs
    return (
        Phase(SEARCH, trials, few, short, per_image * few * short),
        Phase(CONFIRM, confirmations, images, recipe.epochs, per_image * images * recipe.epochs),
    )


def seconds_per_image(measurer: Measurer, allocation: Allocation) -> float:
    """Time of training on one image, from a few steps after a first one that warms up."""
    recipe, data = replace(measurer.recipe, epochs=1), measurer.data
    with seeded(0):
        model = quantize_(measurer.build(), allocation)
    for steps in (2, _STEPS):
        count = min(len(data.train), recipe.batch_size * steps)
        sample = replace(data, train=data.train.take(count), validation=data.validation.take(200))
        started = time.perf_counter()
        with suppress(TrainingError):  # to be told by the training that it fails, not by its timing
            train(model, sample, recipe, seed=0, device=measurer.device)
        seconds = time.perf_counter() - started
    return seconds / count
