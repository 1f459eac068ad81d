"""plotly figures from the tables. No numbers are made here."""

import html
from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from flexor_search.reporting.tables import FULL
from flexor_search.runs import CONFIRM, SEARCH

ACCENT, MUTED, UNIFORM, RULE = "#1f77d0", "#9aa3ad", "#e07b00", "#7a5cc9"
_INK = "#808890"  # readable on light and on dark
_HOVER = "<b>%{customdata[0]}</b><br>%{customdata[1]}<extra></extra>"


def pareto(points: pd.DataFrame, front: pd.DataFrame, budgets: list[dict[str, Any]]) -> go.Figure:
    """Validation accuracy against stored bits per weight: all trials, both fronts, uniform models, full precision.

    Args:
        points: `tables.points`.
        front: `tables.front`.
        budgets: the summary's entries; those in bits per weight are drawn as lines, chosen models are ringed.
    """
    figure = go.Figure()
    small = points[points["kind"] != FULL]
    search, confirmed = (small[small["fidelity"] == fidelity] for fidelity in (SEARCH, CONFIRM))
    groups = (
        ("search trial", search[search["kind"] == "proposed"], MUTED, "circle", 6),
        ("rule of thumb", search[search["kind"].str.startswith("size rule")], RULE, "diamond", 7),
        ("uniform", search[search["kind"] == "uniform"], UNIFORM, "square", 7),
        ("confirmed", confirmed[confirmed["kind"] != "uniform"], ACCENT, "circle", 11),
        ("uniform, confirmed", confirmed[confirmed["kind"] == "uniform"], UNIFORM, "square", 11),
    )
    lines = (("front of the search", SEARCH, MUTED, "dot"), ("front, confirmed", CONFIRM, ACCENT, "solid"))
    for name, fidelity, color, dash in lines:
        part = front[front["fidelity"] == fidelity]
        if len(part) > 1:
            line = {"color": color, "dash": dash, "width": 1.5, "shape": "hv"}
            figure.add_scatter(
                x=part["bits_per_weight"],
                y=100 * part["val_accuracy"],
                mode="lines",
                name=name,
                line=line,
                hoverinfo="skip",
            )
    for name, part, color, symbol, size in groups:
        if len(part):
            figure.add_scatter(
                x=part["bits_per_weight"],
                y=100 * part["val_accuracy"],
                mode="markers",
                name=name,
                marker={"color": color, "symbol": symbol, "size": size},
                error_y={"type": "data", "array": 100 * part["val_std"].fillna(0), "thickness": 1, "color": color}
                if part["val_std"].notna().any()
                else None,
                customdata=[_hover(row) for row in part.to_dict("records")],
                hovertemplate=_HOVER,
            )
    full = points[points["kind"] == FULL]
    if len(full):
        text = f"full precision, {100 * full['val_accuracy'].iloc[0]:.2f} %"
        figure.add_hline(
            100 * float(full["val_accuracy"].iloc[0]),
            line={"color": _INK, "dash": "dash", "width": 1},
            annotation={"text": text, "font": {"color": _INK}, "xanchor": "left"},
            annotation_position="top left",
        )
    for entry in budgets:
        if entry["budget"].endswith("bpw") and float(entry["budget"][:-3]) <= 2 * small["bits_per_weight"].max():
            figure.add_vline(float(entry["budget"][:-3]), line={"color": _INK, "dash": "dot", "width": 1})
    low = max(small["val_accuracy"].quantile(0.1), small["val_accuracy"].max() - 0.2) if len(small) else 0.0
    top = max([*points["val_accuracy"], 0.01])
    margin = max(top - low, 0.005) * 0.15
    figure.update_yaxes(
        title="validation accuracy, %", range=[100 * (low - margin), min(100 * (top + 1.6 * margin), 100.5)]
    )
    figure.update_xaxes(title="stored bits per weight", rangemode="tozero")
    return _styled(figure, 460)


