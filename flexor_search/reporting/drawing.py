"""What the figures share: how each kind of training is drawn, the range of accuracies, text, style."""

import html
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from flexor_search.reporting.key import BELOW
from flexor_search.reporting.tables import SIZE_RULE, UNIFORM
from flexor_search.reporting.words import count, measure, scale, told, unit
from flexor_search.runs import FAILED, STOPPED

# each readable on white and on near-black
BLUE, ORANGE, PURPLE, GREY, TEAL = "#2f80d8", "#d97a14", "#8a63d2", "#8f99a3", "#0f9d8a"
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
_MANY = 12
HOVER = "%{customdata[0]}<extra></extra>"


@dataclass(frozen=True)
class Mark:
    """How one group of trainings is drawn, the same in every figure and in its key."""

    name: str
    symbol: str
    color: str
    size: int


_PROPOSED = Mark("proposed", "circle", GREY, 7)
_RULE = Mark("size rule", "diamond", PURPLE, 9)
_UNIFORM = Mark("uniform", "square", ORANGE, 8)
MARKS = (_PROPOSED, _RULE, _UNIFORM)


def drawn_with(mark: Mark, table: pd.DataFrame) -> pd.DataFrame:
    """The rows whose kind is drawn with a mark; all kinds that have none of their own are proposed."""
    uniform, rule = table["kind"] == UNIFORM, table["kind"].str.startswith(SIZE_RULE)
    return table[{_UNIFORM: uniform, _RULE: rule}.get(mark, ~(uniform | rule))]


def accuracy_range(accuracies: "pd.Series[float]", bars: list[float]) -> tuple[float, float]:
    """Where the axis of accuracy begins and ends.

    A few hopeless trainings must not squeeze all others together: they are drawn on its lower edge, with a symbol of
    their own. All of `bars` (ends of error bars, full precision) is within.

    Example:
        >>> low, high = accuracy_range(pd.Series([0.5, 0.89, 0.9, 0.9, 0.91, 0.92]), [])
        >>> 0.8 < low < 0.89, 0.92 < high < 0.95
        (True, True)
    """
    values = accuracies.astype(float).dropna()
    if values.empty and not bars:
        return 0.0, 1.0
    best = low = max([*values, *bars])
    if len(values):
        share, times = (0.25, 3) if len(values) < _MANY else (0.5, 4)  # of few each counts
        low = max(float(values.min()), best - times * max(best - float(values.quantile(share)), 0.01))
    low = min([low, *bars])
    margin = 0.09 * max(best - low, 0.01)
    return low - margin, best + 1.4 * margin


def accuracy_axis(low: float, high: float) -> dict[str, Any]:
    """The axis of a range of accuracies, with room for the symbols that stand on its lower edge."""
    return {"range": [scale() * (low - 0.03 * (high - low)), scale() * high], "title": _axis_title()}


def _axis_title() -> str:
    return f"validation {text_in_plot(measure())}{unit(', %')}"


def clipped(accuracies: "pd.Series[float]", low: float) -> list[float]:
    """Accuracies as they are shown, those below the axis on its lower edge."""
    return [scale() * max(float(accuracy), low) for accuracy in accuracies]


def symbols(accuracies: "pd.Series[float]", mark: Mark, low: float) -> list[str]:
    """The mark's symbol, or the one that says that the value lies below the axis."""
    return [BELOW if accuracy < low else mark.symbol for accuracy in accuracies]


def text_in_plot(value: Any) -> str:
    """A user's text inside a plot: harmless, and broken into lines so that a label of many layers fits a screen.

    plotly knows few entities, so quotes stay.

    Example:
        >>> text_in_plot("<b>8/20</b>")
        '&lt;b&gt;8/20&lt;/b&gt;'
    """
    words = html.escape(str(value), quote=False).split(" ")
    return "<br>".join(" ".join(words[start : start + 8]) for start in range(0, len(words), 8))


def point_hover(row: Mapping[Any, Any]) -> str:
    """What a row of `tables.points` says when pointed at."""
    spread = " (mean and standard deviation)" if row["seeds"] > 1 else ""
    lines = (
        f"<b>{text_in_plot(row['label'])}</b>",
        f"{text_in_plot(row['kind'])}, {row['fidelity']}, {count(row['seeds'], 'seed')}, trial {row['trial']}",
        f"{text_in_plot(told(row['val_accuracy'], row['val_std']))}{spread}",
        f"{row['bits_per_weight']:g} bits per weight ({row['nominal_bits_per_weight']:.3g} nominal)",
        f"{row['payload_bits']:,} encrypted bits in all, {row['file_bytes']:,} bytes of file",
    )
    return "<br>".join(lines)


def trial_hover(row: Mapping[Any, Any]) -> str:
    """What a row of `tables.progress` says when pointed at."""
    accuracy = text_in_plot(told(row["val_accuracy"]))
    lines = (
        f"<b>{text_in_plot(row['label'])}</b>",
        f"trial {row['trial']}, {text_in_plot(row['kind'])}",
        {STOPPED: f"stopped early as weak, at {accuracy}", FAILED: "failed"}.get(row["state"], accuracy),
        f"{row['bits_per_weight']:g} bits per weight, {row['file_bytes']:,} bytes of file",
        "" if row["fits"] else "over the first budget",
    )
    return "<br>".join(line for line in lines if line)


def styled(figure: go.Figure, height: int, top: int = 34) -> go.Figure:
    """The look of a figure; report.css gives texts and grid their colors, which follow light and dark."""
    figure.update_layout(
        template="none",
        height=height,
        showlegend=False,  # the page has a key above each figure
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": _FONT, "size": 13},
        margin={"l": 52, "r": 14, "t": top, "b": 48},
        hoverlabel={"align": "left", "font": {"family": _FONT, "size": 13}},
        hovermode="closest",
    )
    figure.update_xaxes(zeroline=False, showline=False, ticks="", automargin=True, title={"standoff": 12})
    figure.update_yaxes(zeroline=False, showline=False, ticks="", automargin=True, title={"standoff": 10})
    return figure
