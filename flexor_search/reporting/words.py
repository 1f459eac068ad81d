"""Numbers as people read them."""

import html
import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeGuard

from flexor_search.runs import ACCURACY, MetricWords

_METRIC: ContextVar[MetricWords] = ContextVar("metric", default=ACCURACY)

MINUS = "\N{MINUS SIGN}"
NOTHING = "\N{EN DASH}"


def escaped(value: Any) -> str:
    """Text for HTML, also inside attributes."""
    return html.escape(str(value))


def known(value: float | None) -> TypeGuard[float]:
    """Whether there is a number."""
    return value is not None and not math.isnan(value)


@contextmanager
def in_words_of(question: dict[str, Any]) -> Iterator[None]:
    """Tell accuracies in the words of a run's question while the block runs: in percent, or a metric as it is."""
    token = _METRIC.set(MetricWords.of(question))
    try:
        yield
    finally:
        _METRIC.reset(token)


def measure() -> str:
    """What is told: "accuracy", or the name of a user's metric."""
    return _METRIC.get().name


def scale() -> float:
    """What a value is multiplied by to be shown."""
    return _METRIC.get().scale


def unit(of_accuracy: str = " %") -> str:
    """The unit behind a value, or another word that only goes with accuracy; a user's metric has none."""
    return of_accuracy if _METRIC.get() == ACCURACY else ""


def told(mean: float | None, std: float | None = None, split: str = "validation") -> str:
    """A value with what it is.

    Example:
        >>> told(0.9914, 0.0033)
        '99.14 ± 0.33 % validation accuracy'
        >>> with in_words_of({"metric": "my.module:r2"}):
        ...     told(0.9914, split="test")
        '0.9914 test r2'
    """
    return f"{percent(mean, std)}{unit()} {split} {measure()}"


def percent(mean: float | None, std: float | None = None) -> str:
    """A fraction as percent, with its spread; a user's metric as it is.

    Example:
        >>> percent(0.9914, 0.0033)
        '99.14 ± 0.33'
    """
    if not known(mean):
        return NOTHING
    number = _METRIC.get().number
    return number(mean) + (f" ± {number(std)}" if known(std) else "")


def in_points(difference: float, error: float | None = None) -> str:
    """A difference of fractions in percentage points (of a user's metric as it is), signed, with its standard error.

    Example:
        >>> in_points(0.0123, 0.004)
        '+1.23 ± 0.40'
    """
    number = _METRIC.get().number
    size = number(abs(difference))
    sign = "" if float(size) == 0 else "+" if difference > 0 else MINUS
    return sign + size + (f" ± {number(error)}" if error is not None else "")


def size(file_bytes: int) -> str:
    """A size in KiB or MiB, for beside the exact one.

    Example:
        >>> size(4810), size(3_000_000), size(800)
        ('4.7 KiB', '2.86 MiB', '800 B')
    """
    if file_bytes < 1024:
        return f"{file_bytes} B"
    return f"{file_bytes / 1024:.1f} KiB" if file_bytes < 1024**2 else f"{file_bytes / 1024**2:.2f} MiB"


def duration(seconds: float) -> str:
    """A time.

    Example:
        >>> duration(42), duration(600), duration(9000)
        ('42 s', '10 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def count(number: int, noun: str) -> str:
    """How many of something.

    Example:
        >>> count(1, "seed"), count(3, "seed")
        ('1 seed', '3 seeds')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed(words: list[str]) -> str:
    """Words in a sentence.

    Example:
        >>> listed(["0.4bpw", "0.7bpw", "48KiB"])
        '0.4bpw, 0.7bpw and 48KiB'
    """
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]])) or "no limit"


def verdict(row: dict[str, Any]) -> str:
    """What a chosen model's row of `result_rows` says of it against the uniform model, in a sentence."""
    gain, error, seeds = row["gain"], row["gain_error"], count(row["seeds"], "seed")
    if row["is_uniform"]:
        return "Nothing that was confirmed beat the uniform model, so the uniform model is what is shipped."
    if gain is None:
        return "There is no confirmed uniform model to compare it with."
    read = "on the test set" if row["split"] == "test" else f"in validation {measure()}, by which it was also chosen"
    if not error:
        why = "the seeds all came out the same" if error == 0 else "with a single seed on one side at least"
        why = why if row["seeds"] > 1 else "with a single seed"
        points = in_points(gain) + unit(" points")
        return f"{points} against the uniform model {read}; {why}, so nothing tells how sure that is."
    if abs(gain) <= 2 * error:
        return f"No clear difference from the uniform model {read}: within two standard errors ({seeds})."
    better = "Better" if gain > 0 else "Worse"
    return f"{better} than the uniform model {read}, by more than two standard errors ({seeds})."
