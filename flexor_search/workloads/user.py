"""A user's own model and data, named as `module:function`."""

import copy
import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from flexor_search.errors import DataError, FlexorError, ModelError, UsageError
from flexor_search.planning import Recipe
from flexor_search.workloads.data import Data, user_data
from flexor_search.workloads.own import NO_OWN, Own
from flexor_search.workloads.workload import Workload


@dataclass(frozen=True)
class UserBuild:
    """Makes the model of `module:function`; known by that name, it can be sent to another process.

    Attributes:
        reference: "module:function".
    """

    reference: str

    def __call__(self) -> nn.Module:
        """A new model.

        Raises:
            ModelError: the function raises, or returns something else or something that cannot be copied.
        """
        made = _call("model", self.reference, import_function("model", self.reference), ModelError)
        if not isinstance(made, nn.Module):
            raise ModelError(f"model: {self.reference}() must return a torch.nn.Module, got {type(made).__name__}")
        try:
            return copy.deepcopy(made)  # a function may return one instance every time; training must not change it
        except Exception as error:
            raise ModelError(f"model: what {self.reference}() returned cannot be copied: {error}") from error


@dataclass(frozen=True)
class UserFunction:
    """A user's function, known by its name: it can be sent to another process.

    Attributes:
        argument: of the command that names it.
        reference: "module:function".
    """

    argument: str
    reference: str

    @property
    def function(self) -> Callable[..., Any]:
        """The function itself."""
        return import_function(self.argument, self.reference)

    def __call__(self, *arguments: Any) -> Any:
        """Call it."""
        return self.function(*arguments)


def user_own(train: str = "", metric: str = "") -> Own:
    """What `--train module:function` and `--metric module:function` name; "" for the project's own.

    Raises:
        UsageError: a name that is not module:function, that cannot be imported, or a function of other parameters.
    """
    named = {"train": train, "metric": metric}
    return Own(**{argument: UserFunction(argument, name) for argument, name in named.items() if name})


def user_workload(model: str, data: str, recipe: Recipe, seed: int = 0, own: Own = NO_OWN) -> Workload:
    """A workload from `--model module:build` and `--data module:loaders`.

    Args:
        model: names a function that takes nothing and returns an nn.Module with logits out.
        data: names a function that takes nothing and returns what `user_data` reads.
        recipe: how to train; the default recipe unless the user gave one.
        seed: of the tenth of train that becomes validation where only two parts are given.
        own: a training loop or a metric; with a metric the targets may be floats.

    Raises:
        UsageError: a name that is not module:function, or that cannot be imported.
    """
    import_function("model", model)  # a wrong name is told at once
    data_function = import_function("data", data)

    def load(_data_dir: Path | None) -> Data:
        return user_data(_call("data", data, data_function, DataError), seed, float_targets=own.metric is not None)

    return Workload(name="", build=UserBuild(model), load=load, recipe=recipe, own=own)


def import_function(argument: str, reference: str) -> Callable[..., Any]:
    """Import `module:function`, looking in the current folder too.

    Raises:
        UsageError: not of that form, no such module or function, or the import itself fails.
    """
    module_name, _, function_name = reference.partition(":")
    if not module_name or not function_name:
        raise UsageError(f"{argument}: {reference!r} must have the form module:function, such as my.module:build")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # the user's module runs here
        raise UsageError(
            f"{argument}: importing {module_name} from {here} failed: {type(error).__name__}: {error}"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise UsageError(f"{argument}: module {module_name} has no function {function_name!r}")
    return function


def _call(argument: str, reference: str, function: Callable[[], Any], kind: type[FlexorError]) -> Any:
    try:
        return function()
    except (Exception, SystemExit) as error:  # the user's code runs here
        raise kind(f"{argument}: {reference}() raised {type(error).__name__}: {error}") from error
