"""The report: its parts in the order of a reader's questions, and the front as CSV."""

from collections import Counter
from pathlib import Path
from typing import Any

from flexor_search.files import write_atomically
from flexor_search.reporting import details, heat, outcome, selection, sensitivity_bars, tables
from flexor_search.reporting.document import document, drawing, section, tabs
from flexor_search.reporting.effort import by_worker
from flexor_search.reporting.published import published_for
from flexor_search.reporting.results import layer_rates, result_rows
from flexor_search.reporting.sensitivity import FIT, doubts, is_in_accuracy, sensitivity
from flexor_search.reporting.shipped import economies, file_parts, layer_sizes
from flexor_search.reporting.trials import trials
from flexor_search.reporting.words import escaped, in_words_of, measure, unit
from flexor_search.runs import DONE, FAILED, STOPPED, Run

_ENDED = {STOPPED: "stopped early as weak", FAILED: "failed"}
_LABELS = {
    "pareto": "Accuracy against stored bits per weight",
    "progress": "Accuracy of every trial, the best so far, and the hypervolume",
}


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
    with in_words_of(run.question):
        return _rendered(run)


def _rendered(run: Run) -> str:
    summary = run.summary()
    rows = result_rows(summary)
    body = [outcome.heading(run, summary), *_outcomes(rows)]
    if rows:
        body.append(section("Beside uniform and full precision", outcome.results(rows)))
    body += [_pareto(run, summary), _layers(summary), _economies(summary), _sensitivity(run), _progress(run)]
    body.append(section("How it was made", details.made(run)))
    if run.measurements:
        body.append(section("All measurements", trials(run), "measurements"))
    return document(f"{outcome.subject(run)}: flexor-search", "\n".join(filter(None, body)))


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

    both = points["fidelity"].nunique() > 1
    known = published_for(run.question)
    notes = [
        "The search's trainings are shorter, so the two panels do not compare with each other." if both else "",
        "Bars and band: one standard deviation over seeds." if points["val_std"].notna().any() else "",
        "Published figures are test accuracies, at bits by the paper's count, by other recipes." if len(known) else "",
        _not_drawn(run),
    ]
    text = "<p>How good a model of so many stored bits is. The front is the best that was found up to each size.</p>"
    figure = drawing(figures.pareto_figure(run), "pareto", _LABELS["pareto"], notes)
    panel = selection.panel(run, tables.chosen_digests(run, summary))
    return section(f"{escaped(measure())[:1].upper()}{escaped(measure())[1:]} against size", text + figure + panel)


def _layers(summary: dict[str, Any] | None) -> str:
    rates = layer_rates(summary)
    if rates.empty:
        return ""
    sizes = layer_sizes(summary)
    width = ", as wide as they have weights" if len(sizes) else ""
    text = (
        f"<p>Layers in network order{width}. 12/20 stores 12 bits for every 20 weights; the stronger the color, the "
        "more bits per weight. Kept layers are not encrypted.</p>"
    )
    strips = section("The rate of each layer", text + heat.strips(rates, sizes))
    rate = section("Layer by layer", heat.layers(rates, sizes))
    parts = file_parts(summary)
    if parts.empty:
        return strips + rate
    text = "<p>Everything in the file.</p>"
    return f'{strips}<div class="pair">{rate}{section("Where the bytes go", text + details.parts(parts))}</div>'


def _economies(summary: dict[str, Any] | None) -> str:
    table = economies(summary)
    if table.empty:
        return ""
    text = "<p>Bytes that each economy of the file saves, and by how much of the largest logit it moves any logit.</p>"
    return section("Smaller for nothing", text + details.economies(table))


def _sensitivity(run: Run) -> str:
    source, table = sensitivity(run)
    if table.empty:
        return ""
    text = (
        "<p>By how much the validation loss rises when a layer's rate is halved, all others as they are. Fitted to "
        "this run's search trainings (the logarithm of the loss on every layer's log rate, ridge regression), ± "
        "standard error. Layers whose rate never varied are left out; layers that only moved together share their "
        "effect.</p>"
        if source == FIT
        else f"<p>{_lost(run)} that each rate is predicted to cost a layer, beside its best rate, from the run's "
        "sensitivity table.</p>"
    )
    unsure = "".join(f"<li>{escaped(one)}</li>" for one in doubts(run)) if source != FIT else ""
    unsure = (
        f'<p class="note">What the model of accuracy is unsure of:</p><ul class="note">{unsure}</ul>' if unsure else ""
    )
    return section("How much each layer minds", text + sensitivity_bars.sensitivity(source, table) + unsure)


def _lost(run: Run) -> str:
    if not is_in_accuracy(run):
        return "Hundredths of the shared network's loss (mean cross-entropy)"
    return f"{unit('Points of v') or 'V'}alidation {escaped(measure())}"


def _progress(run: Run) -> str:
    table = tables.progress(run)
    if not ((table["state"] == DONE) & table["val_accuracy"].notna()).any():
        return ""
    from flexor_search.reporting import figures

    budget = str((run.question.get("budgets") or ["no limit"])[0])
    pale = "" if table["fits"].all() else " Trials over that budget are pale."
    views = {
        title: drawing(
            figures.progress_figure(run, against), f"progress-{against}", f"{_LABELS['progress']} {title}", []
        )
        for title, against in (("against trainings", figures.TRAININGS), ("against time", figures.SECONDS))
    }
    text = (
        f"<p>Every training of the search, the best so far within {escaped(budget)}, and below them the area that the "
        f"front covers, in bits times {unit('points') or escaped(measure())}.{pale}</p>"
    )
    return section("Progress of the search", text + tabs("progress", views) + details.workers(by_worker(run)))


def _not_drawn(run: Run) -> str:
    states = Counter(m.state for m in run.measurements)
    parts = [f"{states[state]} {words}" for state, words in _ENDED.items() if states[state]]
    return f"Not drawn: {' and '.join(parts)}." if parts else ""
