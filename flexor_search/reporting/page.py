"""The report: one self-contained HTML file that works offline, and the front as CSV."""

import html
import json
import math
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from flexor_search.files import write_atomically
from flexor_search.reporting import figures, tables
from flexor_search.runs import Run

_CSS = """
:root{color-scheme:light dark;--ink:#1c2126;--soft:#69727b;--line:#dfe3e7;--paper:#fff;--card:#f6f8fa;--accent:#1f77d0}
@media (prefers-color-scheme:dark){:root{--ink:#e6e9ec;--soft:#98a1aa;--line:#32383e;--paper:#14171a;--card:#1d2125;
--accent:#6db3f8}}
*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1080px;margin:0 auto;padding:28px 20px 60px}h1{font-size:26px;margin:0 0 4px}h2{font-size:18px;
margin:38px 0 8px}p{margin:4px 0;color:var(--soft);max-width:75ch}.cards{display:grid;gap:14px;margin:18px 0;
grid-template-columns:repeat(auto-fit,minmax(250px,1fr))}.card{background:var(--card);border:1px solid var(--line);
border-radius:10px;padding:16px 18px}.card b{display:block;font-size:30px;line-height:1.2}.card span{color:var(--soft)}
.card .good{color:#1b8f4d}.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;
font-size:14px}th,td{padding:6px 10px;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
th{color:var(--soft);font-weight:500}th.l,td.l{text-align:left}tr.chosen{font-weight:600}code{font:13px ui-monospace,
monospace;overflow-wrap:anywhere}dl{display:grid;grid-template-columns:max-content 1fr;gap:4px 18px;margin:8px 0}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}details summary{cursor:pointer;color:var(--accent)}
@media (max-width:600px){main{padding:18px 12px 40px}dl{grid-template-columns:1fr}dt{margin-top:6px}}
@media print{details{display:none}main{max-width:none}}
"""
_TABLE_COLUMNS = (
    "number",
    "phase",
    "kind",
    "label",
    "bits_per_weight",
    "file_bytes",
    "seed",
    "state",
    "val_accuracy",
    "val_loss",
    "train_seconds",
    "reason",
)


def write_report(run: Run) -> Path:
    """Write report.html and front.csv of a run, at any time while it goes on or after it.

    Returns:
        The report's path.

    Raises:
        RunError: the folder cannot be written.
    """
    write_atomically(run.folder / "front.csv", tables.front(run).to_csv(index=False, lineterminator="\n").encode())
    path = run.folder / "report.html"
    write_atomically(path, page(run).encode())
    return path


def page(run: Run) -> str:
    """The report's HTML."""
    summary, points = run.summary(), tables.points(run)
    budgets = (summary or {}).get("budgets", [])
    parts = [_heading(run, summary), _cards(tables.result_rows(summary)), _results(summary)]
    if len(points):
        parts.append("<h2>Accuracy against size</h2>")
        parts.append(
            "<p>Large marks are trained in full, with several seeds (bars: one standard deviation); small ones are the "
            "search's shorter trainings. The two do not compare with each other.</p>"
        )
        parts.append(_plot(figures.pareto(points, tables.front(run), budgets), "pareto"))
    if budgets:
        parts.append("<h2>Rate of each layer</h2><p>Stored bits over weights, layers in network order.</p>")
        parts.append(_plot(figures.rates(tables.layer_rates(summary)), "rates"))
    progress = tables.progress(run)
    if progress["gain"].notna().any():
        parts.append(
            "<h2>How the search went</h2><p>Accuracy of each training less the uniform curve's at equal bits.</p>"
        )
        parts.append(_plot(figures.gains(progress), "progress"))
    parts += [_made(run), _measurements(run)]
    title = html.escape(f"flexor-search: {_subject(run)}")
    head = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><link rel="icon" href="data:,">'
        f"<style>{_CSS}</style><script>{get_plotlyjs()}</script></head><body><main>"
    )
    return head + "\n".join(parts) + "</main></body></html>\n"


def _heading(run: Run, summary: dict[str, Any] | None) -> str:
    states = {"complete": "", "interrupted": "Interrupted: not confirmed, the test set was not read."}
    state = "Not finished yet." if summary is None else states.get(summary["state"], "")
    budgets = ", ".join(map(str, run.question.get("budgets", [])))
    return (
        f"<h1>{html.escape(_subject(run))} at {html.escape(budgets)}</h1>"
        f"<p>{len(run.measurements)} trainings. {state}</p>"
    )


