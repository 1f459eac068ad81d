"""The alternative to the package's kernels: one function for each code, its taps written out as straight-line source.

Kept to show, not to use: `python -m benchmarks.decode` times it beside the package's single kernel that reads the taps
from a table, and reports what each code costs to compile.
"""

from collections.abc import Callable
from typing import Any

import numba

from flexor_search.codes import XorCode

BLOCK_BYTES = 16384


def straight_line_source(code: XorCode) -> str:
    """Source of `decode(planes, rows, start, stop)`: every row an XOR of its planes, block by block."""
    lines = [
        "def decode(planes, rows, start, stop):",
        f"    for low in range(start, stop, {BLOCK_BYTES}):",
        f"        high = min(low + {BLOCK_BYTES}, stop)",
    ]
    for row, taps in enumerate(code.taps):
        lines += [f"        p{tap} = planes[{tap}, low:high]" for tap in taps]
        lines += [
            f"        row = rows[{row}, low:high]",
            "        for i in range(row.size):",
            f"            row[i] = {' ^ '.join(f'p{tap}[i]' for tap in taps)}",
        ]
    return "\n".join(lines)


def compile_straight_line(code: XorCode) -> Callable[..., Any]:
    """Compile it for planes and rows that are C-contiguous uint8 arrays."""
    scope: dict[str, Any] = {}
    exec(straight_line_source(code), scope)
    plane = numba.types.Array(numba.uint8, 2, "C")
    signature = numba.void(plane, plane, numba.intp, numba.intp)
    return numba.njit(signature, nogil=True)(scope["decode"])
