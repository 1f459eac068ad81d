"""The three doors of the program: the command line, a question file, Python. Each tells how the same question ends."""

import tomllib
from pathlib import Path

import tomli_w

import flexor_search as fs
from flexor_search.asking import keys

from .helpers import Ended

OPTIONS = {key.option: key for key in keys()}
VERBS = {"resume": fs.resume, "report": fs.report, "export": fs.export, "verify": fs.verify}
"""What takes a path, and is of the same name in Python."""


def asked(args):
    """The command, and the values of its options by key, as far as they are of the key's type; None: no question."""
    command, options = ("plan", args[1:]) if args[:1] == ("plan",) else ("search", args)
    pairs = dict(zip(options[::2], options[1::2], strict=len(options) % 2 == 0))
    if len(options) % 2 or not pairs.keys() <= OPTIONS.keys() | {"--out"}:
        return None
    out = pairs.pop("--out", "")
    try:
        return command, out, {OPTIONS[option].name: OPTIONS[option].kind(value) for option, value in pairs.items()}
    except ValueError:  # the option parser's to refuse, in its words
        return None


def by_file(command, args):
    """The same question, asked by a file in the working folder, which is gone afterwards; None: it cannot be."""
    question = asked(args)
    if question is None:
        return None
    verb, out, values = question
    path = Path("question-of-the-test.toml")
    path.write_text(tomli_w.dumps(values))
    assert tomllib.loads(path.read_text()).keys() == values.keys()
    begin = (verb,) if verb == "plan" else ()
    try:
        return command(*begin, "--config", path, *(("--out", out) if out else ()))
    finally:
        path.unlink()


def by_python(args):
    """The same question, asked in Python; None: it cannot be. An error is told as the command line tells it."""
    try:
        found = _call(args)
    except fs.FlexorError as error:
        code = 2 if isinstance(error, fs.UsageError) else 1
        return Ended(code, "", f"flexor-search: {' '.join(str(error).splitlines())}\n")
    return found and Ended(0, str(found), "")


def _call(args):
    if args[:1] and args[0] in VERBS and len(args) == 2:
        return VERBS[args[0]](args[1])
    question = asked(args)
    if question is None:
        return None
    verb, out, values = question
    if verb == "plan":
        return fs.plan(question=fs.Question(**values))
    return fs.search(question=fs.Question(**values), out=out, observer=fs.Silent())
