"""The table of all measurements. It stands in the page as plain HTML; trials.js makes it sort and filter.

Every text that comes from a user is escaped here.
"""

import math
from typing import Any

from flexor_search.reporting.words import count, escaped, measure, percent, scale, unit
from flexor_search.runs import Run

_COLUMNS = {
    "number": "trial",
    "phase": "phase",
    "kind": "kind",
    "label": "rates",
    "bits_per_weight": "bits per weight",
    "file_bytes": "file bytes",
    "val_accuracy": "validation",
    "val_loss": "validation loss",
    "state": "state",
    "seed": "seed",
    "epochs": "epochs",
    "train_seconds": "seconds",
    "worker": "worker",
    "reason": "reason",
}
_TEXTS = ("phase", "kind", "label", "state", "worker", "reason")
_LONG = ("label", "reason")
_CHOICES = ("phase", "state")


def trials(run: Run) -> str:
    """Every training of the run, with a field for words and one for each phase and state."""
    frame = run.frame()
    shown = [name for name in _COLUMNS if name != "worker" or frame["worker"].nunique() > 1]
    lines = ["".join(_cell(name, row[name]) for name in shown) for row in frame.to_dict("records")]
    heads = "".join(
        f'<th scope="col" aria-sort="none"{" class=l" if name in _TEXTS else ""}>'
        f'<button type="button">{_COLUMNS[name]}{_mark(name)}</button></th>'
        for name in shown
    )
    choices = "".join(_choice(name, list(dict.fromkeys(frame[name]))) for name in _CHOICES)
    return (
        '<div class="filters"><input type="search" id="filter" '
        'placeholder="Filter: words, bits&lt;0.5, validation&gt;98" '
        f'aria-label="Filter the table">{choices}<output id="shown">{count(len(lines), "training")}</output></div>'
        f'<div class="scroll tall"><table class="all" id="trials"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(f'<tr>{line}</tr>' for line in lines)}</tbody></table></div>"
    )


def _mark(name: str) -> str:
    """What is behind the heading of validation accuracy: %, or the name of a metric."""
    return (unit() or f" {escaped(measure())}") if name == "val_accuracy" else ""


def _cell(name: str, value: Any) -> str:
    """A cell; where what is shown is rounded, data-v holds what it is sorted by."""
    style = ' class="l rates"' if name in _LONG else ' class="l"' if name in _TEXTS else ""
    if name == "number":
        return f'<td><a href="#selected" data-trial="{value}">{value}</a></td>'
    if isinstance(value, float):
        if math.isnan(value):
            return "<td></td>"
        shown = percent(value) if name == "val_accuracy" else f"{value:.4g}"
        exact = scale() * value if name == "val_accuracy" else value
        return f'<td data-v="{exact:.9g}">{shown}</td>'
    if name == "file_bytes":
        return f'<td data-v="{value}">{value:,}</td>'
    return f"<td{style}>{escaped(value)}</td>"


def _choice(name: str, values: list[str]) -> str:
    if len(values) < 2:
        return ""
    options = "".join(f"<option>{escaped(value)}</option>" for value in values)
    every = f'<option value="">any {name}</option>'
    return f'<select data-column="{_COLUMNS[name]}" aria-label="{name}">{every}{options}</select>'
