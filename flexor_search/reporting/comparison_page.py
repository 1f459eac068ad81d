"""The comparison of several runs: one self-contained HTML file, the tables beside the figure.

Every text that comes from a user is escaped here.
"""

from pathlib import Path
from typing import Any

from flexor_search.errors import UsageError
from flexor_search.files import write_atomically
from flexor_search.reporting import comparison
from flexor_search.reporting.document import document, drawing, section, tabs
from flexor_search.reporting.words import (
    count,
    duration,
    escaped,
    in_points,
    in_words_of,
    known,
    measure,
    percent,
    scale,
    unit,
)
from flexor_search.runs import Run

_DETAILS = ("strategy", "codes", "seed")


def write_comparison(runs: list[Run], path: Path | None = None) -> Path:
    """Write the page that lays the fronts of runs over each other.

    Args:
        runs: two or more, finished or not.
        path: of the page; default comparison.html in the first run's folder.

    Raises:
        UsageError: fewer than two runs, or the path is a folder.
        RunError: it cannot be written, or a summary.json is damaged.
    """
    if len(runs) < 2:
        raise UsageError(f"comparison: needs two runs or more, got {len(runs)}; name several run folders")
    path = path or runs[0].folder / "comparison.html"
    if path.is_dir():
        raise UsageError(f"out: {path} is a folder; name the file of the page in it, such as comparison.html")
    write_atomically(path, render(runs).encode())
    return path


def render(runs: list[Run]) -> str:
    """The page's HTML, in the words of the first run's metric."""
    with in_words_of(runs[0].question):
        return _rendered(runs)


def _rendered(runs: list[Run]) -> str:
    body = [_heading(runs), _fronts(runs), _chosen(runs), _curves(runs), _differences(runs)]
    return document("Runs compared: flexor-search", "\n".join(filter(None, body)))


def _heading(runs: list[Run]) -> str:
    subjects = list(dict.fromkeys(str(run.question.get("workload") or run.question.get("model")) for run in runs))
    parts = comparison.why_incomparable(runs)
    warning = (
        f'<p class="state">These runs differ in {parts}, so their accuracies do not compare with each other.</p>'
        if parts
        else ""
    )
    return (
        f'<p class="over">flexor-search</p><h1>{escaped(", ".join(subjects))}</h1>'
        f'<p class="lead">{count(len(runs), "run")} beside each other</p>{warning}'
    )


def _fronts(runs: list[Run]) -> str:
    table = comparison.fronts(runs)
    if table.empty:
        return '<p class="state">Nothing has finished in any of these runs yet.</p>'
    from flexor_search.reporting import figures

    notes = [
        "Bands: one standard deviation over seeds." if table["val_std"].notna().any() else "",
        "The search's trainings are shorter, so the two panels do not compare."
        if table["fidelity"].nunique() > 1
        else "",
    ]
    figure = drawing(figures.fronts(table), "fronts", "Accuracy against size: the front of each run", notes)
    return section("Fronts", f'<div class="beside"><div>{figure}</div>{_searches(runs)}</div>')


def _searches(runs: list[Run]) -> str:
    lines = []
    for row in comparison.searches(runs):
        about = ", ".join(f"{name} {row[name]}" for name in _DETAILS if row[name])
        area = f"{scale() * row['hypervolume']:.3g}" if known(row["hypervolume"]) else "\N{EN DASH}"
        lines.append(
            f'<tr><th class="l" scope="row">{escaped(row["run"])}<small>{escaped(about)}</small></th><td>{area}</td>'
            f"<td>{row['trainings']:.3g}<small>{duration(row['seconds'])}</small></td></tr>"
        )
    return (
        '<div><table class="wide runs" id="runs"><thead><tr><th class="l">run</th><th>hypervolume</th>'
        f"<th>full trainings</th></tr></thead><tbody>{''.join(lines)}</tbody></table>"
        '<p class="note">Hypervolume: what the '
        "search's front covers, in bits times what the axis tells, from one corner for all runs: the most bits and the "
        "least accuracy of any. Full trainings: images that the search saw, over those of one training in full; below "
        "it the time of all trainings.</p></div>"
    )


def _chosen(runs: list[Run]) -> str:
    rows = comparison.chosen_models(runs)
    if not rows:
        return ""
    lines, budget = [], None
    for row in rows:
        if row["budget"] != budget:
            budget = row["budget"]
            lines.append(f'<tr class="group"><th colspan="6" scope="rowgroup">{escaped(budget)}</th></tr>')
        lines.append(_model(row))
    mark = unit(", %") or f" {escaped(measure())}"
    names = ("bits per weight", "file bytes", f"validation{mark}", f"test{mark}", "over uniform")
    heads = "".join(f"<th>{name}</th>" for name in names)
    return section(
        "What was chosen",
        f'<div class="scroll"><table class="results wide" id="chosen"><thead><tr><th class="l">run</th>{heads}</tr>'
        f"</thead><tbody>{''.join(lines)}</tbody></table></div>"
        '<p class="note">Mean ± standard deviation over seeds; over '
        "uniform ± standard error, in points of test accuracy (of validation where the test set was not read).</p>",
    )


def _model(row: dict[str, Any]) -> str:
    gain = in_points(row["gain"], row["gain_error"]) if row["gain"] is not None else "\N{EN DASH}"
    cells = (
        f"{row['bits_per_weight']:g}",
        f"{row['file_bytes']:,}",
        percent(row["val_mean"], row["val_std"]),
        percent(row["test_mean"], row["test_std"]),
        gain,
    )
    return f'<tr><td class="l">{escaped(row["run"])}</td>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'


def _curves(runs: list[Run]) -> str:
    table = comparison.curves(runs)
    if table.empty:
        return ""
    from flexor_search.reporting import figures

    views = {
        title: drawing(
            figures.hypervolume_curves(table, against),
            f"curves-{against}",
            f"Hypervolume of each search against {title}",
            [],
        )
        for against, title in ((figures.TRAININGS, "trainings"), (figures.SECONDS, "time"))
    }
    return section("What each search bought for its effort", tabs("against", views))


def _differences(runs: list[Run]) -> str:
    found = comparison.differences(runs)
    if not found:
        return section("What differs", "<p>Nothing: these runs asked the same question.</p>")
    heads = "".join(f'<th class="l">{escaped(name)}</th>' for name in comparison.names_of(runs))
    lines = "".join(
        f'<tr><th class="l" scope="row">{escaped(name.replace("_", " "))}</th>'
        f"{''.join(f'<td class=l>{escaped(value)}</td>' for value in values)}</tr>"
        for name, values in found.items()
    )
    return section(
        "What differs",
        f'<div class="scroll"><table class="differs" id="differs"><thead><tr><th></th>{heads}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>",
    )
