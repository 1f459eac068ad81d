"""Every error a user can cause, by what is wrong; each message names argument, demand, value and remedy."""

import difflib
from collections.abc import Iterable


class FlexorError(Exception):
    """Something went wrong that a clear line can explain; the command line exits with 1."""


class UsageError(FlexorError, ValueError):
    """The question itself is wrong: a budget, an option, a pattern, a name; the command line exits with 2."""


class ModelError(FlexorError):
    """The model cannot be used as it is."""


class DataError(FlexorError):
    """The data are missing, damaged, or do not fit the model."""


class TrainingError(FlexorError):
    """One training failed (a loss that is not a number); the run goes on without it."""


class RunError(FlexorError):
    """The run folder cannot be used: another question, not a run, not writable."""


class InUseError(RunError):
    """Another process is at work in the folder."""


class FormatError(FlexorError):
    """A packed file is damaged, from a newer version, or not a packed file at all."""


class VerificationError(FlexorError):
    """A packed model does not give what was trained; it is not shipped."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a name that is not known: the nearest known one and the whole list.

    Example:
        >>> nearest("lenet", ["digits-convnet", "lenet5"])
        "did you mean 'lenet5'? known: digits-convnet, lenet5"
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}known: {', '.join(names) if names else 'none'}"
