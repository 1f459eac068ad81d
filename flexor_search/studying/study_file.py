"""What a study asks, as written in its study.toml; checked, with the nearest known key for one that is not known."""

import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flexor_search.errors import UsageError, nearest
from flexor_search.planning.space_file import explain_validation

FILE = "study.toml"


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class RowTable(_Table):
    """One row: what is trained. Exactly one of rate, layers, search and full_precision says which allocation.

    Attributes:
        name: of the row, once in a study.
        workload: a built-in one.
        rate: of all searched layers: "12/20" is 12 stored bits per 20 weights.
        layers: pattern of layer names -> rate; every searched layer must match one, the last that matches counts.
        search: a budget; the row is what a search of this project chooses for it, trained anew with the study's seeds.
        full_precision: every layer as it is, in float32.
        trials: of the search; 0: the workload's.
        family, planes, n_tap: of the codes, as in a search space.
        code_seed: of the codes; absent: that of the training, so that the spread over seeds is over codes too.
        spread: whether the first n_in rows of a code, the identity rows, lie evenly among the others.
        slice_order: which weights share a slice: "planes" (far apart, the project's order) or "consecutive" (the
            paper's; trained and scored, and not packed).
        recipe: fields of the recipe that differ from the study's.
        nominal: the bits per weight that the row should have by the paper's count; checked before anything is trained.
        published: accuracy of this row in percent, by `source`.
        source: of the published figure.
        certainty: how sure the figure is.
    """

    name: str
    workload: str
    rate: str | None = None
    layers: dict[str, str] | None = None
    search: str | None = None
    full_precision: bool = False
    trials: int = 0
    family: str = "systematic"
    planes: int = 1
    n_tap: int = 2
    code_seed: int | None = None
    spread: bool = False
    slice_order: Literal["planes", "consecutive"] = "planes"
    recipe: dict[str, Any] = Field(default_factory=dict)
    nominal: float | None = None
    published: float | None = None
    source: str = ""
    certainty: str = ""


class CompareTable(_Table):
    """Two rows whose difference is of interest: the first less the second."""

    first: str
    second: str


class FigureTable(_Table):
    """Rows to be drawn beside each other, and what the figure is about."""

    title: str
    rows: list[str]


class StudyFile(_Table):
    """A study.

    Attributes:
        question: in one line.
        seeds: trainings of each row, seeds 0, 1, ...
        recipe: fields that differ from each workload's own recipe, for all rows.
        row, compare, figure: the tables above.
    """

    question: str
    seeds: int = Field(default=3, ge=1, le=1000)
    recipe: dict[str, Any] = Field(default_factory=dict)
    row: list[RowTable]
    compare: list[CompareTable] = Field(default_factory=list)
    figure: list[FigureTable] = Field(default_factory=list)


def read_study(folder: str | Path) -> StudyFile:
    """Read study.toml of a folder.

    Raises:
        UsageError: no such file, not TOML, an unknown key (the nearest is named), a value of the wrong type, or rows
            that contradict themselves.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        raise UsageError(f"study: {folder} holds no {FILE}; name a folder of studies/, or write one")
    try:
        body = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise UsageError(f"study: {path} is not readable TOML: {error}") from error
    try:
        study = StudyFile.model_validate(body)
    except ValidationError as error:
        told = explain_validation(error, StudyFile, RowTable, CompareTable, FigureTable)
        raise UsageError(f"study: {path}: {told}") from error
    _check_rows(path, study)
    return study


def _check_rows(path: Path, study: StudyFile) -> None:
    if not study.row:
        raise UsageError(f"study: {path} has no [[row]]; give it at least one")
    names = [row.name for row in study.row]
    for row in study.row:
        if names.count(row.name) > 1:
            raise UsageError(f"study: {path} has two rows named {row.name!r}; name each row once")
        ways = {"rate": row.rate, "layers": row.layers, "search": row.search, "full_precision": row.full_precision}
        given = [way for way, value in ways.items() if value]
        if len(given) != 1:
            told = " and ".join(given) if given else "none of them"
            raise UsageError(f"study: row {row.name!r} needs exactly one of {', '.join(ways)}; it has {told}")
        if row.published is not None and not row.source:
            raise UsageError(f"study: row {row.name!r} has a published figure without a source; say whose it is")
    asked = [name for pair in study.compare for name in (pair.first, pair.second)]
    for name in [*asked, *(name for figure in study.figure for name in figure.rows)]:
        if name not in names:
            raise UsageError(f"study: {path} speaks of a row {name!r}; {nearest(name, names)}")
