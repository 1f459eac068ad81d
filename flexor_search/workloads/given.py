"""A model and data that were given as Python objects, in a notebook or a script.

A function that makes a model is called anew for every training, as `--model module:build` is. A module is copied for
every training, and the copy gets fresh first values, drawn with the seed of that training, by the `reset_parameters`
of each of its parts; where the recipe says `pretrained`, it keeps the values that it was given with. A part that has
parameters of its own and no `reset_parameters` keeps its values in any case: `kept_values` names it. First values
that a class sets in its `__init__` are lost to a copy: give the function instead.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from flexor_search.errors import DataError, ModelError
from flexor_search.planning import Recipe
from flexor_search.workloads.data import Data, user_data
from flexor_search.workloads.own import NO_OWN, Own
from flexor_search.workloads.user import import_function
from flexor_search.workloads.workload import Workload

_RESETS = ("reset_parameters", "_reset_parameters")
"""How torch's modules name what draws their first values; MultiheadAttention has the second."""


@dataclass(frozen=True)
class Given:
    """What was given.

    Attributes:
        model: a module, a function that makes one, or "module:function" of such a function.
        data: (train, validation, test) or (train, test), each a Dataset, a DataLoader or a pair (inputs, labels)
            of arrays or tensors; or a function that returns these, or its "module:function"; None: for a plan only.
    """

    model: nn.Module | Callable[[], nn.Module] | str
    data: Any = None

    def workload(self, recipe: Recipe, seed: int = 0, own: Own = NO_OWN) -> Workload:
        """The workload of these.

        Args:
            recipe: how to train.
            seed: of the tenth of train that becomes validation where only two parts are given.
            own: a training loop or a metric; with a metric the targets may be floats.
        """
        model = import_function("model", self.model) if isinstance(self.model, str) else self.model
        data = import_function("data", self.data) if isinstance(self.data, str) else self.data

        def load(_data_dir: Path | None) -> Data:
            return given_data(data, seed, float_targets=own.metric is not None)

        return Workload(name="", build=GivenBuild(model, recipe.pretrained), load=load, recipe=recipe, own=own)


@dataclass(frozen=True)
class GivenBuild:
    """Makes the model of every training.

    Attributes:
        model: a module, or a function that makes one.
        pretrained: whether a module's values are kept.
    """

    model: nn.Module | Callable[[], nn.Module]
    pretrained: bool = False

    def __call__(self) -> nn.Module:
        """A new model, on the CPU.

        Raises:
            ModelError: the function raises or returns something else, or the module cannot be copied.
        """
        if isinstance(self.model, nn.Module):
            made = _copied(self.model)
            if not self.pretrained:
                _draw_first_values(made)
            return made
        name = given_name(self.model)
        if not callable(self.model):
            raise ModelError(f"model: must be a torch.nn.Module or a function that makes one, got {name}")
        try:
            made = self.model()
        except (Exception, SystemExit) as error:  # the user's code runs here
            raise ModelError(f"model: {name}() raised {type(error).__name__}: {error}") from error
        if not isinstance(made, nn.Module):
            raise ModelError(f"model: {name}() must return a torch.nn.Module, got {type(made).__name__}")
        return _copied(made)  # a function may return one instance every time; training must not change it


def kept_values(model: nn.Module) -> list[str]:
    """Parameters whose values a copy keeps, because the module that owns them cannot draw new ones.

    Example:
        >>> kept_values(nn.Sequential(nn.Linear(2, 2), nn.PReLU()))
        []
    """
    found = []
    for name, module in model.named_modules():
        if _reset_of(module) is None:
            found += [f"{name}.{own}" if name else own for own, _ in module.named_parameters(recurse=False)]
    return found


def given_data(data: Any, seed: int = 0, *, float_targets: bool = False) -> Data:
    """Data from what was given.

    Args:
        data: as `Given.data`.
        seed, float_targets: as of `user_data`.

    Raises:
        DataError: the function raises, a pair is of unequal lengths, or an error of `user_data`.

    Example:
        >>> x, y = np.zeros((6, 1, 4, 4), "float32"), np.array([0, 1, 0, 1, 0, 1])
        >>> given_data(((x[:4], y[:4]), (x[4:], y[4:]))).test.images.shape
        torch.Size([2, 1, 4, 4])
    """
    if callable(data):
        try:
            data = data()
        except (Exception, SystemExit) as error:  # the user's code runs here
            raise DataError(f"data: {given_name(data)}() raised {type(error).__name__}: {error}") from error
    if isinstance(data, Sequence) and not isinstance(data, str):
        data = [_data_set(part) for part in data]
    return user_data(data, seed, float_targets=float_targets)


def given_name(thing: Any) -> str:
    """How messages and run.toml name an object: a function or class by its name, all else by its class.

    Example:
        >>> given_name(nn.Linear), given_name(nn.Linear(2, 2)), given_name(given_name)
        ('Linear', 'Linear', 'given_name')
    """
    return getattr(thing, "__name__", type(thing).__name__)


def _data_set(part: Any) -> Any:
    """A pair of arrays or tensors as a data set; all else as it is."""
    if (
        not isinstance(part, tuple | list)
        or len(part) != 2
        or not all(isinstance(one, Tensor | np.ndarray) for one in part)
    ):
        return part
    try:
        inputs, labels = map(torch.as_tensor, part)
    except TypeError as error:
        raise DataError(f"data: a pair of arrays must hold numbers: {error}") from error
    if len(inputs) != len(labels):
        raise DataError(f"data: a pair has {len(inputs)} inputs but {len(labels)} labels")
    return TensorDataset(inputs, labels)


def _copied(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model).cpu()
    except Exception as error:
        raise ModelError(f"model: {given_name(model)} cannot be copied: {error}") from error


def _reset_of(module: nn.Module) -> Callable[[], object] | None:
    return next((reset for name in _RESETS if callable(reset := getattr(module, name, None))), None)


def _draw_first_values(model: nn.Module) -> None:
    for module in reversed(list(model.modules())):  # parts before the whole, which may set values of its parts
        reset = _reset_of(module)
        if reset is not None:
            reset()
