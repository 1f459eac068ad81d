"""The key of a figure as HTML: unlike plotly's own legend it wraps on a phone, and follows light and dark."""

from typing import TYPE_CHECKING, Any

from flexor_search.reporting.words import escaped

if TYPE_CHECKING:
    import plotly.graph_objects as go

BELOW = "triangle-down-open"
"""The symbol of what lies below the axis."""

_SHAPES = {
    "circle": '<circle cx="7" cy="7" r="4.5" fill="{0}"/>',
    "square": '<rect x="2.5" y="2.5" width="9" height="9" fill="{0}"/>',
    "diamond": '<path d="M7 1.5 12.5 7 7 12.5 1.5 7Z" fill="{0}"/>',
    "circle-open": '<circle cx="7" cy="7" r="4.5" fill="none" stroke="{0}" stroke-width="2"/>',
    "x-thin-open": '<path d="M3 3 11 11M11 3 3 11" stroke="{0}" stroke-width="2"/>',
    "star-open": '<path d="M7 1 9 5 13 6 10 9 11 13 7 10 3 13 4 9 1 6 5 5Z" fill="none" stroke="{0}"/>',
    "hexagram-open": '<path d="M7 1 12.2 10H1.8ZM7 13 1.8 4H12.2Z" fill="none" stroke="{0}"/>',
    BELOW: '<path d="M2 3.5H12L7 12Z" fill="none" stroke="{0}" stroke-width="1.5"/>',
}
_AREA = '<rect x="0" y="2" width="14" height="10" rx="2" fill="{0}"/>'
_DASHES = {"dash": "6 4", "dot": "2 3"}


def key(figure: "go.Figure") -> str:
    """The key of the named traces and lines of a figure, each name once."""
    found: dict[str, str] = {}
    below = False
    traces: Any = figure.data
    for trace in traces:
        symbols = _symbols(trace)
        below = below or BELOW in symbols
        if not trace.name:
            continue
        if trace.fill:
            found.setdefault(trace.name, _AREA.format(trace.fillcolor))
        elif trace.mode == "lines":
            found.setdefault(trace.name, _line(trace.line))
        else:
            drawn = next((symbol for symbol in symbols if symbol != BELOW), BELOW)
            found.setdefault(trace.name, _SHAPES[drawn].format(trace.marker.color))
    for shape in figure.layout.shapes:
        if shape.name:
            found.setdefault(shape.name, _line(shape.line))
    if below:
        found["below the axis"] = _SHAPES[BELOW].format("currentColor")
    items = "".join(
        f'<li><svg width="{26 if "x2=" in drawing else 14}" height="14" aria-hidden="true">{drawing}</svg>'
        f"{escaped(name)}</li>"
        for name, drawing in found.items()
    )
    return f'<ul class="key">{items}</ul>'


def _symbols(trace: Any) -> list[str]:
    symbol = trace.marker.symbol
    return [symbol] if isinstance(symbol, str) else list(symbol if symbol is not None else ())


def _line(line: Any) -> str:
    dash = _DASHES.get(line.dash, "")
    return f'<line x1="0" x2="26" y1="7" y2="7" stroke="{line.color}" stroke-width="2" stroke-dasharray="{dash}"/>'
