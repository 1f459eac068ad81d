"""Fronts of several runs laid over each other, and what each search bought for its effort."""

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from flexor_search.reporting.drawing import HOVER, accuracy_axis, accuracy_range, clipped, point_hover, styled
from flexor_search.reporting.drawing import text_in_plot as plain
from flexor_search.reporting.front_figure import PANEL_TITLES, band
from flexor_search.reporting.front_lines import panel_title
from flexor_search.reporting.progress_figure import TRAININGS, axis_of
from flexor_search.reporting.words import scale
from flexor_search.runs import CONFIRM, SEARCH

COLORS = ("#2f80d8", "#d97a14", "#0f9d8a", "#c9458f", "#8a63d2", "#7d8c1f", "#c0503c", "#8f99a3")
"""Each readable on white and on near-black; more runs than these begin again, with another symbol."""
_SYMBOLS = ("circle", "square", "diamond")


def fronts(table: pd.DataFrame) -> go.Figure:
    """The front of each run, a panel for each fidelity; a band where it was confirmed with several seeds.

    Args:
        table: `comparison.fronts`.
    """
    panels = [fidelity for fidelity in (CONFIRM, SEARCH) if (table["fidelity"] == fidelity).any()]
    rows = max(len(panels), 1)
    figure = make_subplots(rows=rows, shared_xaxes=True, vertical_spacing=0.11)
    widest = 1.06 * max([0.01, *table["bits_per_weight"]])
    names = list(dict.fromkeys(table["run"]))
    for row, fidelity in enumerate(panels, start=1):
        same = table[table["fidelity"] == fidelity]
        low, high = accuracy_range(same["val_accuracy"], [])
        for number, name in enumerate(names):
            own = same[same["run"] == name]
            if len(own):
                band(figure, row, own, widest, COLORS[number % len(COLORS)])
                _front(figure, row, own, number, (low, widest))
        figure.update_yaxes(accuracy_axis(low, high), row=row)
        panel_title(figure, row, PANEL_TITLES[fidelity])
    figure.update_xaxes(range=[0, widest])
    figure.update_xaxes(title="stored bits per weight", row=rows)
    return styled(figure, 660 if rows > 1 else 420)


def hypervolume_curves(table: pd.DataFrame, against: str = TRAININGS) -> go.Figure:
    """Hypervolume of each run's search against its cost.

    Args:
        table: `comparison.curves`.
        against: TRAININGS or SECONDS.
    """
    figure = go.Figure()
    unit, title = axis_of(table[against], against)
    for number, (name, own) in enumerate(table.groupby("run", sort=False)):
        line = {"color": COLORS[number % len(COLORS)], "width": 2.2, "shape": "hv"}
        hover = [plain(name)] * len(own)
        figure.add_scatter(
            x=own[against] / unit,
            y=scale() * own["hypervolume"],
            mode="lines",
            name=str(name),
            line=line,
            customdata=[[text, -1] for text in hover],
            hovertemplate="%{customdata[0]}: %{y:.3g} after %{x:.3g}<extra></extra>",
        )
    figure.update_xaxes(title=title, rangemode="tozero")
    figure.update_yaxes(title="hypervolume", rangemode="tozero", nticks=6)
    return styled(figure, 330, top=12)


def _front(figure: go.Figure, row: int, own: pd.DataFrame, number: int, ends: tuple[float, float]) -> None:
    low, widest = ends
    color, name = COLORS[number % len(COLORS)], str(own["run"].iloc[0])
    y = clipped(own["val_accuracy"], low)
    figure.add_scatter(
        x=[*own["bits_per_weight"], widest],
        y=[*y, *y[-1:]],
        mode="lines",
        name=name,
        line={"color": color, "width": 2, "shape": "hv"},
        hoverinfo="skip",
        row=row,
        col=1,
    )
    records = own.assign(trial="").to_dict("records")
    figure.add_scatter(
        x=own["bits_per_weight"],
        y=y,
        mode="markers",
        name="",
        marker={"color": color, "symbol": _SYMBOLS[number // len(COLORS) % len(_SYMBOLS)], "size": 8},
        customdata=[[f"<b>{plain(name)}</b><br>{point_hover(record)}", -1] for record in records],
        hovertemplate=HOVER,
        cliponaxis=False,
        row=row,
        col=1,
    )
