"""plotly figures from the tables. No numbers are made here, only ranges; report.css gives them their light and dark."""

import html
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from flexor_search.planning import Budget
from flexor_search.reporting.tables import FULL, SIZE_RULE, UNIFORM
from flexor_search.reporting.words import count, percent
from flexor_search.runs import CONFIRM, DONE, SEARCH

BLUE, ORANGE, PURPLE, GREY = "#2f80d8", "#d97a14", "#8a63d2", "#8f99a3"  # each readable on white and on near-black
_HOVER = "%{customdata}<extra></extra>"
_TITLES = {CONFIRM: "Trained in full", SEARCH: "The search: shorter trainings, one seed"}


@dataclass(frozen=True)
class Mark:
    """How one group of allocations is drawn, the same in every figure and in its key."""

    name: str
    symbol: str
    color: str
    size: int


PROPOSED = Mark("proposed", "circle", GREY, 7)
RULE = Mark("size rule", "diamond", PURPLE, 9)
EVEN = Mark("uniform", "square", ORANGE, 8)
MARKS = (PROPOSED, RULE, EVEN)
CONFIRMED_SIZE = 10


def mark_of(kind: str) -> Mark:
    """The group that a kind of training belongs to."""
    if kind == UNIFORM:
        return EVEN
    return RULE if kind.startswith(SIZE_RULE) else PROPOSED


def pareto(points: pd.DataFrame, front: pd.DataFrame, budgets: list[str], chosen: set[str]) -> go.Figure:
    """Validation accuracy against stored bits per weight: a panel for each fidelity, above one another on one axis.

    Args:
        points: `tables.points`.
        front: `tables.front`.
        budgets: those asked for; the ones in bits per weight are drawn.
        chosen: digests of the chosen models, which get a ring.
    """
    small = points[points["kind"] != FULL]
    panels = [fidelity for fidelity in (CONFIRM, SEARCH) if (points["fidelity"] == fidelity).any()]
    rows = max(len(panels), 1)
    figure = make_subplots(rows=rows, shared_xaxes=True, vertical_spacing=0.11, row_heights=[0.45, 0.55][-rows:])
    widest = max([0.01, *small["bits_per_weight"]]) * 1.06
    for row, fidelity in enumerate(panels, start=1):
        same = small[small["fidelity"] == fidelity]
        full = points[(points["kind"] == FULL) & (points["fidelity"] == fidelity)]
        low, high = _range([*same["val_accuracy"]], [*full["val_accuracy"]])
        line = front[front["fidelity"] == fidelity]
        _front(figure, row, line, widest, low)
        _uniform_curve(figure, row, same, low)
        for mark in MARKS:
            part = same[[mark_of(kind) == mark for kind in same["kind"]]]
            _markers(figure, row, part, mark, low)
        _rings(figure, row, same[same["digest"].isin(chosen)], low)
        if len(full):
            _full_precision(figure, row, full.iloc[0])
        figure.update_yaxes(range=[100 * low, 100 * high], title="validation accuracy, %", row=row)
        where = f"y{row if row > 1 else ''} domain"
        figure.add_annotation(_panel_title(_TITLES[fidelity], where))
    figure.update_xaxes(range=[0, widest])
    figure.update_xaxes(title="stored bits per weight", row=rows)
    _budget_lines(figure, budgets, widest)
    return _styled(figure, 660 if rows > 1 else 420)


def progress(table: pd.DataFrame, level: float) -> go.Figure:
    """Accuracy of every search training, and the best so far under the first budget.

    Args:
        table: `tables.progress`.
        level: accuracy of the best uniform model that fits, NaN if none was measured.
    """
    figure = go.Figure()
    done = table[(table["state"] == DONE) & table["val_accuracy"].notna()]
    low, high = _range([*done["val_accuracy"]], [])
    for fits in (False, True):  # those that fit are drawn over the others
        for mark in MARKS:
            part = done[(done["fits"] == fits) & [mark_of(kind) == mark for kind in done["kind"]]]
            _trials(figure, part, mark, low, fits)
    for state, symbol in (("stopped", "circle-open"), ("failed", "x-thin-open")):
        part = table[table["state"] == state]
        _trials(figure, part, Mark(state, symbol, GREY, 7), low, True)
    best = table[table["best"].notna()]
    if len(best):
        line = {"color": BLUE, "width": 2.5, "shape": "hv"}
        y = _clipped(best["best"], low)
        figure.add_scatter(x=best["trial"], y=y, mode="lines", name="best so far", line=line, hoverinfo="skip")
    if not math.isnan(level):
        figure.add_hline(100 * max(level, low), line={"color": ORANGE, "dash": "dot", "width": 1.5})
    figure.update_yaxes(range=[100 * low, 100 * high], title="validation accuracy, %")
    last = max([1, *table["trial"]])
    figure.update_xaxes(range=[-0.02 * last - 0.3, 1.02 * last + 0.3], title="trial", tickformat="d")
    return _styled(figure, 360)


