"""The rate of every layer of the chosen models: a strip for each budget, and the same as a table.

Every text that comes from a user is escaped here.
"""

from typing import Any

import pandas as pd

from flexor_search.reporting.words import escaped

_MANY = 40
"""Layers beyond which those of a strip touch, or it would be wider than a telephone."""


def strips(rates: pd.DataFrame, sizes: pd.DataFrame) -> str:
    """The heat map over budgets: a strip for each, layers in network order, as wide as they have weights.

    Args:
        rates: `results.layer_rates`.
        sizes: `shipped.layer_sizes`; where it is empty, all layers are as wide.
    """
    most = max([1.0, *rates["rate"].dropna()])
    weights = {row["layer"]: row["weights"] for row in sizes.to_dict("records")}
    lines = []
    for budget, same in rates.groupby("budget", sort=False):
        cells = "".join(_piece(row, weights.get(row["layer"], 1), most) for row in same.to_dict("records"))
        name = f'<th class="l" scope="row">{escaped(budget)}</th>'
        dense = " many" if len(same) > _MANY else ""
        lines.append(f'<tr>{name}<td><div class="strip{dense}">{cells}</div></td></tr>')
    ends = "".join(f'<i style="--share:{share / 4:.2f}"></i>' for share in range(5))
    unit = "bit" if most == 1 else "bits"
    scale = f'0 {ends} {most:g} {unit} per weight <i class="kept"></i> kept'
    return (
        f'<table class="strips" id="strips"><tbody>{"".join(lines)}</tbody></table>'
        f'<p class="scale note" aria-hidden="true">{scale}</p>'
    )


def layers(rates: pd.DataFrame, sizes: pd.DataFrame) -> str:
    """The heat map of rates: a row for each layer in network order, a column for each budget."""
    names = list(dict.fromkeys(rates["layer"]))
    budgets = list(dict.fromkeys(rates["budget"]))
    most = max([1.0, *rates["rate"].dropna()])
    weights = {row["layer"]: row["weights"] for row in sizes.to_dict("records")}
    stored = {(row["budget"], row["layer"]): row["layer_bytes"] for row in sizes.to_dict("records")}
    cell = {(row["budget"], row["layer"]): row for row in rates.to_dict("records")}
    lines = []
    for name in names:
        cells = "".join(_rate(cell[budget, name], stored.get((budget, name)), most) for budget in budgets)
        many = f'<td class="n">{weights[name]:,}</td>' if name in weights else '<td class="n"></td>'
        lines.append(f'<tr><th class="l" scope="row">{escaped(name or "(model)")}</th>{many}{cells}</tr>')
    heads = "".join(f'<th scope="col" style="text-align:center">{escaped(budget)}</th>' for budget in budgets)
    return (
        '<div class="scroll"><table class="heat" id="rates"><thead><tr><th class="l">layer</th>'
        f'<th style="text-align:right">{"weights" if weights else ""}</th>{heads}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _piece(row: dict[Any, Any], weights: int, most: float) -> str:
    kept = row["label"] == "kept"
    share = 0.0 if kept else row["rate"] / most
    title = escaped(f"{row['layer'] or '(model)'}: {row['label']}" + (f", {weights:,} weights" if weights > 1 else ""))
    return (
        f'<div class="piece{" kept" if kept else ""}" style="flex-grow:{weights};--share:{share:.3f}" title="{title}">'
        f"<span>{escaped(row['label'])}</span></div>"
    )


def _rate(row: dict[Any, Any], stored: int | None, most: float) -> str:
    if row["label"] == "kept":
        detail = "" if row["searched"] else "not searched"
        style, share = "rate kept", 0.0
    else:
        detail = f"{row['rate']:.3g} bits"
        style, share = "rate", row["rate"] / most
    below = f"{stored:,} bytes" if stored is not None else detail
    title = escaped(", ".join(part for part in (row["layer"], row["label"], detail) if part))
    return (
        f'<td><div class="{style}" style="--share:{share:.3f}" title="{title}">{escaped(row["label"])}'
        f"<small>{below or '&nbsp;'}</small></div></td>"
    )
