"""Accuracy against size: every allocation, the front with its band, and what it stands beside."""

from dataclasses import dataclass, field

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from flexor_search.reporting.drawing import (
    BLUE,
    HOVER,
    MARKS,
    ORANGE,
    TEAL,
    Mark,
    accuracy_axis,
    accuracy_range,
    clipped,
    drawn_with,
    point_hover,
    styled,
    symbols,
)
from flexor_search.reporting.front_lines import budget_lines, full_precision, panel_title
from flexor_search.reporting.published import published
from flexor_search.reporting.tables import FULL, UNIFORM
from flexor_search.reporting.words import count, percent, scale
from flexor_search.runs import CONFIRM, SEARCH

PANEL_TITLES = {CONFIRM: "Trained in full", SEARCH: "The search: shorter trainings"}


@dataclass(frozen=True)
class Beside:
    """What the front stands beside.

    Attributes:
        budgets: where they are drawn, and their texts: `tables.budget_places`.
        chosen: digests of the chosen models, which get a ring.
        published: `published.published` of the workload; drawn in the first panel.
    """

    budgets: list[tuple[float, str]] = field(default_factory=list)
    chosen: set[str] = field(default_factory=set)
    published: pd.DataFrame = field(default_factory=lambda: published(""))


def pareto(points: pd.DataFrame, front: pd.DataFrame, beside: Beside) -> go.Figure:
    """Validation accuracy against stored bits per weight, one panel for each fidelity on a shared axis of bits.

    Every point's `customdata` is its text and the number of its trial.

    Args:
        points: `tables.points`.
        front: `tables.front`.
        beside: budgets, chosen models and published figures.
    """
    known = beside.published
    panels = [fidelity for fidelity in (CONFIRM, SEARCH) if (points["fidelity"] == fidelity).any()]
    rows = max(len(panels), 1)
    figure = make_subplots(rows=rows, shared_xaxes=True, vertical_spacing=0.11, row_heights=[0.45, 0.55][-rows:])
    widest = 1.06 * max([0.01, *points[points["kind"] != FULL]["bits_per_weight"], *known["bits_per_weight"]])
    for row, fidelity in enumerate(panels, start=1):
        everything = points[points["fidelity"] == fidelity]
        small, full = everything[everything["kind"] != FULL], everything[everything["kind"] == FULL]
        others = list(known["accuracy"]) if row == 1 else []
        low, high = accuracy_range(small["val_accuracy"], [*_bars(everything), *others])
        band(figure, row, front[front["fidelity"] == fidelity], widest)
        _lines(figure, row, small, front[front["fidelity"] == fidelity], (low, widest))
        for mark in MARKS:
            _markers(figure, row, drawn_with(mark, small), mark, low)
        _rings(figure, row, small[small["digest"].isin(beside.chosen)], low)
        if row == 1:
            _published(figure, known)
        if len(full):
            full_precision(figure, row, full.iloc[0])
        figure.update_yaxes(accuracy_axis(low, high), row=row)
        panel_title(figure, row, f"{PANEL_TITLES[fidelity]}, {count(int(everything['seeds'].max()), 'seed')}")
    figure.update_xaxes(range=[0, widest])
    figure.update_xaxes(title="stored bits per weight", row=rows)
    budget_lines(figure, beside.budgets, widest, rows)
    return styled(figure, 660 if rows > 1 else 420)


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


def band(figure: go.Figure, row: int, front: pd.DataFrame, widest: float, color: str = BLUE) -> None:
    """One standard deviation over seeds to either side of a front, in its steps; nothing where no spread is known.

    Args:
        figure: it is drawn in.
        row: of its panel.
        front: rows of one fidelity of `tables.front`.
        widest: where the axis of bits ends.
        color: of the front.
    """
    spread = front["val_std"].astype(float).fillna(0.0)
    if not (spread > 0).any():
        return
    ends = [*front["bits_per_weight"].astype(float)[1:], widest]
    corners = [
        (begin, end, scale() * float(mean), scale() * float(std))
        for begin, end, mean, std in zip(front["bits_per_weight"], ends, front["val_accuracy"], spread, strict=True)
    ]
    upper = [(x, mean + std) for begin, end, mean, std in corners for x in (begin, end)]
    lower = [(x, mean - std) for begin, end, mean, std in corners for x in (begin, end)]
    around = [*upper, *reversed(lower)]
    figure.add_scatter(
        x=[x for x, _ in around],
        y=[y for _, y in around],
        mode="lines",
        name="spread of the front",
        fill="toself",
        fillcolor=_pale(color),
        line={"width": 0, "color": color},
        hoverinfo="skip",
        row=row,
        col=1,
    )


def _pale(color: str) -> str:
    red, green, blue = (int(color[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.17)"


def _published(figure: go.Figure, known: pd.DataFrame) -> None:
    for (source, same), symbol in zip(
        known.groupby("source", sort=False), ("star-open", "hexagram-open"), strict=False
    ):
        hovers = [
            f"<b>{source}</b><br>{percent(one['accuracy'])} % test accuracy<br>"
            f"{one['label']} bits per weight, by the paper's count"
            for one in same.to_dict("records")
        ]
        figure.add_scatter(
            x=same["bits_per_weight"],
            y=100 * same["accuracy"],
            mode="markers",
            name=source,
            marker={"color": TEAL, "symbol": symbol, "size": 11},
            customdata=[[hover, -1] for hover in hovers],
            hovertemplate=HOVER,
            row=1,
            col=1,
        )


def _markers(figure: go.Figure, row: int, part: pd.DataFrame, mark: Mark, low: float) -> None:
    if part.empty:
        return
    spread, confirmed = part["val_std"].astype(float), part["fidelity"].iloc[0] == CONFIRM
    bars = {"type": "data", "array": scale() * spread.fillna(0), "thickness": 1.3, "width": 5}
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
        customdata=[[point_hover(record), record["trial"]] for record in part.to_dict("records")],
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
