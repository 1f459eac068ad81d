"""Numbers as people read them."""

import html
import math
from typing import Any, TypeGuard

MINUS = "\N{MINUS SIGN}"
NOTHING = "\N{EN DASH}"


def escaped(value: Any) -> str:
    """Text for HTML, also inside attributes."""
    return html.escape(str(value))


def known(value: float | None) -> TypeGuard[float]:
    """Whether there is a number."""
    return value is not None and not math.isnan(value)


def percent(mean: float | None, std: float | None = None) -> str:
    """A fraction as percent, with its spread.

    Example:
        >>> percent(0.9914, 0.0033)
        '99.14 ± 0.33'
    """
    if not known(mean):
        return NOTHING
    return f"{100 * mean:.2f}" + (f" ± {100 * std:.2f}" if known(std) else "")


def in_points(difference: float, error: float | None = None) -> str:
    """A difference of fractions in percentage points, signed, with its standard error.

    Example:
        >>> in_points(0.0123, 0.004)
        '+1.23 ± 0.40'
    """
    text = f"{100 * difference:+.2f}".replace("-", MINUS)
    text = "0.00" if text[1:] == "0.00" else text
    return text + (f" ± {100 * error:.2f}" if error is not None else "")


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
    read = "on the test set" if row["split"] == "test" else "in validation accuracy, by which it was also chosen"
    if not error:
        why = "the seeds all came out the same" if row["seeds"] > 1 else "with a single seed"
        return f"{in_points(gain)} points against the uniform model {read}; {why}, so nothing tells how sure that is."
    if abs(gain) <= 2 * error:
        return f"No clear difference from the uniform model {read}: within two standard errors ({seeds})."
    better = "Better" if gain > 0 else "Worse"
    return f"{better} than the uniform model {read}, by more than two standard errors ({seeds})."