def _range(accuracies: list[float], references: list[float]) -> tuple[float, float]:
    """Where the axis of accuracy begins and ends: few hopeless trainings must not squeeze all others together.

    Those below it are drawn on its lower edge.
    """
    values = pd.Series([*accuracies, *references], dtype=float).dropna()
    if values.empty:
        return 0.0, 1.0
    best = float(values.max())
    quarter = float(pd.Series(accuracies or references, dtype=float).quantile(0.25))
    low = max(float(values.min()), quarter - 1.5 * (best - quarter))
    margin = 0.09 * max(best - low, 0.01)
    return low - margin, best + 1.4 * margin


def _clipped(accuracies: "pd.Series[float]", low: float) -> list[float]:
    return [100 * max(float(accuracy), low) for accuracy in accuracies]


def _markers(figure: go.Figure, row: int, part: pd.DataFrame, mark: Mark, low: float) -> None:
    if part.empty:
        return
    below = part["val_accuracy"] < low
    spread = part["val_std"].astype(float)
    figure.add_scatter(
        x=part["bits_per_weight"],
        y=_clipped(part["val_accuracy"], low),
        mode="markers",
        name=mark.name,
        marker={
            "color": mark.color,
            "symbol": ["triangle-down-open" if under else mark.symbol for under in below],
            "size": mark.size if row > 1 or not spread.notna().any() else CONFIRMED_SIZE,
        },
        error_y={"type": "data", "array": 100 * spread.fillna(0), "thickness": 1.3, "width": 5}
        if spread.notna().any()
        else None,
        cliponaxis=False,
        customdata=[_hover(record) for record in part.to_dict("records")],
        hovertemplate=_HOVER,
        row=row,
        col=1,
    )


def _rings(figure: go.Figure, row: int, part: pd.DataFrame, low: float) -> None:
    if part.empty:
        return
    figure.add_scatter(
        x=part["bits_per_weight"],
        y=_clipped(part["val_accuracy"], low),
        mode="markers",
        name="chosen",
        marker={"color": BLUE, "symbol": "circle-open", "size": 19, "line": {"width": 2.5}},
        cliponaxis=False,
        hoverinfo="skip",
        row=row,
        col=1,
    )


def _front(figure: go.Figure, row: int, part: pd.DataFrame, widest: float, low: float) -> None:
    """The front as what can be had within so many bits: it holds to the right end."""
    if part.empty:
        return
    y = _clipped(part["val_accuracy"], low)
    figure.add_scatter(
        x=[*part["bits_per_weight"], widest],
        y=[*y, y[-1]],
        mode="lines",
        name="front",
        line={"color": BLUE, "width": 2, "shape": "hv"},
        hoverinfo="skip",
        row=row,
        col=1,
    )


def _uniform_curve(figure: go.Figure, row: int, same: pd.DataFrame, low: float) -> None:
    curve = same[same["kind"] == UNIFORM].sort_values("bits_per_weight")
    if len(curve) > 1:
        figure.add_scatter(
            x=curve["bits_per_weight"],
            y=_clipped(curve["val_accuracy"], low),
            mode="lines",
            name="uniform curve",
            line={"color": ORANGE, "width": 1.2, "dash": "dot"},
            hoverinfo="skip",
            row=row,
            col=1,
        )


def _full_precision(figure: go.Figure, row: int, full: "pd.Series[Any]") -> None:
    """A line: at 32 bits per weight a point would push all others into a corner."""
    mean, std = float(full["val_accuracy"]), full["val_std"]
    figure.add_hline(
        100 * mean,
        line={"color": GREY, "dash": "dash", "width": 1.5},
        annotation={
            "text": f"full precision {percent(mean, std)} %",
            "font": {"size": 12},
            "x": 0.01,
            "xanchor": "left",
            "yanchor": "bottom",
        },
        row=row,  # type: ignore[arg-type]  # plotly's hint says str
        col=1,  # type: ignore[arg-type]
    )


