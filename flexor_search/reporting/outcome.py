"""The first part of the page: what was asked, how far the run has got, and what came out.

Every text that comes from a user is escaped here.
"""

from collections import Counter
from typing import Any

from flexor_search.reporting import tables
from flexor_search.reporting.sensitivity import shared_cost
from flexor_search.reporting.tables import CHOSEN, FULL, UNIFORM
from flexor_search.reporting.words import (
    count,
    duration,
    escaped,
    in_points,
    known,
    listed,
    measure,
    percent,
    size,
    told,
    unit,
    verdict,
)
from flexor_search.runs import CONFIRM, DONE, FAILED, SEARCH, STOPPED, Run


def subject(run: Run) -> str:
    """The name of what was searched: a workload's, or the user's model."""
    return str(run.question.get("workload") or run.question.get("model") or "model")


def heading(run: Run, summary: dict[str, Any] | None) -> str:
    """What was asked, and how far the run has got."""
    budgets = [str(budget) for budget in run.question.get("budgets") or []]
    asked = f"The most accurate model{'s' if len(budgets) > 1 else ''} within {listed(budgets)}"
    return (
        f'<p class="over">flexor-search</p><h1>{escaped(subject(run))}</h1><p class="lead">{escaped(asked)}</p>'
        f'<p class="note">{escaped(_trainings(run))}</p>{_state(run, summary)}'
    )


def outcome(chosen: dict[str, Any], others: dict[str, dict[str, Any]]) -> str:
    """What came out for one budget.

    Args:
        chosen: its chosen model, a row of `result_rows`.
        others: the rows of the same budget, by model.
    """
    uniform, full = others.get(UNIFORM), others.get(FULL)
    split = chosen["split"]
    mean, std = (chosen[f"{'test' if split == 'test' else 'val'}_{part}"] for part in ("mean", "std"))
    shipped = (
        f"; the shipped one has {percent(chosen['test_shipped'])}{unit()}" if known(chosen["test_shipped"]) else ""
    )
    spread = f" <small>± {percent(std)}</small>" if known(std) else ""
    stats = [
        (
            escaped(f"{split} {measure()}"),
            f"{percent(mean)}<small>{unit()}</small>{spread}",
            f"{count(chosen['seeds'], 'seed')}{shipped}",
        ),
        (
            "size of the file",
            f"{chosen['file_bytes']:,}<small> bytes</small>{_rounded(chosen['file_bytes'])}",
            f"{chosen['bits_per_weight']:g} bits per weight, {chosen['nominal_bits_per_weight']:.3g} nominal",
        ),
        _compared("against uniform", chosen["gain"], chosen["gain_error"], _beside(uniform)),
        _compared("against full precision", chosen["to_full"], chosen["to_full_error"], _ratio(chosen, full)),
    ]
    cells = "".join(f"<div><span>{name}</span><b>{value}</b><span>{note}</span></div>" for name, value, note in stats)
    proof = (
        '<span class="good">✓ file read back, verified bit for bit</span>'
        if chosen["verified"]
        else '<span class="bad">file not verified</span>'
    )
    return (
        f'<article class="outcome"><header><h2>Budget {escaped(chosen["budget"])}</h2>{proof}</header>'
        f'<p>{escaped(verdict(chosen))}</p><div class="stats">{cells}</div></article>'
    )


def results(rows: list[dict[str, Any]]) -> str:
    """The table of chosen, uniform and full-precision models."""
    lines, mark = [], unit(", %") or f" {escaped(measure())}"
    budgets = list(dict.fromkeys(row["budget"] for row in rows))
    for budget in budgets:
        if len(budgets) > 1:
            lines.append(f'<tr class="group"><th colspan="5" scope="rowgroup">{escaped(budget)}</th></tr>')
        for row in (row for row in rows if row["budget"] == budget):
            style = ' class="chosen"' if row["model"] == CHOSEN else ""
            cells = (
                f"{row['bits_per_weight']:g}",
                f"{row['file_bytes']:,}",
                _spread(row["val_mean"], row["val_std"]),
                _spread(row["test_mean"], row["test_std"]),
            )
            numbers = "".join(f"<td>{cell}</td>" for cell in cells)
            lines.append(f'<tr{style}><td class="l">{row["model"]}</td>{numbers}</tr>')
    return (
        '<div class="scroll"><table class="results wide"><thead><tr><th class="l">model</th><th>bits per weight</th>'
        f"<th>file bytes</th><th>validation{mark}</th><th>test{mark}</th></tr></thead><tbody>{''.join(lines)}</tbody>"
        '</table></div><p class="note">Mean ± standard deviation over seeds; differences above ± their standard error. '
        f"Models were chosen by mean validation {escaped(measure())}. Uniform is the largest model of one rate that "
        "fits the budget. Bits per weight count what is stored for the searched layers; full precision is the float32 "
        "model.</p>"
    )


def _trainings(run: Run) -> str:
    made = run.measurements
    if not made:
        return "Nothing was trained yet."
    counts = Counter([m.phase for m in made] + [m.state for m in made])
    what = {SEARCH: "in the search", CONFIRM: "to confirm", STOPPED: "stopped early", FAILED: "failed"}
    parts = [f"{counts[name]} {words}" for name, words in what.items() if counts[name]]
    seconds = sum(m.train_seconds for m in made)
    return f"{count(len(made), 'training')} ({', '.join(parts)}) that took {duration(seconds)}{shared_cost(run)}"


def _state(run: Run, summary: dict[str, Any] | None) -> str:
    if summary is None or not summary["budgets"]:
        table = tables.progress(run)
        best = table[table["fits"] & (table["state"] == DONE) & (table["val_accuracy"] == table["best"].max())]
        text = "Not finished: nothing was chosen yet."
        if len(best):
            row = best.iloc[0]
            text += (
                f" Best so far under the first budget: {told(row['val_accuracy'])} at "
                f"{row['bits_per_weight']:g} bits per weight, {row['kind']}, in one shorter training."
            )
    elif summary["state"] != "complete":
        read = [entry["budget"] for entry in summary["budgets"] if entry["test_accuracy"]]
        unread = [str(budget) for budget in run.question.get("budgets") or [] if budget not in read]
        text = (
            "Interrupted before its end: what was found is shown and shipped, but not all of it was confirmed, and the "
            f"test set was not read{f' for {listed(unread)}' if read and unread else ''}."
        )
    else:
        return ""
    return f'<p class="state">{escaped(text)}</p>'


def _rounded(file_bytes: int) -> str:
    return f" <small>{size(file_bytes)}</small>" if file_bytes >= 1024 else ""


def _spread(mean: float | None, std: float | None) -> str:
    """A mean with its spread, which takes a line of its own where there is little room."""
    return percent(mean) + (f' <span class="spread">± {percent(std)}</span>' if known(std) else "")


def _compared(name: str, difference: float | None, error: float | None, note: str) -> tuple[str, str, str]:
    if difference is None:
        return name, "<small>not measured</small>", note
    spread = f" <small>± {percent(error)}</small>" if error is not None else ""
    return name, f"{in_points(difference)}{spread}<small>{unit(' points')}</small>", note


def _beside(uniform: dict[str, Any] | None) -> str:
    if uniform is None:
        return ""
    return f"which has {uniform['bits_per_weight']:g} bits per weight, {uniform['file_bytes']:,} bytes"


def _ratio(chosen: dict[str, Any], full: dict[str, Any] | None) -> str:
    if full is None:
        return ""
    return f"at 1/{full['file_bytes'] / chosen['file_bytes']:.3g} of its {full['file_bytes']:,} bytes"
