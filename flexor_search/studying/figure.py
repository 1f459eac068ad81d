"""A figure of a few rows as SVG: a dot for each mean, a bar for its standard error; a README shows it as it is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

_LEFT, _RIGHT, _WIDTH, _TOP, _ROW = 220, 60, 720, 50, 28


@dataclass(frozen=True)
class Point:
    """A row of the figure: its label, its mean and its standard error (NaN: unknown)."""

    label: str
    mean: float
    error: float


def dots_svg(title: str, points: Sequence[Point]) -> str:
    """Draw points one below the other on a common axis.

    Args:
        title: above the figure.
        points: at least one; in percent, so that the axis ends at 0 and 100.
    """
    ends = [p.mean + side * (0.0 if math.isnan(p.error) else p.error) for p in points for side in (-1, 1)]
    margin = max(0.1, 0.08 * (max(ends) - min(ends)))
    low, high = max(0.0, min(ends) - margin), min(100.0, max(ends) + margin)
    height = _TOP + _ROW * len(points) + 40

    def x(value: float) -> float:
        return _LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="16" y="24" font-size="15" fill="#222222">{escape(title)}</text>',
    ]
    bottom = _TOP + _ROW * len(points)
    for tick in range(5):
        value = low + (high - low) * tick / 4
        at, below = f"{x(value):.1f}", bottom + 18
        parts.append(f'<line x1="{at}" y1="{_TOP - 8}" x2="{at}" y2="{bottom}" stroke="#dddddd"/>')
        parts.append(f'<text x="{at}" y="{below}" text-anchor="middle" fill="#555555">{value:.2f}</text>')
    for index, point in enumerate(points):
        y = _TOP + _ROW * index + _ROW / 2 - 8
        label = escape(point.label)
        parts.append(f'<text x="{_LEFT - 12}" y="{y + 4:.1f}" text-anchor="end" fill="#222222">{label}</text>')
        if not math.isnan(point.error):
            first, last = (f"{x(point.mean + side * point.error):.1f}" for side in (-1, 1))
            parts.append(f'<line x1="{first}" y1="{y}" x2="{last}" y2="{y}" stroke="#1f5fa8" stroke-width="2"/>')
        parts.append(f'<circle cx="{x(point.mean):.1f}" cy="{y}" r="5" fill="#1f5fa8"/>')
    return "\n".join([*parts, "</svg>"]) + "\n"