def _cards(rows: list[dict[str, Any]]) -> str:
    full = {row["budget"]: row for row in rows if row["model"] == tables.FULL}
    cards = []
    for row in rows:
        if row["model"] != "chosen":
            continue
        lines = [f"{row['bits_per_weight']:g} bits per weight, {row['file_bytes']:,} bytes on disk"]
        if row["gain"] is not None:
            error = f" ± {100 * row['gain_error']:.2f}" if row["gain_error"] is not None else ""
            lines.append(f"{100 * row['gain']:+.2f}{error} points over uniform (test, standard error)")
        other = full.get(row["budget"])
        if other and other["test_mean"] is not None and row["test_mean"] is not None:
            lines.append(
                f"{100 * (row['test_mean'] - other['test_mean']):+.2f} points to full precision, "
                f"at 1/{other['file_bytes'] / row['file_bytes']:.0f} of its size"
            )
        accuracy = row["test_mean"] if row["test_mean"] is not None else row["val_mean"]
        which = "test" if row["test_mean"] is not None else "validation"
        verified = '<span class="good">verified bit for bit</span>' if row["verified"] else "not verified"
        cards.append(
            f'<div class="card"><span>{html.escape(row["budget"])}</span><b>{100 * accuracy:.2f} %</b>'
            f"<span>{which} accuracy, mean of {row['seeds']}</span><br>" + "<br>".join(lines) + f"<br>{verified}</div>"
        )
    return f'<div class="cards">{"".join(cards)}</div>' if cards else ""


def _results(summary: dict[str, Any] | None) -> str:
    rows = []
    for row in tables.result_rows(summary):
        style = ' class="chosen"' if row["model"] == "chosen" else ""
        cells = (
            f"{row['bits_per_weight']:g}",
            f"{row['file_bytes']:,}",
            _percent(row["val_mean"], row["val_std"]),
            _percent(row["test_mean"], row["test_std"]),
        )
        rows.append(
            f'<tr{style}><td class="l">{html.escape(row["budget"])}</td><td class="l">{row["model"]}</td>'
            + "".join(f"<td>{cell}</td>" for cell in cells)
            + "</tr>"
        )
    if not rows:
        return ""
    return (
        '<div class="scroll"><table><tr><th class="l">budget</th><th class="l">model</th><th>bits per weight</th>'
        "<th>file bytes</th><th>validation %</th><th>test %</th></tr>" + "".join(rows) + "</table></div>"
        "<p>Mean ± standard deviation over seeds. The choice is by mean validation accuracy.</p>"
    )


def _made(run: Run) -> str:
    entries = []
    for name, value in (*run.question.items(), ("fingerprint", run.fingerprint)):
        if isinstance(value, dict):
            value = ", ".join(f"{key} {part}" for key, part in value.items() if part not in ("", []))
        elif isinstance(value, list):
            value = ", ".join(map(str, value))
        if value not in ("", 0):
            shown = html.escape(str(value))
            entries.append(f"<dt>{html.escape(name.replace('_', ' '))}</dt><dd>{shown}</dd>")
    return "<h2>How it was made</h2><dl>" + "".join(entries) + "</dl>"


def _measurements(run: Run) -> str:
    lines = []
    for row in run.frame()[list(_TABLE_COLUMNS)].to_dict("records"):
        cells = []
        for name in _TABLE_COLUMNS:
            value = row[name]
            if isinstance(value, float):
                value = "" if math.isnan(value) else f"{value:.4g}"
            side = ' class="l"' if isinstance(row[name], str) else ""
            cells.append(f"<td{side}>{html.escape(str(value))}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    heads = "".join(f'<th class="l">{name.replace("_", " ")}</th>' for name in _TABLE_COLUMNS)
    return (
        f"<h2>All trainings</h2><details><summary>{len(lines)} lines of measurements.csv</summary>"
        f'<div class="scroll"><table><tr>{heads}</tr>{"".join(lines)}</table></div></details>'
    )


def _plot(figure: go.Figure, name: str) -> str:
    config = json.dumps({"responsive": True, "displaylogo": False, "displayModeBar": False})
    body = figure.to_json()
    assert body is not None
    body = body.replace("</", "<\\/")  # no text in it may end the script
    return f'<div id="{name}"></div><script>(f=>Plotly.newPlot("{name}",f.data,f.layout,{config}))({body})</script>'


def _subject(run: Run) -> str:
    return str(run.question.get("workload") or run.question.get("model") or "model")


def _percent(mean: float | None, std: float | None) -> str:
    if mean is None:
        return "-"
    return f"{100 * mean:.2f}" + (f" ± {100 * std:.2f}" if std is not None else "")
