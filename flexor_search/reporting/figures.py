"""The plotly figures, drawn from the tables. No numbers are made here, only the ranges of axes."""

import math
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from flexor_search.planning import Budget
from flexor_search.reporting.drawing import (
    BLUE,
    GREY,
    HOVER,
    MARKS,
    ORANGE,
    Mark,
    accuracy_axis,
    accuracy_range,
    clipped,
    drawn_with,
    point_hover,
    styled,
    symbols,
    text_in_plot,
    trial_hover,
)
from flexor_search.reporting.tables import FULL, UNIFORM
from flexor_search.reporting.words import count, percent
from flexor_search.runs import CONFIRM, DONE, FAILED, SEARCH, STOPPED

_TITLES = {CONFIRM: "Trained in full", SEARCH: "The search: shorter trainings"}
_LABEL_ROOM = 0.05
"""Between the texts of two budgets, of the axis."""


def pareto(points: pd.DataFrame, front: pd.DataFrame, budgets: list[str], chosen: set[str]) -> go.Figure:
    """Validation accuracy against stored bits per weight, one panel for each fidelity on a shared axis of bits.

    Args:
        points: `tables.points`.
        front: `tables.front`.
        budgets: those asked for; the ones in bits per weight are drawn.
        chosen: digests of the chosen models, which get a ring.
    """
    panels = [fidelity for fidelity in (CONFIRM, SEARCH) if (points["fidelity"] == fidelity).any()]
    rows = max(len(panels), 1)
    figure = make_subplots(rows=rows, shared_xaxes=True, vertical_spacing=0.11, row_heights=[0.45, 0.55][-rows:])
    widest = 1.06 * max([0.01, *points[points["kind"] != FULL]["bits_per_weight"]])
    for row, fidelity in enumerate(panels, start=1):
        everything = points[points["fidelity"] == fidelity]
        small, full = everything[everything["kind"] != FULL], everything[everything["kind"] == FULL]
        low, high = accuracy_range(small["val_accuracy"], _bars(everything))
        _lines(figure, row, small, front[front["fidelity"] == fidelity], (low, widest))
        for mark in MARKS:
            _markers(figure, row, drawn_with(mark, small), mark, low)
        _rings(figure, row, small[small["digest"].isin(chosen)], low)
        if len(full):
            _full_precision(figure, row, full.iloc[0])
        figure.update_yaxes(accuracy_axis(low, high), row=row)
        _panel_title(figure, row, f"{_TITLES[fidelity]}, {count(int(everything['seeds'].max()), 'seed')}")
    figure.update_xaxes(range=[0, widest])
    figure.update_xaxes(title="stored bits per weight", row=rows)
    _budget_lines(figure, budgets, widest, rows)
    return styled(figure, 660 if rows > 1 else 420)


def progress(table: pd.DataFrame, level: float) -> go.Figure:
    """Accuracy of every search training, and the best so far under the first budget.

    Args:
        table: `tables.progress`.
        level: accuracy of the best uniform model that fits, NaN if none was measured.
    """
    figure = go.Figure()
    done = table[(table["state"] == DONE) & table["val_accuracy"].notna()]
    low, high = accuracy_range(done["val_accuracy"], [])
    for fits in (False, True):  # those that fit are drawn over the others
        for mark in MARKS:
            _trials(figure, drawn_with(mark, done[done["fits"] == fits]), mark, low)
    for state, symbol in ((STOPPED, "circle-open"), (FAILED, "x-thin-open")):
        _trials(figure, table[table["state"] == state], Mark(state, symbol, GREY, 8), low)
    best = table[table["best"].notna()]
    if len(best):
        figure.add_scatter(
            x=best["trial"],
            y=clipped(best["best"], low),
            mode="lines",
            name="best so far",
            line={"color": BLUE, "width": 2.5, "shape": "hv"},
            hoverinfo="skip",
        )
    if not math.isnan(level):
        line = {"color": ORANGE, "dash": "dot", "width": 1.5}
        figure.add_hline(100 * max(level, low), name="best uniform", line=line)
    figure.update_yaxes(accuracy_axis(low, high))
    last = max([1, *table["trial"]])
    figure.update_xaxes(range=[-0.02 * last - 0.3, 1.02 * last + 0.3], title="trial", tickformat="d")
    return styled(figure, 340, top=12)


def _bars(points: pd.DataFrame) -> list[float]:
    """Ends of the error bars, and full precision."""
    several = points[points["val_std"].notna()]
    ends = [*(several["val_accuracy"] - several["val_std"]), *(several["val_accuracy"] + several["val_std"])]
    return [*ends, *points[points["kind"] == FULL]["val_accuracy"]]


