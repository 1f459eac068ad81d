"""The page's tables and bars of details: layers, bytes, how it was made, all trainings.

Every text that comes from a user is escaped here.
"""

import math
from typing import Any

import pandas as pd

from flexor_search.reporting.words import count, escaped, percent
from flexor_search.runs import Run

_TRAINING_COLUMNS = {
    "number": "trial",
    "phase": "phase",
    "kind": "kind",
    "label": "rates",
    "bits_per_weight": "bits per weight",
    "file_bytes": "file bytes",
    "seed": "seed",
    "epochs": "epochs",
    "state": "state",
    "val_accuracy": "validation %",
    "val_loss": "validation loss",
    "train_seconds": "seconds",
    "reason": "reason",
}


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


def parts(table: pd.DataFrame) -> str:
    """Where the bytes of each file go, as one bar a budget."""
    known_parts = list(dict.fromkeys(table["part"]))
    bars = []
    for budget, same in table.groupby("budget", sort=False):
        total = int(same["file_bytes"].sum())
        rows = [(row["part"], row["file_bytes"]) for row in same.to_dict("records")]
        style = {part: f"--part:var(--part-{known_parts.index(part) % 5})" for part, _ in rows}
        slices = "".join(f'<i style="{style[part]};width:{100 * n / max(total, 1):.2f}%"></i>' for part, n in rows)
        key = "".join(
            f'<tr><td class="l"><span class="swatch" style="{style[part]}"></span>{part}</td><td>{n:,}</td>'
            f"<td>{100 * n / max(total, 1):.0f} %</td></tr>"
            for part, n in rows
        )
        bars.append(
            f"<div><h3>{escaped(budget)}: {total:,} bytes</h3>"
            f'<div class="bar" aria-hidden="true">{slices}</div><table class="wide parts">{key}</table></div>'
        )
    return f'<div class="split">{"".join(bars)}</div>'


def economies(table: pd.DataFrame) -> str:
    """What each economy of the files saves, and whether it changes a logit."""
    several, lines = table["budget"].nunique() > 1, []
    for row in table.to_dict("records"):
        change = "equal bit for bit" if row["tolerance"] == 0 else f"within {row['logit_difference']:.1e}"
        if not row["within"]:
            change = f'<span class="bad">off by {row["logit_difference"]:.1e}</span>'
        budget = f'<td class="l">{escaped(row["budget"])}</td>' if several else ""
        saved = f"<td>{row['saved_bytes']:,}</td><td>{change}</td>"
        lines.append(f'<tr>{budget}<td class="l">{escaped(row["what"])}</td>{saved}</tr>')
    head = '<th class="l">budget</th>' if several else ""
    return (
        f'<div class="scroll"><table class="wide" id="economies"><thead><tr>{head}<th class="l">economy</th>'
        f"<th>bytes saved</th><th>logits</th></tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def made(run: Run) -> str:
    """How the run was made: question, recipe, machine, versions, fingerprint."""
    question = {name: value for name, value in run.question.items() if not isinstance(value, dict)}
    if question.get("budgets"):
        question.pop("budget", None)  # the same, as it was typed
    if question.get("epochs") == 0:
        question.pop("epochs")  # those of the recipe
    groups = {"question": question}
    groups |= {name: value for name, value in run.question.items() if isinstance(value, dict)}
    groups["fingerprint"] = run.fingerprint
    blocks = []
    for name, group in groups.items():
        shown = {key: value for key, value in group.items() if value not in ("", [], None)}
        lines = "".join(f"<dt>{_spaced(key)}</dt><dd>{escaped(_plain(value))}</dd>" for key, value in shown.items())
        if lines:
            title = _spaced(name.removesuffix("_fields"))
            blocks.append(f"<div><h3>{title[:1].upper()}{title[1:]}</h3><dl>{lines}</dl></div>")
    return f'<div class="groups">{"".join(blocks)}</div>'


def trainings(run: Run) -> str:
    """Every training of the run."""
    lines = []
    for row in run.frame().to_dict("records"):
        row["val_accuracy"] = percent(row["val_accuracy"])
        cells = []
        for name in _TRAINING_COLUMNS:
            value = row[name]
            if isinstance(value, float):
                value = "" if math.isnan(value) else f"{value:.4g}"
            style = {"label": ' class="l rates"', "kind": ' class="l"', "reason": ' class="l rates"'}.get(name, "")
            cells.append(f"<td{style}>{escaped(value)}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    left = ("label", "kind", "reason")
    heads = "".join(f"<th{' class=l' if name in left else ''}>{head}</th>" for name, head in _TRAINING_COLUMNS.items())
    return (
        f"<details><summary>Show {count(len(lines), 'training')}</summary>"
        f'<div class="scroll"><table class="all"><thead><tr>{heads}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
        "</div></details>"
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


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _spaced(name: str) -> str:
    return escaped(name.replace("_", " "))
