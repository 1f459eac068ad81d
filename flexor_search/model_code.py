"""What a model computes, as far as it can be read off it: two models of the same shapes may be different questions.

That is what torch prints of it, the settings that its modules keep, which parameters are frozen, and the code of the
methods of the user's own classes. What only a running model changes is left out, as far as it can be told: what two new
models differ by, and attributes that are stored anywhere but in `__init__`. Constants that a method looks up in its
module are not seen here: for models that are named as `module:function` the sources around it are compared too.
"""

import argparse
import ast
import dis
import hashlib
import inspect
import json
import re
import sys
import sysconfig
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flexor_search.training import seeded

INSTALLED = {Path(sysconfig.get_path(kind)).resolve() for kind in ("purelib", "platlib", "stdlib")}
"""Folders of installed packages."""
_PLAIN = (str, bytes, int, float, complex, bool, type(None), range, np.generic, torch.dtype, torch.device)


def model_code_digest(build: Callable[[], nn.Module]) -> str:
    """Digest of what new models compute, but for their values; the same in every process, whatever is only formatted.

    Args:
        build: makes one.
    """
    with seeded(0):
        one, other = build(), build()
    parts: list[Any] = [_printed(one), [name for name, p in one.named_parameters() if not p.requires_grad]]
    classes: dict[type, None] = {}
    for (name, module), (_, twin) in zip(one.named_modules(), other.named_modules(), strict=False):
        classes |= dict.fromkeys(_own_classes(type(module)))
        settings, theirs = _settings(module), _settings(twin)
        parts.append([name, {key: value for key, value in settings.items() if theirs.get(key) == value}])
    parts += [[each.__qualname__, _class_settings(each)] for each in classes]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def _printed(value: Any) -> str:
    """What Python prints of a value, without what differs between processes."""
    try:
        return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))
    except Exception:  # of the user's own code
        return type(value).__qualname__


def _own_classes(one: type) -> list[type]:
    return [each for each in one.__mro__ if _is_own(each)]


def _is_own(one: type) -> bool:
    """Whether a class is of the user's own code, not of an installed package or of this one."""
    package = one.__module__.partition(".")[0]
    if package in ("builtins", "torch", "flexor_search"):
        return False
    file = getattr(sys.modules.get(one.__module__), "__file__", None)
    return file is None or INSTALLED.isdisjoint(Path(file).resolve().parents)


def _settings(module: nn.Module) -> dict[str, Any]:
    """What a module keeps beside values, of a class that is not the user's own what its `__init__` is given."""
    own, held = _own_classes(type(module)), vars(module)
    if own:
        changing = {name for each in own for name in _stored(each, in_init=False)}
        names = [name for name in held if not name.startswith("_") and name not in {*changing, "training"}]
    else:
        try:
            names = [name for name in inspect.signature(type(module).__init__).parameters if name in held]
        except (TypeError, ValueError):
            names = []
    return {name: _told(held[name]) for name in names if held[name] is not None and not isinstance(held[name], Tensor)}


def _class_settings(one: type) -> dict[str, Any]:
    """Methods of a class, and its constants: attributes that no method stores."""
    stored = {name for each in one.__mro__ for name in _stored(each, in_init=True)}
    held = vars(one).items()
    return {
        name: _told(value)
        for name, value in held
        if isinstance(value, FunctionType | staticmethod | classmethod | property)
        or (not name.startswith("_") and name not in stored and isinstance(value, (*_PLAIN, tuple, Enum)))
    }


def _stored(one: type, *, in_init: bool) -> Iterator[str]:
    """Names of attributes that methods of a class store, those of `__init__` too or not."""
    for name, value in vars(one).items():
        if isinstance(value, FunctionType) and (in_init or name != "__init__"):
            steps = dis.get_instructions(_unwrapped(value))
            yield from (str(each.argval) for each in steps if each.opname == "STORE_ATTR")


def _unwrapped(function: FunctionType) -> FunctionType:
    """What decorators wrap."""
    try:
        found = inspect.unwrap(function)
    except ValueError:  # around in a circle
        return function
    return found if isinstance(found, FunctionType) else function


def _told(value: Any, within: tuple[int, ...] = ()) -> Any:
    """A value as JSON holds it: the same for alike values in every process."""
    if isinstance(value, Enum):
        return f"{type(value).__qualname__}.{value.name}"
    if isinstance(value, _PLAIN):
        return _printed(value)
    if id(value) in within:
        return "itself"
    deeper = partial(_told, within=(*within, id(value)))
    if isinstance(value, staticmethod | classmethod):
        return deeper(value.__func__)
    if isinstance(value, property):
        return [deeper(value.fget), deeper(value.fset)]
    if isinstance(value, list | tuple):
        return [deeper(one) for one in value]
    if isinstance(value, set | frozenset):
        return sorted(json.dumps(deeper(one), sort_keys=True) for one in value)
    if isinstance(value, Mapping):
        return sorted(json.dumps([deeper(key), deeper(one)], sort_keys=True) for key, one in value.items())
    if isinstance(value, partial):
        return [deeper(value.func), deeper(value.args), deeper(value.keywords)]
    if isinstance(value, SimpleNamespace | argparse.Namespace):
        return deeper(vars(value))
    if is_dataclass(value) and not isinstance(value, type):
        return [type(value).__qualname__, deeper({one.name: getattr(value, one.name, None) for one in fields(value)})]
    if inspect.ismethod(value):
        return deeper(value.__func__)
    if isinstance(value, FunctionType):
        return _function(value, deeper)
    return getattr(value, "__qualname__", type(value).__qualname__)


def _function(function: FunctionType, deeper: Callable[[Any], Any]) -> list[Any]:
    """Its code, its defaults, and what is bound in it, such as the function that a decorator wraps."""
    cells = []
    for cell in function.__closure__ or ():
        try:
            cells.append(deeper(cell.cell_contents))
        except ValueError:  # of a name that is not set yet
            cells.append(None)
    code = _source(function.__code__) or _code(function.__code__)
    return [code, deeper(function.__defaults__), deeper(function.__kwdefaults__), cells]


def _source(code: CodeType) -> str | None:
    """A source without comments and line breaks; None of a lambda, which shares its lines, and where there is none."""
    if code.co_name == "<lambda>":
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it was compiled before
            return ast.unparse(ast.parse(textwrap.dedent(inspect.getsource(code))))
    except Exception:  # a plain console has none; a file that was edited since may hold anything
        return None


def _code(code: CodeType) -> list[Any]:
    constants = [_code(one) if isinstance(one, CodeType) else _told(one) for one in code.co_consts]
    return [code.co_code.hex(), list(code.co_names), constants]
