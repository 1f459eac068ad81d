"""Per-layer sensitivity as HTML: bars of the fit, or a heat map of the run's own table."""

import math
from typing import Any

import pandas as pd

from flexor_search.reporting.sensitivity import FIT
from flexor_search.reporting.words import MINUS, escaped, known, percent


def sensitivity(source: str, table: pd.DataFrame) -> str:
    """The sensitivities.

    Args:
        source, table: from `sensitivity.sensitivity`.
    """
    return _bars(table) if source == FIT else _map(table)


def _bars(table: pd.DataFrame) -> str:
    ends = [*(table["loss"] + table["error"]), *(table["loss"] - table["error"]), 0.0]
    low, high = min(ends), max(ends)
    spread = (high - low) or 1.0

    def place(value: float) -> str:
        return f"{100 * (value - low) / spread:.2f}%"

    lines = []
    for row in table.to_dict("records"):
        loss, error = float(row["loss"]), float(row["error"])
        begin, end = sorted((0.0, loss))
        bar = (
            f'<div class="gauge"><i class="zero" style="left:{place(0)}"></i>'
            f'<b style="left:{place(begin)};width:{100 * (end - begin) / spread:.2f}%"></b>'
            f'<i class="whisker" style="left:{place(loss - error)};width:{100 * 2 * error / spread:.2f}%"></i></div>'
        )
        lines.append(
            f'<tr><th class="l" scope="row">{escaped(row["layer"] or "(model)")}</th><td class="wideest">{bar}</td>'
            f"<td>{_signed(100 * loss)} ± {100 * error:.0f} %</td></tr>"
        )
    table_html = f'<table class="wide sensitivity" id="sensitivity"><tbody>{"".join(lines)}</tbody></table>'
    return f'<div class="scroll">{table_html}</div>'


def _map(table: pd.DataFrame) -> str:
    rates = list(dict.fromkeys(table["rate"]))
    most = max([1e-9, *table["loss"]])
    cell = {(row["layer"], row["rate"]): row for row in table.to_dict("records")}
    lines = []
    for layer in dict.fromkeys(table["layer"]):
        cells = "".join(_cell(cell.get((layer, rate)), most) for rate in rates)
        lines.append(f'<tr><th class="l" scope="row">{escaped(layer or "(model)")}</th>{cells}</tr>')
    heads = "".join(f'<th scope="col" style="text-align:center">{escaped(rate)}</th>' for rate in rates)
    return (
        '<div class="scroll"><table class="heat small" id="sensitivity"><thead><tr><th class="l">layer</th>'
        f"{heads}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _cell(row: dict[Any, Any] | None, most: float) -> str:
    if row is None:
        return "<td></td>"
    share = min(max(row["loss"] / most, 0.0), 1.0)
    error = f"<small>± {percent(row['error'])}</small>" if known(row["error"]) else ""
    loss = percent(row["loss"]).replace("-", MINUS)
    return f'<td><div class="rate" style="--share:{share:.3f}">{loss}{error}</div></td>'


def _signed(value: float) -> str:
    return f"{value:+.0f}".replace("-", MINUS) if not math.isnan(value) else ""
