"""The table of a study beside the published figures: as CSV, as Markdown, and figures as SVG."""

import csv
import io
import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from flexor_search.files import write_atomically
from flexor_search.studying.book import DONE, Book, Line
from flexor_search.studying.figure import Point, dots_svg
from flexor_search.studying.rows import Row
from flexor_search.studying.study_file import StudyFile


@dataclass(frozen=True)
class TableRow:
    """A row of the table; accuracies in percent, NaN where there is none.

    Attributes:
        row, workload: names.
        nominal_bits_per_weight: the paper's count.
        bits_per_weight: what is stored, at the codes' rank; the mean over seeds, whose codes may differ.
        seeds: trainings done.
        failed: trainings that failed.
        validation, validation_error: mean and standard error.
        test, test_error: the same; NaN until the study is finished.
        published: by source.
        difference: test less published.
        source, certainty: of the published figure.
    """

    row: str
    workload: str
    nominal_bits_per_weight: float
    bits_per_weight: float
    seeds: int
    failed: int
    validation: float
    validation_error: float
    test: float
    test_error: float
    published: float
    difference: float
    source: str
    certainty: str


@dataclass(frozen=True)
class Difference:
    """The first row less the second, in points, with its standard error."""

    first: str
    second: str
    split: str
    points: float
    error: float


def write_tables(
    folder: Path, study: StudyFile, rows: Sequence[Row], planned: Sequence[tuple[str, int, str]], book: Book
) -> None:
    """Write table.csv, differences.csv, table.md and the figures.

    Args:
        folder: of the results.
        study: what was asked.
        rows: of the table, in order.
        planned: (row, seed, key) of all trainings.
        book: what was measured.
    """
    table = [table_row(row, [key for name, _, key in planned if name == row.name], book) for row in rows]
    values = {split: _values(planned, book, split) for split in ("validation", "test")}
    names = {row.name for row in rows}
    pairs = [(pair.first, pair.second) for pair in study.compare if {pair.first, pair.second} <= names]
    differences = [
        Difference(first, second, split, *difference(found.get(first, []), found.get(second, [])))
        for first, second in pairs
        for split, found in values.items()
    ]
    _write_csv(folder / "table.csv", table, TableRow)
    _write_csv(folder / "differences.csv", differences, Difference)
    finished = all(key in book.lines for _, _, key in planned)
    left = sum(key not in book.lines for _, _, key in planned)
    write_atomically(folder / "table.md", markdown(study, table, differences, left if not finished else 0).encode())
    by_name = {row.row: row for row in table}
    for figure in study.figure:
        drawn = [by_name[name] for name in figure.rows if name in by_name and by_name[name].seeds]
        if drawn:
            name = re.sub(r"\W+", "-", figure.title.lower()).strip("-")
            split = "test" if all(not math.isnan(row.test) for row in drawn) else "validation"
            points = [_point(row, split) for row in drawn]
            svg = dots_svg(f"{figure.title} ({split} accuracy, %)", points)
            write_atomically(folder / f"figure-{name}.svg", svg.encode())


