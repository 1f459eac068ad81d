"""The report: one self-contained HTML file that works offline, and the front as CSV.

Text, tables and bars are plain HTML, there before any script has run; two figures are plotly's, whose library is in the
file once. A content security policy forbids the page to fetch anything.
"""

from collections import Counter
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flexor_search.files import write_atomically
from flexor_search.reporting import details, outcome, tables
from flexor_search.reporting.key import key
from flexor_search.reporting.results import layer_rates, result_rows
from flexor_search.reporting.shipped import economies, file_parts, layer_sizes
from flexor_search.reporting.words import escaped
from flexor_search.runs import DONE, FAILED, STOPPED, Run

if TYPE_CHECKING:
    import plotly.graph_objects as go

_ENDED = {STOPPED: "stopped early as weak", FAILED: "failed"}
_LABELS = {
    "pareto": "Validation accuracy against stored bits per weight",
    "progress": "Validation accuracy of every trial, and the best so far",
}
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"


def write_report(run: Run) -> Path:
    """Write report.html and front.csv of a run, at any time while it goes on or after it.

    Returns:
        The report's path.

    Raises:
        RunError: the folder cannot be written, or its summary.json is damaged.
    """
    write_atomically(run.folder / "front.csv", tables.front(run).to_csv(index=False, lineterminator="\n").encode())
    path = run.folder / "report.html"
    write_atomically(path, render(run).encode())
    return path


def render(run: Run) -> str:
    """The report's HTML."""
    summary = run.summary()
    rows = result_rows(summary)
    body = [outcome.heading(run, summary), *_outcomes(rows)]
    if rows:
        body.append(_section("Beside uniform and full precision", outcome.results(rows)))
    body += [_pareto(run, summary), _layers(summary), _economies(summary), _progress(run)]
    body.append(_section("How it was made", details.made(run)))
    body.append(_section("All measurements", details.trainings(run), "measurements"))
    return _document(f"{outcome.subject(run)}: flexor-search", "\n".join(filter(None, body)))


def _document(title: str, body: str) -> str:
    from plotly.offline import get_plotlyjs

    own = files("flexor_search.reporting")
    css, script = (own.joinpath(name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    scripts = f"<script>{get_plotlyjs()}</script>\n<script>{script}</script>\n" if 'class="plot"' in body else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
        f"<title>{escaped(title)}</title>\n<style>\n{css}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n{scripts}</body>\n</html>\n"
    )


def _outcomes(rows: list[dict[str, Any]]) -> list[str]:
    budgets: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        budgets.setdefault(row["budget"], {})[row["model"]] = row
    return [outcome.outcome(models[tables.CHOSEN], models) for models in budgets.values()]


def _pareto(run: Run, summary: dict[str, Any] | None) -> str:
    points = tables.points(run)
    if points.empty:
        return ""
    from flexor_search.reporting import figures

    budgets = [str(budget) for budget in run.question.get("budgets") or []]
    chosen = tables.chosen_digests(run, summary)
    figure = figures.pareto(points, tables.front(run), budgets, chosen)
    both = points["fidelity"].nunique() > 1
    notes = [
        "The search's trainings are shorter, so the two panels do not compare with each other." if both else "",
        "Bars: one standard deviation over seeds." if points["val_std"].notna().any() else "",
        _not_drawn(run),
    ]
    text = (
        "<p>How accurate a model of so many stored bits is. The front is the best that was found up to each size.</p>"
    )
    return _section("Accuracy against size", text + _figure(figure, "pareto", notes))


def _layers(summary: dict[str, Any] | None) -> str:
    rates = layer_rates(summary)
    if rates.empty:
        return ""
    sizes = layer_sizes(summary)
    text = (
        "<p>Layers in network order. 12/20 stores 12 bits for every 20 weights; the stronger the color, the more bits "
        "per weight. Kept layers are not encrypted.</p>"
    )
    rate = _section("The rate of each layer", text + details.layers(rates, sizes))
    parts = file_parts(summary)
    if parts.empty:
        return rate
    text = "<p>Everything in the file.</p>"
    return f'<div class="pair">{rate}{_section("Where the bytes go", text + details.parts(parts))}</div>'


def _economies(summary: dict[str, Any] | None) -> str:
    table = economies(summary)
    if table.empty:
        return ""
    text = "<p>What each economy of the file saves, and by how much of the largest logit it moves any logit.</p>"
    return _section("Smaller for nothing", text + details.economies(table))


def _progress(run: Run) -> str:
    table = tables.progress(run)
    if not ((table["state"] == DONE) & table["val_accuracy"].notna()).any():
        return ""
    from flexor_search.reporting import figures

    level = tables.uniform_level(table)
    figure = figures.progress(table, level)
    budget = str((run.question.get("budgets") or ["no limit"])[0])
    pale = "" if table["fits"].all() else " Trials over that budget are pale."
    text = f"<p>Every training of the search in turn, and the best so far within {escaped(budget)}.{pale}</p>"
    return _section("Progress of the search", text + _figure(figure, "progress", []))


def _not_drawn(run: Run) -> str:
    states = Counter(m.state for m in run.measurements)
    parts = [f"{states[state]} {words}" for state, words in _ENDED.items() if states[state]]
    return f"Not drawn: {' and '.join(parts)}." if parts else ""


def _figure(figure: "go.Figure", name: str, notes: list[str]) -> str:
    body = figure.to_json()
    assert body is not None
    body = body.replace("<", "\\u003c")  # no text in it may end the script
    caption = " ".join(filter(None, [*notes, "Drag to zoom, double-click to go back."]))
    return (
        f'<figure>{key(figure)}<div class="plot" id="{name}" role="img" aria-label="{_LABELS[name]}"></div>'
        f'<script type="application/json" id="{name}-data">{body}</script>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _section(title: str, body: str, name: str = "") -> str:
    return f"<section{f' id={name}' if name else ''}><h2>{title}</h2>\n{body}</section>"
