"""A run in a notebook's cell: what came out as a table, and accuracy against size as a picture without any script.

The report has it all; this is what is shown where nothing can be loaded: an SVG, in the colours of whatever is around.
"""

import pandas as pd

from flexor_search.reporting.results import result_rows
from flexor_search.reporting.tables import CHOSEN, FULL, UNIFORM, front, points
from flexor_search.reporting.words import NOTHING, escaped, in_words_of, known, verdict
from flexor_search.runs import CONFIRM, SEARCH, MetricWords, Run

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 560, 260, 46, 34


def inline_html(run: Run) -> str:
    """The run as a piece of HTML: its results, and the figure of its most faithful trainings.

    Raises:
        RunError: summary.json is damaged.
    """
    with in_words_of(run.question):
        return _inline(run)


def _inline(run: Run) -> str:
    rows = result_rows(run.summary())
    subject = run.question.get("workload") or run.question.get("model") or "model"
    head = f"<p><b>{escaped(subject)}</b>: {escaped(run.folder)}, {len(run.measurements)} trainings</p>"
    results = _table(rows, MetricWords.of(run.question)) if rows else "<p>nothing was chosen yet</p>"
    return f"<div>{head}{results}{front_svg(run)}</div>"


def front_svg(run: Run) -> str:
    """Validation accuracy against bits per weight: trainings, the front, uniform models; "" before there are any.

    Trainings in full if any were made, else those of the search: the two do not compare.
    """
    every = points(run)
    every = every[every["kind"] != FULL]
    fidelity = CONFIRM if (every["fidelity"] == CONFIRM).any() else SEARCH
    every = every[every["fidelity"] == fidelity]
    if every.empty:
        return ""
    line = front(run)
    line = line[line["fidelity"] == fidelity]
    words = MetricWords.of(run.question)
    place = _Places(every, words)
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(place, line["bits_per_weight"], line["val_accuracy"]))
    marks = "".join(
        _mark(place(row["bits_per_weight"], row["val_accuracy"]), row, words) for row in every.to_dict("records")
    )
    what = "trained in full" if fidelity == CONFIRM else "shorter trainings of the search"
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" style="max-width:100%" role="img" fill="currentColor" '
        f'font-size="11" font-family="sans-serif"><title>{escaped(words.name)} against bits per weight</title>'
        f'{place.axes()}<polyline points="{path}" fill="none" stroke="#3b76c4" stroke-width="2"/>{marks}'
        f'<text x="{_WIDTH - 4}" y="{_HEIGHT - 4}" text-anchor="end">stored bits per weight; {what}; '
        "□ uniform, line: front</text></svg>"
    )


class _Places:
    """From bits and accuracy to pixels."""

    def __init__(self, table: pd.DataFrame, words: MetricWords) -> None:
        self.words = words
        self.most = 1.06 * float(table["bits_per_weight"].max())
        low, high = float(table["val_accuracy"].min()), float(table["val_accuracy"].max())
        margin = max(0.1 * (high - low), 0.002)
        self.low, self.high = low - margin, high + margin

    def __call__(self, bits: float, accuracy: float) -> tuple[float, float]:
        across = bits / self.most
        up = (accuracy - self.low) / (self.high - self.low)
        return _LEFT + across * (_WIDTH - _LEFT - 8), 8 + (1 - up) * (_HEIGHT - _BOTTOM - 8)

    def axes(self) -> str:
        """Four numbers on each axis, with a line across for accuracies."""
        parts, words = [], self.words
        for step in range(5):
            bits, accuracy = self.most * step / 4, self.low + (self.high - self.low) * step / 4
            x, y = self(bits, accuracy)
            parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - 20}" text-anchor="middle">{bits:.2g}</text>')
            parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{words.scale * accuracy:.3g}</text>')
            parts.append(
                f'<line x1="{_LEFT}" x2="{_WIDTH - 8}" y1="{y:.1f}" y2="{y:.1f}" stroke="currentColor" opacity="0.15"/>'
            )
        return "".join(parts)


def _mark(place: tuple[float, float], row: dict, words: MetricWords) -> str:
    x, y = place
    told = (
        f"{row['kind']} {row['label']}: {words.text(row['val_accuracy'])} at {row['bits_per_weight']:g} bits per weight"
    )
    title = f"<title>{escaped(told)}</title>"
    if row["kind"] == UNIFORM:
        return (
            f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" fill="none" stroke="#c25b12" '
            f'stroke-width="2">{title}</rect>'
        )
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#3b76c4" fill-opacity="0.7">{title}</circle>'


def _table(rows: list[dict], words: MetricWords) -> str:
    lines = []
    for row in rows:
        cells = (
            row["budget"] if row["model"] == CHOSEN else "",
            row["model"],
            f"{row['bits_per_weight']:g}",
            f"{row['file_bytes']:,}",
            _spread(row["val_mean"], row["val_std"], words),
            _spread(row["test_mean"], row["test_std"], words),
        )
        lines.append("<tr>" + "".join(f"<td>{escaped(cell)}</td>" for cell in cells) + "</tr>")
    heads = "".join(
        f"<th>{name}</th>"
        for name in ("budget", "model", "bits/weight", "file bytes", words.heading("validation"), words.heading("test"))
    )
    said = "".join(
        f"<p>{escaped(row['budget'])}: {escaped(verdict(row))}</p>" for row in rows if row["model"] == CHOSEN
    )
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>{said}"


def _spread(mean: float | None, std: float | None, words: MetricWords) -> str:
    if not known(mean):
        return NOTHING
    return words.number(mean) + (f" ± {words.number(std)}" if known(std) else "")