def _lines(figure: go.Figure, row: int, small: pd.DataFrame, front: pd.DataFrame, ends: tuple[float, float]) -> None:
    """The front, as what can be had within so many bits (it holds to the right end), and the uniform curve."""
    low, widest = ends
    uniform = small[small["kind"] == UNIFORM].sort_values("bits_per_weight")
    front_y, uniform_y = clipped(front["val_accuracy"], low), clipped(uniform["val_accuracy"], low)
    front_line = {"color": BLUE, "width": 2, "shape": "hv"}
    uniform_line = {"color": ORANGE, "width": 1.2, "dash": "dot"}
    for name, x, y, line in (
        ("front", [*front["bits_per_weight"], widest], [*front_y, *front_y[-1:]], front_line),
        ("uniform curve", [*uniform["bits_per_weight"]], uniform_y, uniform_line),
    ):
        if len(y) > 1:
            figure.add_scatter(x=x, y=y, mode="lines", name=name, line=line, hoverinfo="skip", row=row, col=1)


def _markers(figure: go.Figure, row: int, part: pd.DataFrame, mark: Mark, low: float) -> None:
    if part.empty:
        return
    spread, confirmed = part["val_std"].astype(float), part["fidelity"].iloc[0] == CONFIRM
    bars = {"type": "data", "array": 100 * spread.fillna(0), "thickness": 1.3, "width": 5}
    figure.add_scatter(
        x=part["bits_per_weight"],
        y=clipped(part["val_accuracy"], low),
        mode="markers",
        name=mark.name,
        marker={
            "color": mark.color,
            "symbol": symbols(part["val_accuracy"], mark, low),
            "size": mark.size + 2 * confirmed,
        },
        error_y=bars if spread.notna().any() else None,
        cliponaxis=False,
        customdata=[point_hover(record) for record in part.to_dict("records")],
        hovertemplate=HOVER,
        row=row,
        col=1,
    )


def _rings(figure: go.Figure, row: int, part: pd.DataFrame, low: float) -> None:
    if part.empty:
        return
    figure.add_scatter(
        x=part["bits_per_weight"],
        y=clipped(part["val_accuracy"], low),
        mode="markers",
        name="chosen",
        marker={"color": BLUE, "symbol": "circle-open", "size": 19, "line": {"width": 2.5}},
        cliponaxis=False,
        hoverinfo="skip",
        row=row,
        col=1,
    )


def _full_precision(figure: go.Figure, row: int, full: "pd.Series[Any]") -> None:
    """A line: at 32 bits per weight a point would push all others into a corner."""
    mean = float(full["val_accuracy"])
    figure.add_hline(
        100 * mean,
        name="full precision",
        line={"color": GREY, "dash": "dash", "width": 1.5},
        annotation={
            "text": f"full precision {percent(mean, full['val_std'])} %",
            "font": {"size": 12},
            "x": 0.01,
            "xanchor": "left",
            "yanchor": "bottom",
        },
        row=row,  # type: ignore[arg-type]  # plotly's hint says str
        col=1,  # type: ignore[arg-type]
    )


def _budget_lines(figure: go.Figure, budgets: list[str], widest: float, rows: int) -> None:
    values = sorted((budget.value, budget.text) for budget in map(Budget.parse, budgets) if budget.kind == "bpw")
    labelled = -math.inf
    for value, text in values:
        if value > widest:
            continue
        line = {"color": GREY, "width": 1, "dash": "dot"}
        for row in range(1, rows + 1):
            yref = _domain(row)
            figure.add_shape(type="line", x0=value, x1=value, y0=0, y1=1, yref=yref, xref="x", line=line, name="budget")
        if value - labelled > _LABEL_ROOM * widest:
            labelled = value
            figure.add_annotation(
                x=value,
                y=0,
                yref=_domain(1),
                text=text_in_plot(text),
                textangle=-90,
                xanchor="left",
                yanchor="bottom",
                showarrow=False,
                font={"size": 11},
            )


def _panel_title(figure: go.Figure, row: int, text: str) -> None:
    figure.add_annotation(
        text=f"<b>{text}</b>",
        x=0,
        xref="x domain",
        xanchor="left",
        y=1,
        yref=_domain(row),
        yanchor="bottom",
        yshift=6,
        showarrow=False,
    )


def _domain(row: int) -> str:
    """plotly's name of the height of a panel, from 0 to 1."""
    return f"y{row if row > 1 else ''} domain"


def _trials(figure: go.Figure, part: pd.DataFrame, mark: Mark, low: float) -> None:
    if part.empty:
        return
    values = part["val_accuracy"].astype(float).fillna(low)  # what failed has none, and stands on the edge
    figure.add_scatter(
        x=part["trial"],
        y=clipped(values, low),
        mode="markers",
        name=mark.name,
        marker={
            "color": mark.color,
            "symbol": mark.symbol if "open" in mark.symbol else symbols(values, mark, low),
            "size": mark.size - 1,
            "opacity": [1.0 if fits else 0.4 for fits in part["fits"]],
        },
        cliponaxis=False,
        customdata=[trial_hover(record) for record in part.to_dict("records")],
        hovertemplate=HOVER,
    )