def rates(layer_rates: pd.DataFrame) -> go.Figure:
    """Rate of each layer of the chosen models, layers in network order."""
    order = list(dict.fromkeys(layer_rates["layer"]))
    names = list(dict.fromkeys(layer_rates["budget"]))
    cell = {(row["budget"], row["layer"]): row for row in layer_rates.to_dict("records")}
    figure = go.Figure(
        go.Heatmap(
            x=[html.escape(name) for name in order],
            y=names,
            z=[[cell[(name, layer)]["rate"] for layer in order] for name in names],
            text=[[cell[(name, layer)]["label"] for layer in order] for name in names],
            texttemplate="%{text}",
            colorscale="Blues",
            zmin=0,
            zmax=max(1.0, layer_rates["rate"].max()) if layer_rates["rate"].notna().any() else 1.0,
            colorbar={"title": {"text": "bits per weight"}, "thickness": 10},
            hovertemplate="%{y}, %{x}: %{text}<extra></extra>",
            xgap=2,
            ygap=2,
        )
    )
    kept = [(name, layer) for name in names for layer in order if cell[(name, layer)]["label"] == "kept"]
    for name, layer in kept:
        figure.add_annotation(x=html.escape(layer), y=name, text="kept", showarrow=False, font={"color": _INK})
    figure.update_yaxes(autorange="reversed", title="budget", type="category", showgrid=False)
    figure.update_xaxes(type="category", showgrid=False)
    return _styled(figure, 150 + 46 * len(names))


def gains(progress: pd.DataFrame) -> go.Figure:
    """Gain over uniform at equal bits of every search training, and the best so far."""
    figure = go.Figure()
    done = progress[progress["gain"].notna()]
    figure.add_scatter(
        x=done["trial"],
        y=100 * done["gain"],
        mode="markers",
        name="trial",
        marker={"color": MUTED, "size": 6},
        customdata=[[html.escape(row["label"]), html.escape(row["kind"])] for row in done.to_dict("records")],
        hovertemplate=_HOVER,
    )
    best = progress[progress["best_gain"].notna()]
    figure.add_scatter(
        x=best["trial"],
        y=100 * best["best_gain"],
        mode="lines",
        name="best so far",
        line={"color": ACCENT, "shape": "hv"},
        hoverinfo="skip",
    )
    if len(done):
        low = float(done["gain"].quantile(0.1))
        high = float(done["gain"].max())
        margin = max(high - low, 0.005) * 0.2
        figure.update_yaxes(range=[100 * (low - margin), 100 * (high + margin)])
    figure.update_yaxes(title="points over uniform")
    figure.update_xaxes(title="training of the search")
    return _styled(figure, 320)


def _hover(row: Mapping[Any, Any]) -> list[str]:
    spread = f" ± {100 * row['val_std']:.2f}" if row["seeds"] > 1 else ""
    lines = (
        f"{html.escape(row['kind'])}, {row['fidelity']}, {row['seeds']} seed{'s' if row['seeds'] > 1 else ''}",
        f"{100 * row['val_accuracy']:.2f}{spread} % validation accuracy",
        f"{row['bits_per_weight']:g} bits per weight, {row['payload_bits']:,} bits in all, {row['file_bytes']:,} bytes",
    )
    return [html.escape(row["label"]), "<br>".join(lines)]


def _styled(figure: go.Figure, height: int) -> go.Figure:
    figure.update_layout(
        template="none",
        height=height,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13, "color": _INK},
        margin={"l": 64, "r": 16, "t": 16, "b": 52},
        legend={"orientation": "h", "y": -0.2, "x": 0},
        hoverlabel={"align": "left"},
    )
    figure.update_xaxes(gridcolor="rgba(128,136,144,0.2)", zeroline=False, automargin=True)
    figure.update_yaxes(gridcolor="rgba(128,136,144,0.2)", zeroline=False, automargin=True)
    return figure
