"""What a model computes, as far as it can be read off it: two models of the same shapes may be different questions.

Its parts and their settings are what torch prints of it, and what its own modules keep as attributes; the rest is the
code of their methods. Classes of installed packages count by what is printed alone. A constant that a method looks up
in its module is not seen here: for models that are named as `module:function` the sources around it are compared too.
"""

import ast
import hashlib
import inspect
import json
import re
import sys
import sysconfig
import textwrap
from collections.abc import Callable
from dataclasses import is_dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from types import CodeType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from flexor_search.training import seeded

INSTALLED = {Path(sysconfig.get_path(kind)).resolve() for kind in ("purelib", "platlib", "stdlib")}
"""Folders of installed packages."""
_PLAIN = (str, bytes, int, float, complex, bool, type(None), Enum, torch.dtype)


def model_code_digest(build: Callable[[], nn.Module]) -> str:
    """Digest of what new models compute, but for their values; the same in every process, whatever is only formatted.

    Args:
        build: makes one.
    """
    with seeded(0):
        model = build()
    parts: list[Any] = [re.sub(r" at 0x[0-9a-fA-F]+", "", repr(model))]
    classes: dict[str, type] = {}
    for name, module in model.named_modules():
        own = [one for one in type(module).__mro__ if _is_own(one)]
        classes |= {f"{one.__module__}.{one.__qualname__}": one for one in own}
        if own:
            parts.append([name, _told(_settings(vars(module)))])
    parts += [[name, _told(_settings(vars(classes[name])))] for name in sorted(classes)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def _settings(attributes: Any) -> dict[str, Any]:
    """What a class or a module holds that its user has written."""
    return {
        name: value
        for name, value in attributes.items()
        if name != "training" and (not name.startswith("_") or callable(value)) and not isinstance(value, Tensor)
    }


def _is_own(one: type) -> bool:
    """Whether a class is of the user's own code, not of an installed package or of this one."""
    package = one.__module__.partition(".")[0]
    if package in ("builtins", "torch", "flexor_search"):
        return False
    file = getattr(sys.modules.get(one.__module__), "__file__", None)
    return file is None or INSTALLED.isdisjoint(Path(file).resolve().parents)


def _told(value: Any, within: tuple[int, ...] = ()) -> Any:
    """A value as JSON holds it: the same for alike values in every process."""
    if isinstance(value, _PLAIN):
        return repr(value)
    if id(value) in within:
        return "itself"
    deeper = partial(_told, within=(*within, id(value)))
    if isinstance(value, staticmethod | classmethod):
        return deeper(value.__func__)
    if isinstance(value, property):
        return deeper([value.fget, value.fset])
    if isinstance(value, list | tuple):
        return [deeper(one) for one in value]
    if isinstance(value, set | frozenset):
        return sorted(json.dumps(deeper(one)) for one in value)
    if isinstance(value, dict):
        return [[repr(name), deeper(one)] for name, one in sorted(value.items(), key=lambda item: repr(item[0]))]
    if isinstance(value, CodeType):
        return [value.co_code.hex(), list(value.co_names), [deeper(one) for one in value.co_consts]]
    if inspect.ismethod(value):
        return deeper(value.__func__)
    if isinstance(value, partial):
        return deeper([value.func, value.args, value.keywords])
    if isinstance(value, SimpleNamespace) or (is_dataclass(value) and not isinstance(value, type)):
        return [type(value).__qualname__, deeper(vars(value))]
    if inspect.isfunction(value):
        cells = [cell.cell_contents for cell in value.__closure__ or () if _is_full(cell)]
        return [_source(value) or deeper(value.__code__), deeper([value.__defaults__, value.__kwdefaults__, cells])]
    return getattr(value, "__qualname__", type(value).__qualname__)


def _is_full(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # of a name that is not set yet
        return False


def _source(function: Any) -> str | None:
    """A function's source without comments and line breaks; None where there is none, as in a plain console."""
    try:
        source = textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):
        return None
    try:
        return ast.unparse(ast.parse(source))
    except (SyntaxError, ValueError):  # of a function in the middle of an expression
        return source
