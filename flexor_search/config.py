"""The question as a TOML file: `flexor-search init` writes it with comments, `--config` reads it."""

import textwrap
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flexor_search.asking import keys
from flexor_search.errors import UsageError
from flexor_search.files import write_error

HEAD = """\
A question for flexor-search: flexor-search --config {name}
Take the # off a key to ask for another value than its default. What the command line says wins over this file.
Files, folders and modules are looked up from the folder in which flexor-search is started.
"""


def question_text(asked: Mapping[str, Any], name: str = "question.toml") -> str:
    """The text of a question file: every key with its help, those asked for set, the others as comments.

    Args:
        asked: values of keys; a budget is set in any case.
        name: of the file, for its first line.
    """
    import tomli_w

    asked = {"budget": "0.7bpw"} | dict(asked)
    parts = [_comment(HEAD.format(name=name))]
    for key in keys():
        line = tomli_w.dumps({key.name: asked.get(key.name, key.default)})
        parts.append(_comment(key.help) + ("" if key.name in asked else "# ") + line)
    return "\n".join(parts)


def write_question(path: str | Path, asked: Mapping[str, Any]) -> Path:
    """Write a question file that is not there yet.

    Raises:
        UsageError: it is there, or what is asked is wrong.
        RunError: it cannot be written.
    """
    path = Path(path)
    for key in keys():
        if key.name in asked:
            key.value(asked[key.name])
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(question_text(asked, path.name))
    except FileExistsError as error:
        raise UsageError(f"init: {path} is there already; choose another name, or remove it") from error
    except OSError as error:
        raise write_error(path, error) from error
    return path


def read_config(path: str | Path) -> dict[str, Any]:
    """Read the keys of a question file.

    Returns:
        The keys that it sets, for `Question(**found)`.

    Raises:
        UsageError: no such file, not TOML, an unknown key (the nearest is named), or a value of the wrong type.
    """
    from pydantic import ConfigDict, ValidationError, create_model

    from flexor_search.planning.space_file import explain_validation

    try:
        body = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # TOML and unicode errors are ValueErrors
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"config: {path} is not a readable TOML file: {reason}") from error
    known: dict[str, Any] = {key.name: (key.kind | None, None) for key in keys()}
    model = create_model("Config", __config__=ConfigDict(extra="forbid", strict=True), **known)
    try:
        model.model_validate(body)
    except ValidationError as error:
        raise UsageError(f"config: {path}: {explain_validation(error, model)}") from error
    return body


def _comment(text: str) -> str:
    lines = [line for part in text.splitlines() for line in textwrap.wrap(part, 98)]
    return "".join(f"# {line}\n" for line in lines)
