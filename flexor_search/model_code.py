"""What a model computes, as far as it can be read off it: two models of the same shapes may be different questions.

That is what torch prints of it, the settings and constants that its modules keep, and the code of the methods of the
user's own classes. What a running model changes is left out, as far as it can be told: what two new models differ by,
and what `forward`, or a method that it calls, stores or may change in place. Constants that a method looks up in its
module are not seen here: for models that are named as `module:function` a run compares the sources around it too.
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
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache, cached_property, partial
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flexor_search.training import seeded

INSTALLED = {Path(sysconfig.get_path(kind)).resolve() for kind in ("purelib", "platlib", "stdlib")}
"""Folders of installed packages."""
_PLAIN = (str, bytes, int, float, complex, bool, type(None), range, np.generic, torch.dtype)
_MUTABLE = (list, dict, set)
_MUTATORS = {
    "append",
    "extend",
    "insert",
    "pop",
    "popitem",
    "remove",
    "clear",
    "update",
    "setdefault",
    "add",
    "discard",
}


def model_code_digest(build: Callable[[], nn.Module]) -> str:
    """Digest of what new models compute, but for what is trained; the same in every process, however it is formatted.

    Args:
        build: makes one.
    """
    with seeded(0):
        one, other = build(), build()
    parts: list[Any] = [_printed(one)]
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
    return not _is_installed(getattr(sys.modules.get(one.__module__), "__file__", None))


def _is_installed(file: str | None) -> bool:
    return file is not None and not INSTALLED.isdisjoint(Path(file).resolve().parents)


def _settings(module: nn.Module) -> dict[str, Any]:
    """What a module keeps beside what is trained; of a class of a package what its `__init__` is given."""
    held, own = vars(module), _own_classes(type(module))
    if own:
        change = _Changes(_running(type(module)))
        lazy = {name for each in own for name, value in vars(each).items() if isinstance(value, cached_property)}
        left_out = {"training", *change.stored, *lazy}
        found = {
            name: value
            for name, value in held.items()
            if name not in left_out
            and (not name.startswith("_") or isinstance(value, FunctionType | partial | BuiltinFunctionType))
            and not (change.mutates and isinstance(value, _MUTABLE))
        }
    else:
        change = _Changes(())
        inits = (vars(each)["__init__"] for each in type(module).__mro__ if "__init__" in vars(each))
        given = (one.__code__.co_varnames for one in inits if isinstance(one, FunctionType))
        found = {name: held[name] for names in given for name in names if name in held and name != "training"}
    constants = {name: b for name, b in module.named_buffers(recurse=False) if name in _not_kept(module)}
    found |= {name: value for name, value in constants.items() if name not in change.stored}
    return {name: _told(value) for name, value in found.items() if value is not None}


def _not_kept(module: nn.Module) -> set[str]:
    """Names of buffers that no file keeps."""
    return module._non_persistent_buffers_set


def _class_settings(one: type) -> dict[str, Any]:
    """Methods of a class, and its constants: what no method stores or may change in place."""
    methods = [value for each in one.__mro__ for value in vars(each).values() if isinstance(value, FunctionType)]
    change = _Changes(method for method in methods if _is_users(method))
    functions = (FunctionType, staticmethod, classmethod, property, cached_property)
    return {
        name: _told(value)
        for name, value in vars(one).items()
        if isinstance(value, functions)
        or (
            not name.startswith("_")
            and name not in change.stored
            and not (change.mutates and isinstance(value, _MUTABLE))
        )
    }


def _running(one: type) -> Iterator[FunctionType]:
    """The methods that run when a model does: `forward` and what it calls of its own class."""
    waiting, seen = ["forward"], set[str]()
    while waiting:
        name = waiting.pop()
        method = inspect.getattr_static(one, name, None)
        if name in seen or not isinstance(method, FunctionType):
            continue
        seen.add(name)
        if _is_users(method):
            yield method
            waiting += [called for code in _codes(method) for called in code.co_names]


class _Changes:
    """What functions change: `stored`, names of attributes, and whether they `mutates` containers in place."""

    def __init__(self, functions: Iterable[FunctionType]) -> None:
        self.stored, self.mutates = set[str](), False
        for code in (code for function in functions for code in _codes(function)):
            for step in dis.get_instructions(code):
                if step.opname == "STORE_ATTR":
                    self.stored.add(str(step.argval))
                self.mutates |= step.opname in ("STORE_SUBSCR", "DELETE_SUBSCR")
            self.mutates |= not _MUTATORS.isdisjoint(code.co_names)


def _codes(function: FunctionType) -> Iterator[CodeType]:
    """The code of a function, of what decorators wrap, and of functions within."""
    try:
        inner = inspect.unwrap(function)
    except ValueError:  # around in a circle
        inner = function
    waiting = [one.__code__ for one in (function, inner) if isinstance(one, FunctionType)]
    while waiting:
        code = waiting.pop()
        yield code
        waiting += [one for one in code.co_consts if isinstance(one, CodeType)]


def _is_users(function: FunctionType) -> bool:
    """Whether a function, or what it wraps, was not written in an installed package."""
    return any(not _is_installed(code.co_filename) for code in _codes(function))


def _told(value: Any, within: tuple[int, ...] = ()) -> Any:
    """A value as JSON holds it: the same for alike values in every process; of what tells nothing the type."""
    try:
        return _told_if(value, within)
    except Exception:  # there is no end to what an object of somebody's own may do when it is looked at
        return type(value).__qualname__


def _told_if(value: Any, within: tuple[int, ...]) -> Any:
    if isinstance(value, Enum):
        return [type(value).__qualname__, value.name, _told(value.value)]
    if isinstance(value, _PLAIN):
        return _printed(value)
    if id(value) in within:
        return "itself"
    deeper = partial(_told, within=(*within, id(value)))
    if isinstance(value, Tensor | np.ndarray):
        array = value.detach().cpu().to_dense().float().numpy() if isinstance(value, Tensor) else value
        return [list(array.shape), hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()]
    if isinstance(value, staticmethod | classmethod):
        return deeper(value.__func__)
    if isinstance(value, cached_property):
        return deeper(value.func)
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
    """Its code, or its name where it is a package's, its defaults, and what is bound in it, as by a decorator."""
    cells = []
    for cell in function.__closure__ or ():
        try:
            cells.append(deeper(cell.cell_contents))
        except ValueError:  # of a name that is not set yet
            cells.append(None)
    code = function.__code__
    told = function.__qualname__ if _is_installed(code.co_filename) else _source(code) or _code(code)
    return [told, deeper(function.__defaults__), deeper(function.__kwdefaults__), cells]


@cache  # what was read first is what was imported: the file may be edited later
def _source(code: CodeType) -> str | None:
    """A source without comments and line breaks; None of a lambda, which shares its lines, and where there is none."""
    if code.co_name == "<lambda>":
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it was compiled before
            return ast.unparse(ast.parse(textwrap.dedent(inspect.getsource(code))))
    except Exception:  # a plain console has none
        return None


def _code(code: CodeType) -> list[Any]:
    constants = [_code(one) if isinstance(one, CodeType) else _told(one) for one in code.co_consts]
    return [code.co_code.hex(), list(code.co_names), constants]
