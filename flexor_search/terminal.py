"""What the terminal shows: live progress on stderr, tables on stdout. Everything here is rich; nothing is decided."""

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, Task, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from flexor_search.serving import TOLD

if TYPE_CHECKING:
    from flexor_search.packing import FileBytes
    from flexor_search.runs import Measurement, MetricWords, Run
    from flexor_search.tuning import Phase


class LiveObserver:
    """Shows what is measured, how far the run is, the best so far and the time left."""

    def __init__(self, console: Console, progress: Progress) -> None:
        self._console, self._progress = console, progress
        self._phases: dict[str, Phase] = {}
        self._task: Any = None
        self._name, self._done, self._trainings = "", 0, 0

    def message(self, text: str) -> None:
        """A line above the bar."""
        self._console.print(escape(text), highlight=False, soft_wrap=True)

    def planned(self, phases: "Sequence[Phase]") -> None:
        """The bar's length is the planned time of all phases, so that its estimate is of the whole run."""
        self._phases = {phase.name: phase for phase in phases}
        total = sum(phase.seconds for phase in phases)
        self._task = self._progress.add_task("", total=total, what="", best="", count="")

    def phase(self, name: str, trainings: int) -> None:
        """The bar moves to where the phase begins, however short the one before was."""
        earlier = list(self._phases)[: list(self._phases).index(name)]
        begun = sum(self._phases[before].seconds for before in earlier)
        self._name, self._done, self._trainings = name, 0, trainings
        self._progress.update(self._task, completed=begun, description=name, count=f"0/{trainings}")

    def begin(self, what: str) -> None:
        """Names what is being measured."""
        self._progress.update(self._task, what=escape(what))

    def measured(self, measurement: "Measurement", best: str) -> None:
        """Moves the bar; without a terminal a line takes its place."""
        self._done += 1
        count = f"{self._done}/{self._trainings}"
        best_text = escape(f"best {best}" if best else "")
        self._progress.update(self._task, advance=self._phases[self._name].seconds_each, best=best_text, count=count)
        if not self._console.is_terminal:
            m = measurement
            words = self._phases[self._name].words
            outcome = words.text(m.val_accuracy) if m.state == "done" else f"{m.state} ({m.reason})"
            self.message(f"{m.phase} {count}: {m.kind} {m.label} ({m.bits_per_weight:g} bpw): {outcome}")


@contextmanager
def watching(quiet: bool) -> Iterator["LiveObserver | None"]:
    """An observer that draws on stderr while the block runs; None if nothing is to be drawn."""
    if quiet:
        yield None
        return
    console = Console(stderr=True)
    with bar(console, transient=True, disable=not console.is_terminal) as progress, logs_told(console):
        yield LiveObserver(console, progress)


