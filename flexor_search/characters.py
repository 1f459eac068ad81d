"""Output that any terminal can show: where its encoding lacks a character, ASCII stands in.

A Windows console of code page 1252 or 437 cannot write "≤" or "✓", a plain ASCII one not even "±"; without this the
program would end there with an encoding error.
"""

import codecs
import sys

STAND_INS = {
    "±": "+/-",
    "×": "x",
    "·": "*",
    "\N{EN DASH}": "-",
    "\N{MINUS SIGN}": "-",
    "…": "...",
    "✓": "ok",
    "→": "->",
    "≤": "<=",
    "⊕": "^",
    "━": "=",
    "╸": "=",
    "╺": "-",
    "│": "|",
    "─": "-",
    "•": "*",
}
"""Characters that our output or rich's may hold, and what is written where they cannot be."""

_NAME = "flexor-stand-in"


def stand_in(error: UnicodeError) -> tuple[str | bytes, int]:
    """What is written for the first character that cannot be: its stand-in, else its escape.

    A byte of a file's name that was no text (Python keeps it as a lone surrogate) comes out as that byte.

    Example:
        >>> codecs.register_error("example", stand_in)
        >>> "91.27 ± 0.24, 統".encode("ascii", errors="example")
        b'91.27 +/- 0.24, \\\\u7d71'
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lost = error.object[error.start]
    if "\udc80" <= lost <= "\udcff":
        return bytes([ord(lost) - 0xDC00]), error.start + 1
    return STAND_INS.get(lost) or lost.encode("ascii", "backslashreplace").decode(), error.start + 1


def write_anywhere() -> None:
    """Have stdout and stderr write stand-ins for what their encoding lacks."""
    codecs.register_error(_NAME, stand_in)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors=_NAME)
