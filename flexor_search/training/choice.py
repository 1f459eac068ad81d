"""Precision and memory format, where a recipe leaves them open: chosen by a short measurement."""

from collections.abc import Callable
from dataclasses import replace

from flexor_search.planning import Recipe
from flexor_search.training.score import resolve_precision

_WORTH_WHILE = 1.1
"""Times as fast as the simplest choice; less is within what a measurement of a few steps can tell."""


def is_open(recipe: Recipe) -> bool:
    """Whether a recipe leaves anything to be measured."""
    return "auto" in (recipe.precision, recipe.memory_format)


def choose(recipe: Recipe, device: str, seconds_of: Callable[[Recipe], float]) -> tuple[Recipe, dict[str, float]]:
    """Close what a recipe leaves open.

    Measured are the combinations of what is open, bfloat16 only where the device multiplies in it. The simplest,
    float32 and contiguous, stays unless another is clearly faster.

    Args:
        recipe: with "auto" somewhere.
        device: where to train.
        seconds_of: times training by a recipe that leaves nothing open.

    Returns:
        The recipe with nothing open; what was measured, "precision memory format" -> seconds.
    """
    low = resolve_precision("auto", device)
    precisions = {"auto": dict.fromkeys(("float32", low))}.get(recipe.precision, {recipe.precision: None})
    formats = ("contiguous", "channels_last") if recipe.memory_format == "auto" else (recipe.memory_format,)
    candidates = [replace(recipe, precision=p, memory_format=f) for p in precisions for f in formats]
    if len(candidates) == 1:
        return candidates[0], {}
    seconds = [seconds_of(candidate) for candidate in candidates]
    fastest = min(range(len(candidates)), key=seconds.__getitem__)
    chosen = fastest if seconds[0] > _WORTH_WHILE * seconds[fastest] else 0
    measured = {f"{c.precision} {c.memory_format}": s for c, s in zip(candidates, seconds, strict=True)}
    return candidates[chosen], measured
