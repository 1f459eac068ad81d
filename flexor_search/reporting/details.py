"""The page's tables and bars of details: layers, bytes, how it was made.

Every text that comes from a user is escaped here.
"""

from typing import Any

import pandas as pd

from flexor_search.asking import GIVEN
from flexor_search.reporting.command import copied, search_command
from flexor_search.reporting.words import NOTHING, duration, escaped, listed
from flexor_search.runs import DONE, FAILED, STOPPED, Run


def parts(table: pd.DataFrame) -> str:
    """Where the bytes of each file go, as one bar a budget."""
    known_parts = list(dict.fromkeys(table["part"]))
    bars = []
    for budget, same in table.groupby("budget", sort=False):
        total = round(same["file_bytes"].sum())
        rows = [(row["part"], row["file_bytes"]) for row in same.to_dict("records")]
        style = {part: f"--part:var(--part-{known_parts.index(part) % 7})" for part, _ in rows}
        slices = "".join(f'<i style="{style[part]};width:{100 * n / max(total, 1):.2f}%"></i>' for part, n in rows)
        key = "".join(
            f'<tr><td class="l"><span class="swatch" style="{style[part]}"></span>{part}</td><td>{_bytes(n)}</td>'
            f"<td>{_share(n, total)}</td></tr>"
            for part, n in rows
        )
        bars.append(
            f"<div><h3>{escaped(budget)}: {total:,} bytes</h3>"
            f'<div class="bar" aria-hidden="true">{slices}</div><table class="wide parts">{key}</table></div>'
        )
    return f'<div class="split">{"".join(bars)}</div>'


def economies(table: pd.DataFrame) -> str:
    """What each economy of the files saves in each of them, and whether it changes a logit of any."""
    budgets, lines = list(dict.fromkeys(table["budget"])), []
    for what, same in table.groupby("what", sort=False):
        saved = dict(zip(same["budget"], same["saved_bytes"], strict=True))
        cells = "".join(f"<td>{saved[budget]:,}</td>" if budget in saved else "<td></td>" for budget in budgets)
        lines.append(f'<tr><td class="l">{escaped(what)}</td>{cells}<td>{_change(same)}</td></tr>')
    names = budgets if len(budgets) > 1 else ["bytes saved"]
    heads = "".join(f"<th>{escaped(name)}</th>" for name in names)
    return (
        '<div class="scroll"><table class="wide" id="economies"><thead><tr><th class="l">economy</th>'
        f"{heads}<th>logits</th></tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _change(same: pd.DataFrame) -> str:
    """The largest change that an economy made; one that is too large with the files that it concerns."""
    off = same[~same["within"].astype(bool)]
    if len(off):
        where = f" ({', '.join(off['budget'])})" if len(same) > 1 else ""
        return f'<span class="bad">off by {off["logit_difference"].max():.1e}{escaped(where)}</span>'
    return "equal bit for bit" if (same["tolerance"] == 0).all() else f"within {same['logit_difference'].max():.1e}"


def made(run: Run) -> str:
    """How the run was made: question, recipe, machine, versions, fingerprint."""
    question = {name: value for name, value in run.question.items() if not isinstance(value, dict)}
    if question.get("budgets"):
        question.pop("budget", None)  # the same, as it was typed
    for name in ("epochs", "trials"):
        if question.get(name) == 0:
            question.pop(name)  # the recipe's, the strategy's
    if (followed := (run.summary() or {}).get("strategy", "")) not in ("", question.get("strategy")):
        question["strategy"] = f"{question.get('strategy', '')}: {followed}"
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
    objects = [name for name in ("model", "data") if str(run.question.get(name, "")).startswith(GIVEN)]
    asked = (
        f'<p class="note">Asked in Python: the {listed(objects)} {"were" if len(objects) > 1 else "was"} given as an '
        "object, which no command can name.</p>"
        if objects
        else copied(search_command(run))
    )
    return f'{asked}<div class="groups">{"".join(blocks)}</div>'


def workers(table: pd.DataFrame) -> str:
    """Trainings by phase, worker and state."""
    many = table["worker"].nunique() > 1
    lines = []
    for row in table.to_dict("records"):
        who = f'<td class="l">{escaped(row["worker"] or "this process")}</td>' if many else ""
        states = "".join(f"<td>{row[state] or NOTHING}</td>" for state in (DONE, STOPPED, FAILED))
        lines.append(
            f'<tr><td class="l">{escaped(row["phase"])}</td>{who}{states}<td>{duration(row["seconds"])}</td></tr>'
        )
    head = '<th class="l">worker</th>' if many else ""
    return (
        f'<div class="scroll"><table id="workers"><thead><tr><th class="l">phase</th>{head}<th>done</th>'
        f"<th>stopped early</th><th>failed</th><th>training time</th></tr></thead><tbody>{''.join(lines)}</tbody>"
        "</table></div>"
    )


def _bytes(number: float) -> str:
    return f"{number:,.0f}" if number == round(number) else f"{number:,.2f}"


def _share(number: float, total: float) -> str:
    percents = 100 * number / max(total, 1)
    return (
        f"{percents:.0f} %"
        if percents >= 0.95 or not number
        else f"{percents:.1f} %"
        if percents >= 0.05
        else "&lt; 0.1 %"
    )


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _spaced(name: str) -> str:
    return escaped(name.replace("_", " "))
