"""What is drawn across a panel of accuracy against size: full precision, budgets, its title."""

import math
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from flexor_search.reporting.drawing import GREY, text_in_plot
from flexor_search.reporting.words import percent, scale, unit

_LABEL_ROOM = 0.05
"""Between the texts of two budgets, of the axis."""


def full_precision(figure: go.Figure, row: int, full: "pd.Series[Any]") -> None:
    """A line, since at 32 bits per weight a point would push all others into a corner; the key tells its height."""
    mean = float(full["val_accuracy"])
    figure.add_hline(
        scale() * mean,
        name=f"full precision {percent(mean, full['val_std'])}{unit()}",
        line={"color": GREY, "dash": "dash", "width": 1.5},
        row=row,  # type: ignore[arg-type]  # plotly's hint says str
        col=1,  # type: ignore[arg-type]
    )


def budget_lines(figure: go.Figure, places: list[tuple[float, str]], widest: float, rows: int) -> None:
    """Budgets, those named that have room for it.

    Args:
        figure: with a shared axis of bits per weight.
        places: `tables.budget_places`.
        widest: where that axis ends.
        rows: of panels.
    """
    labelled = -math.inf
    for value, text in sorted(places):
        if value > widest:
            continue
        line = {"color": GREY, "width": 1, "dash": "dot"}
        for row in range(1, rows + 1):
            yref = domain(row)
            figure.add_shape(type="line", x0=value, x1=value, y0=0, y1=1, yref=yref, xref="x", line=line, name="budget")
        if value - labelled > _LABEL_ROOM * widest:
            labelled = value
            figure.add_annotation(
                x=value,
                y=0,
                yref=domain(1),
                text=text_in_plot(text),
                textangle=-90,
                xanchor="left",
                yanchor="bottom",
                showarrow=False,
                font={"size": 11},
            )


def panel_title(figure: go.Figure, row: int, text: str) -> None:
    """Its name, above its upper left corner."""
    figure.add_annotation(
        text=f"<b>{text}</b>",
        x=0,
        xref="x domain",
        xanchor="left",
        y=1,
        yref=domain(row),
        yanchor="bottom",
        yshift=6,
        showarrow=False,
    )


def domain(row: int) -> str:
    """plotly's name of the height of a panel, from 0 to 1."""
    return f"y{row if row > 1 else ''} domain"
