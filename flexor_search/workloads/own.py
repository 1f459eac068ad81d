"""Code of one's own that takes the place of the project's: a metric, a training loop."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any

from torch import Tensor

from flexor_search.errors import TrainingError, UsageError

METRIC_PARAMETERS = ("outputs", "targets")
LOOP_PARAMETERS = ("model", "train", "validation", "recipe", "seed", "report")


@dataclass(frozen=True)
class Own:
    """What a user replaces; None: the project's own.

    Attributes:
        train: trains a model in place. Called as `train(model, train, validation, recipe, seed, report)`:
            the model on its device, quantized, in training mode; two map-style data sets of (float input, target), on
            the CPU; the Recipe, whose `epochs` are those to be done; the seed, with which torch's generators are seeded
            already; and `report`, to be called without arguments after each epoch: it scores the model on the
            validation split, sets the surrogate's slope for the next epoch, and returns whether to end here. A loop
            that never calls it is scored at its end alone. What it returns is not looked at.
        metric: greater is better. Called as `metric(outputs, targets)` with all of a split on the CPU: what the model
            gives, float32 of shape (n, outputs); and integer labels of shape (n,), or float targets of shape
            (n, outputs). Returns a finite number for anything that a model may give, an untrained one too.
    """

    train: Callable[..., Any] | None = None
    metric: Callable[[Tensor, Tensor], float] | None = None

    def __post_init__(self) -> None:
        for argument, function, names in (
            ("train", self.train, LOOP_PARAMETERS),
            ("metric", self.metric, METRIC_PARAMETERS),
        ):
            if function is not None:
                _check_signature(argument, function, names)

    def score(self, outputs: Tensor, targets: Tensor) -> float:
        """The metric of all outputs of a split.

        Raises:
            TrainingError: it raises, or returns anything but a finite number.
        """
        assert self.metric is not None
        name = name_of(self.metric)
        try:
            found = self.metric(outputs, targets)
        except (Exception, SystemExit) as error:  # the user's code runs here
            raise TrainingError(f"metric: {name} raised {type(error).__name__}: {first_line(error)}") from error
        if not isinstance(found, Real):
            remedy = "; end it with .item()" if isinstance(found, Tensor) else ""
            raise TrainingError(f"metric: {name} must return a number, got {type(found).__name__}{remedy}")
        if not math.isfinite(found):
            raise TrainingError(f"metric: {name} must return a finite number, got {float(found)}")
        return float(found)


NO_OWN = Own()
"""Everything is the project's."""


def name_of(function: Callable[..., Any]) -> str:
    """A function as its user calls it: "module:function"."""
    reference = getattr(function, "reference", "")
    return reference or f"{function.__module__}:{getattr(function, '__qualname__', type(function).__name__)}"


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its kind if it has none."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _check_signature(argument: str, function: Callable[..., Any], names: tuple[str, ...]) -> None:
    function_itself = getattr(function, "function", function)  # a wrong name is told here
    try:
        signature = inspect.signature(function_itself)
    except ValueError:  # some built-in functions have none
        return
    try:
        signature.bind(*names)
    except TypeError as error:
        raise UsageError(
            f"{argument}: {name_of(function)}{signature} must take ({', '.join(names)}), in this order"
        ) from error
