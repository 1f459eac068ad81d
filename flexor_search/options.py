"""Options of the command line, made from the key table of asking.py."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from flexor_search.asking import Key, keys
from flexor_search.completing import VALUES


def asks(command: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for every key that it takes.

    The function's parameter `asked` is no option: it becomes a dict of the keys that were given, and of no others.

    Args:
        command: as named in the key table.
    """

    def wrap(function: Callable[..., None]) -> Callable[..., None]:
        taken = keys(command)

        @functools.wraps(function)
        def called(**given: Any) -> None:
            values = {key.name: given.pop(key.name) for key in taken}
            function(**given, asked={name: value for name, value in values.items() if value is not None})

        own = [one for one in inspect.signature(function).parameters.values() if one.name != "asked"]
        first = [one for one in own if one.default is inspect.Parameter.empty]
        last = [one for one in own if one.default is not inspect.Parameter.empty]
        parameters = [*first, *(_parameter(key, command) for key in taken), *last]
        parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in parameters]
        del called.__wrapped__  # typer would read its signature
        called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        called.__annotations__ = {one.name: one.annotation for one in parameters}
        return called

    return wrap


def _parameter(key: Key, command: str) -> inspect.Parameter:
    """Not given is None, whatever the default: a file or a run may hold another value."""
    default = f"  [default: {key.default}]" if command == "search" and key.default not in ("", 0, -1) else ""
    option = typer.Option(key.option, help=key.help + default, autocompletion=VALUES.get(key.complete))
    return inspect.Parameter(
        key.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[key.kind | None, option]
    )