def table_row(row: Row, keys: Sequence[str], book: Book) -> TableRow:
    """What the trainings of a row came to."""
    lines = [book.lines[key] for key in keys if key in book.lines]
    done = [line for line in lines if line.state == DONE]
    allocations = [row.allocation(0)] if not done and not row.table.search else []
    bits = [line.bits_per_weight for line in done] or [a.bits_per_weight for a in allocations]
    nominal = [line.nominal_bits_per_weight for line in done] or [a.nominal_bits_per_weight for a in allocations]
    tests = [100 * book.readings[line.key].test_accuracy for line in done if line.key in book.readings]
    test, test_error = mean_and_error(tests if len(tests) == len(done) else [])
    validation, validation_error = mean_and_error([100 * line.val_accuracy for line in done])
    published = math.nan if row.table.published is None else row.table.published
    return TableRow(
        row=row.name,
        workload=row.task.name,
        nominal_bits_per_weight=_rounded(statistics.fmean(nominal) if nominal else math.nan, 4),
        bits_per_weight=_rounded(statistics.fmean(bits) if bits else math.nan, 4),
        seeds=len(done),
        failed=len(lines) - len(done),
        validation=_rounded(validation),
        validation_error=_rounded(validation_error),
        test=_rounded(test),
        test_error=_rounded(test_error),
        published=published,
        difference=_rounded(test - published),
        source=row.table.source,
        certainty=row.table.certainty,
    )


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error; NaN where there are too few values.

    Example:
        >>> mean_and_error([90.0, 92.0])
        (91.0, 1.0)
    """
    if not values:
        return math.nan, math.nan
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return statistics.fmean(values), error


def difference(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """The difference of two means with its standard error, the two taken as independent.

    Example:
        >>> difference([90.0, 92.0], [89.0, 89.0])
        (2.0, 1.0)
    """
    (one, one_error), (other, other_error) = mean_and_error(first), mean_and_error(second)
    return _rounded(one - other), _rounded(math.hypot(one_error, other_error))


def markdown(study: StudyFile, table: Sequence[TableRow], differences: Sequence[Difference], left: int) -> str:
    """The table for people."""
    if left:
        is_read = any(not math.isnan(row.test) for row in table)
        told = "the test set was read with those made before" if is_read else "the test set has not been read"
        state = f"Not finished: {left} trainings are to be made, and {told}."
    elif any(math.isnan(row.test) and row.seeds for row in table):
        state = "The rows asked for are trained; the test set is read when the whole study is."
    else:
        state = "Finished; the test set was read once with each trained model."
        if any(row.search for row in study.row):
            state += " (The runs in searches/ had read it for their own reports.)"
    parts = [
        f"# {study.question}",
        "",
        state,
        "",
        "Accuracies in percent, mean ± standard error over seeds. Nominal bits per weight are the paper's count;",
        "stored ones are counted at the codes' rank, as packed. Weights are scored as their stored bits decode.",
        "",
        "| row | nominal bits | stored bits | seeds | validation | test | published | test - published |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in table:
        published = _number(row.published) + (f" ({row.certainty})" if row.certainty else "")
        seeds = f"{row.seeds}" + (f" ({row.failed} failed)" if row.failed else "")
        cells = [row.row, _number(row.nominal_bits_per_weight, 3), _number(row.bits_per_weight, 3), seeds]
        cells += [_with_error(row.validation, row.validation_error), _with_error(row.test, row.test_error)]
        parts.append(f"| {' | '.join([*cells, published, _number(row.difference)])} |")
    sources = list(dict.fromkeys(row.source for row in table if row.source))
    parts += ["", *(f"Published: {source}" for source in sources)] if sources else []
    if differences:
        parts += ["", "| difference | split | points |", "| --- | --- | --- |"]
        parts += [
            f"| {one.first} - {one.second} | {one.split} | {_with_error(one.points, one.error, sign='+')} |"
            for one in differences
        ]
    return "\n".join(parts) + "\n"


def _values(planned: Sequence[tuple[str, int, str]], book: Book, split: str) -> dict[str, list[float]]:
    """Accuracies of each row; on the test set of rows whose every trained model has been read, as in the table."""
    done: dict[str, list[Line]] = {}
    for name, _, key in planned:
        if key in book.lines and book.lines[key].state == DONE:
            done.setdefault(name, []).append(book.lines[key])
    if split == "validation":
        return {name: [100 * line.val_accuracy for line in lines] for name, lines in done.items()}
    return {
        name: [100 * book.readings[line.key].test_accuracy for line in lines]
        for name, lines in done.items()
        if all(line.key in book.readings for line in lines)
    }


def _point(row: TableRow, split: str) -> Point:
    if split == "test":
        return Point(row.row, row.test, row.test_error)
    return Point(row.row, row.validation, row.validation_error)


def _rounded(value: float, digits: int = 3) -> float:
    return round(value, digits)


def _number(value: float, digits: int = 2) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def _with_error(value: float, error: float, sign: str = "") -> str:
    if math.isnan(value):
        return ""
    return f"{value:{sign}.2f}" + ("" if math.isnan(error) else f" ± {error:.2f}")


def _write_csv(path: Path, entries: Sequence[TableRow] | Sequence[Difference], kind: type) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(kind)], lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: "" if v != v else v for k, v in asdict(entry).items()} for entry in entries)
    write_atomically(path, text.getvalue().encode())