class _Lines(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.print(escape(record.getMessage()), highlight=False, soft_wrap=True)


@contextmanager
def logs_told(console: Console | None = None) -> Iterator[None]:
    """While the block runs, a line on stderr for what is logged: damaged files, how far a long training is."""
    package, lines = logging.getLogger("flexor_search"), _Lines(console or Console(stderr=True))
    levels = {name: logging.getLogger(name).level for name in TOLD}
    package.addHandler(lines)
    for name in TOLD:
        logging.getLogger(name).setLevel(logging.INFO)
    try:
        yield
    finally:
        package.removeHandler(lines)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


class _Rest(TextColumn):
    """A text that takes what the other columns leave of the line, and is cut there."""

    def __init__(self, text: str) -> None:
        super().__init__(text, table_column=Column(no_wrap=False))  # rich shrinks columns that may wrap before others

    def render(self, task: Task) -> Text:
        text = super().render(task)
        text.no_wrap, text.overflow = True, "ellipsis"
        return text


def bar(console: Console, **how: Any) -> Progress:
    """The bar of a run: phase and trials, time left, best so far; then, as far as it fits, what is under way."""
    columns = (
        TextColumn("{task.description} {task.fields[count]}"),
        BarColumn(bar_width=12),
        TimeRemainingColumn(),
        TextColumn("left"),
        TextColumn("[bold]{task.fields[best]}"),
        _Rest("[dim]{task.fields[what]}"),
    )
    return Progress(*columns, console=console, **how)


def print_results(run: "Run") -> None:
    """The short table of a run, then the paths of what it wrote."""
    from flexor_search.runs import MetricWords

    summary, words = run.summary(), MetricWords.of(run.question)
    console = _stdout()
    if summary is None or not summary["budgets"]:
        console.print("nothing finished yet")
        return
    table = Table(box=None, pad_edge=False)
    for heading, side in (
        ("budget", "left"),
        ("model", "left"),
        ("bits/weight", "right"),
        ("file bytes", "right"),
        (words.heading("validation"), "right"),
        (words.heading("test"), "right"),
    ):
        table.add_column(heading, justify=side)  # type: ignore[arg-type]
    for entry in summary["budgets"]:
        rows = (("chosen", entry), ("uniform", entry["uniform"]), ("full precision", entry["full_precision"]))
        for name, body in rows:
            if body is None:
                table.add_row(entry["budget"], name, *("-",) * 4)
                continue
            table.add_row(
                entry["budget"] if name == "chosen" else "",
                name,
                f"{body['bits_per_weight']:g}",
                f"{body['file_bytes']:,}",
                _spread(body["val_accuracy"], words),
                _spread(body["test_accuracy"], words),
                style="bold" if name == "chosen" else None,
            )
    console.print(table)
    seeds = max(len(entry["val_accuracy"]["seeds"]) for entry in summary["budgets"])
    state = "" if summary["state"] == "complete" else "; interrupted, so not confirmed and test set not read"
    console.print(f"mean and standard deviation over {seeds} seed{'s' if seeds > 1 else ''}{state}", highlight=False)
    paths = ["report.html", "front.csv", *(f"model-{entry['budget']}.safetensors" for entry in summary["budgets"])]
    for path in paths:
        console.print(str(run.folder / path), highlight=False, soft_wrap=True, markup=False)


def print_bytes(found: "FileBytes") -> None:
    """Where the bytes of a packed file go: a row for each layer, then what belongs to none, then the file."""
    console = _stdout()
    table = Table(box=None, pad_edge=False)
    headings = ("layer", "code", "weights", "payload", "scales", "bias/kept", "header", "bytes")
    for heading in headings:
        is_text = heading in ("layer", "code")
        table.add_column(heading, justify="left" if is_text else "right", no_wrap=heading != "layer", overflow="fold")
    for layer in found.layers:
        parts = (layer.n_weights, layer.payload_bytes, layer.scale_bytes, layer.kept_bytes, layer.header_bytes)
        numbers = [f"{part:,}" for part in (*parts, layer.total_bytes)]
        table.add_row(escape(layer.name or "(model)"), layer.code, *numbers)
    for name, part in (
        ("code table", found.code_table_bytes),
        ("other tensors", found.other_kept_bytes + found.exact_bytes),
        ("rest of the header", found.container_bytes),
    ):
        table.add_row(name, *("",) * 6, f"{part:,}")
    table.add_row("file", *("",) * 6, f"{found.file_bytes:,}", style="bold")
    console.print(table)
    n_weights, padding = sum(layer.n_weights for layer in found.layers), sum(la.padding_bits for la in found.layers)
    console.print(
        f"{8 * found.file_bytes / max(n_weights, 1):.3f} bits for each of {n_weights:,} weights, everything counted; "
        f"{padding:,} bits of the payload are padding; scales and kept tensors in {found.kept_dtype}",
        highlight=False,
    )


def print_plan(tables: dict[str, Any]) -> None:
    """The layers, what each may take and costs, and the reachable sizes; shapes only where they fit."""
    console = _stdout()
    table = _plan_table(tables, ("layer", "shape", "weights", "may take", "bytes"))
    if console.measure(table, options=console.options.update(max_width=1000)).maximum > console.width:
        table = _plan_table(tables, ("layer", "weights", "may take", "bytes"))
    console.print(table)
    for line in tables["notes"]:
        console.print(line, highlight=False, markup=False)


def _plan_table(tables: dict[str, Any], headings: tuple[str, ...]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        is_text = heading in ("layer", "shape", "may take")
        table.add_column(heading, justify="left" if is_text else "right", no_wrap=not is_text, overflow="fold")
    for row in tables["layers"]:
        least, most = f"{row['least_bytes']:,}", f"{row['most_bytes']:,}"
        cells = {
            "layer": escape(row["layer"]),
            "shape": row["shape"],
            "weights": f"{row['weights']:,}",
            "may take": escape(row["may_take"]),
            "bytes": least if least == most else f"{least} to {most}",
        }
        table.add_row(*(cells[heading] for heading in headings))
    return table


def _spread(values: dict[str, Any] | None, words: "MetricWords") -> str:
    if values is None:
        return "-"
    spread = f" ± {words.number(values['std'])}" if values["std"] is not None else ""
    return words.number(values["mean"]) + spread


def _stdout() -> Console:
    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else 80)