def _budget_lines(figure: go.Figure, budgets: list[str], widest: float) -> None:
    labelled = -math.inf
    for text in sorted(budgets, key=lambda text: Budget.parse(text).value):
        budget = Budget.parse(text)
        if budget.kind != "bpw" or budget.value > widest:
            continue
        line = {"color": GREY, "width": 1, "dash": "dot"}
        figure.add_shape(type="line", x0=budget.value, x1=budget.value, y0=0, y1=1, yref="paper", line=line)
        if budget.value - labelled > 0.04 * widest:  # room for its text
            labelled = budget.value
            figure.add_annotation(
                x=budget.value,
                y=0,
                yref="paper",
                text=html.escape(text, quote=False),
                textangle=-90,
                xanchor="right",
                yanchor="bottom",
                showarrow=False,
                font={"size": 11},
            )


def _panel_title(text: str, yref: str) -> dict[str, Any]:
    return {
        "text": f"<b>{text}</b>",
        "x": 0,
        "xref": "x domain",
        "xanchor": "left",
        "y": 1,
        "yref": yref,
        "yanchor": "bottom",
        "yshift": 6,
        "showarrow": False,
    }


def _trials(figure: go.Figure, part: pd.DataFrame, mark: Mark, low: float, fits: bool) -> None:
    if part.empty:
        return
    values = part["val_accuracy"].astype(float).fillna(low)
    symbols = ["triangle-down-open" if value < low and "open" not in mark.symbol else mark.symbol for value in values]
    figure.add_scatter(
        x=part["trial"],
        y=_clipped(values, low),
        mode="markers",
        name=mark.name,
        opacity=1 if fits else 0.4,
        marker={"color": mark.color, "symbol": symbols, "size": mark.size - 1},
        cliponaxis=False,
        customdata=[_trial_hover(record) for record in part.to_dict("records")],
        hovertemplate=_HOVER,
    )


def _hover(row: Mapping[Any, Any]) -> str:
    spread = " (mean and standard deviation)" if row["seeds"] > 1 else ""
    lines = (
        f"<b>{_text(row['label'])}</b>",
        f"{_text(row['kind'])}, {row['fidelity']}, {count(row['seeds'], 'seed')}, trial {row['trial']}",
        f"{percent(row['val_accuracy'], row['val_std'])} % validation accuracy{spread}",
        f"{row['bits_per_weight']:g} bits per weight ({row['nominal_bits_per_weight']:.3g} nominal)",
        f"{row['payload_bits']:,} encrypted bits in all, {row['file_bytes']:,} bytes of file",
    )
    return "<br>".join(lines)


def _trial_hover(row: Mapping[Any, Any]) -> str:
    outcome = {"stopped": "stopped early as weak at ", "failed": "failed"}.get(row["state"], "")
    accuracy = "" if row["state"] == "failed" else f"{percent(row['val_accuracy'])} % validation accuracy"
    lines = (
        f"<b>{_text(row['label'])}</b>",
        f"trial {row['trial']}, {_text(row['kind'])}",
        outcome + accuracy,
        f"{row['bits_per_weight']:g} bits per weight, {row['file_bytes']:,} bytes of file",
        "" if row["fits"] else "over the first budget",
    )
    return "<br>".join(line for line in lines if line)


def _text(value: Any) -> str:
    """Text inside a plot, where plotly knows few entities: quotes stay."""
    text = html.escape(str(value), quote=False)
    words = text.split(" ")
    return "<br>".join(" ".join(words[start : start + 10]) for start in range(0, len(words), 10))


def _styled(figure: go.Figure, height: int) -> go.Figure:
    figure.update_layout(
        template="none",
        height=height,
        showlegend=False,  # the page has a key above each figure
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 13},
        margin={"l": 52, "r": 14, "t": 34, "b": 48},
        hoverlabel={"align": "left", "font": {"size": 13}},
        hovermode="closest",
    )
    figure.update_xaxes(zeroline=False, showline=False, ticks="", automargin=True, title={"standoff": 12})
    figure.update_yaxes(zeroline=False, showline=False, ticks="", automargin=True, title={"standoff": 10})
    return figure
