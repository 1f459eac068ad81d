"""How the search went: every training, the best so far, and the area under its front, against what it cost."""

import math
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from flexor_search.reporting.drawing import (
    BLUE,
    GREY,
    HOVER,
    MARKS,
    ORANGE,
    TEAL,
    Mark,
    accuracy_axis,
    accuracy_range,
    clipped,
    drawn_with,
    styled,
    symbols,
    trial_hover,
)
from flexor_search.reporting.words import scale
from flexor_search.runs import DONE, FAILED, STOPPED

TRAININGS, SECONDS = "trainings", "seconds"
"""What progress is drawn against: images seen, in trainings in full, or time of training."""


def progress(table: pd.DataFrame, level: float, against: str = TRAININGS) -> go.Figure:
    """Accuracy of every search training with the best so far under the first budget, and the hypervolume below it.

    Args:
        table: `tables.progress`.
        level: accuracy of the uniform model of the first budget, NaN if none was measured.
        against: TRAININGS or SECONDS.
    """
    figure = make_subplots(rows=2, shared_xaxes=True, vertical_spacing=0.09, row_heights=[0.68, 0.32])
    unit, title = axis_of(table[against], against)
    places = table[against].astype(float) / unit
    done = table[(table["state"] == DONE) & table["val_accuracy"].notna()]
    low, high = accuracy_range(done["val_accuracy"], [])
    for fits in (False, True):  # those that fit are drawn over the others
        for mark in MARKS:
            _trials(figure, drawn_with(mark, done[done["fits"] == fits]), places, mark, low)
    for state, symbol in ((STOPPED, "circle-open"), (FAILED, "x-thin-open")):
        _trials(figure, table[table["state"] == state], places, Mark(state, symbol, GREY, 8), low)
    best = table[table["best"].notna()]
    _steps(figure, 1, ("best so far", BLUE), places[best.index], clipped(best["best"], low))
    if not math.isnan(level):
        line = {"color": ORANGE, "dash": "dot", "width": 1.5}
        height = scale() * max(level, low)
        figure.add_hline(height, name="uniform", line=line, row=1, col=1)  # type: ignore[arg-type]
    _steps(figure, 2, ("hypervolume", TEAL), places, list(scale() * table["hypervolume"]))
    figure.update_yaxes(accuracy_axis(low, high), row=1)
    most = scale() * max([0.0, *table["hypervolume"]])
    figure.update_yaxes(range=[0, 1.08 * most or 1.0], title="hypervolume", row=2, nticks=4)
    last = max([0.0, *places]) or 1.0
    figure.update_xaxes(range=[-0.02 * last, 1.02 * last])
    figure.update_xaxes(title=title, row=2)
    return styled(figure, 500, top=12)


def axis_of(values: "pd.Series[float]", against: str) -> tuple[float, str]:
    """The unit of the axis of cost, and its title.

    Example:
        >>> axis_of(pd.Series([10.0, 7200.0]), SECONDS)
        (3600.0, 'hours of training')
    """
    if against == TRAININGS:
        return 1.0, "full trainings' worth of images"
    last = max([0.0, *values])
    unit, name = (3600.0, "hours") if last >= 7200 else (60.0, "minutes") if last >= 120 else (1.0, "seconds")
    return unit, f"{name} of training"


def _steps(figure: go.Figure, row: int, style: tuple[str, str], x: "pd.Series[float]", y: list[float]) -> None:
    if not len(y):
        return
    name, color = style
    line: Any = {"color": color, "width": 2.5, "shape": "hv"}
    figure.add_scatter(x=x, y=y, mode="lines", name=name, line=line, hoverinfo="skip", row=row, col=1)


def _trials(figure: go.Figure, part: pd.DataFrame, places: "pd.Series[float]", mark: Mark, low: float) -> None:
    if part.empty:
        return
    values = part["val_accuracy"].astype(float).fillna(low)  # what failed has none, and stands on the edge
    figure.add_scatter(
        x=places[part.index],
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
        customdata=[[trial_hover(record), record["trial"]] for record in part.to_dict("records")],
        hovertemplate=HOVER,
        row=1,
        col=1,
    )
