"""What a row of a study comes to: a workload with its recipe, and for every seed an allocation."""

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, replace

from flexor_search.codes import XorCode
from flexor_search.errors import UsageError, nearest
from flexor_search.planning import (
    Allocation,
    Budget,
    LayerSpec,
    Recipe,
    SearchSpace,
    check_reachable,
    full_precision,
    make_space,
    read_space_file,
)
from flexor_search.quantization import describe
from flexor_search.studying.study_file import RowTable, StudyFile
from flexor_search.workloads import Workload, workload

NOMINAL_TOLERANCE = 0.005
"""By which a row's bits per weight may differ from what the study says: papers round to two digits."""


@dataclass(frozen=True)
class Row:
    """A row, ready to be trained.

    Attributes:
        table: as the study says.
        task: the workload with the row's recipe.
        space: which layers are searched, and what a search may choose from.
        found: what the row's search chose; None before, and for rows without a search.
    """

    table: RowTable
    task: Workload
    space: SearchSpace
    found: Allocation | None = None

    @property
    def name(self) -> str:
        """Of the row."""
        return self.table.name

    def allocation(self, seed: int) -> Allocation:
        """What is trained with a seed.

        Raises:
            UsageError: a rate that cannot be read, or a pattern without a layer.
        """
        if self.table.search:
            assert self.found is not None, "the search comes first"
            return self.found
        if self.table.full_precision:
            return full_precision(self.space.model)
        searched = [name for variable in self.space.variables for name in variable.layers]
        return self.space.allocation_of({name: self._spec(self._rate(name), seed) for name in searched})

    def _rate(self, layer: str) -> str:
        if self.table.rate is not None:
            return self.table.rate
        rates = self.table.layers or {}
        matching = [rate for pattern, rate in rates.items() if fnmatch.fnmatchcase(layer, pattern)]
        if not matching:
            raise UsageError(f"study: row {self.name!r} says nothing of layer {layer!r}; give it a rate in layers")
        return matching[-1]

    def _spec(self, rate: str, seed: int) -> LayerSpec:
        table = self.table
        try:
            n_in, n_out = map(int, rate.split("/"))
        except ValueError as error:
            raise UsageError(f"study: row {self.name!r}: the rate {rate!r} must look like '12/20'") from error
        code_seed = seed if table.code_seed is None else table.code_seed
        try:
            spec = LayerSpec(table.family, n_in, n_out, table.planes, table.n_tap, code_seed)
        except UsageError as error:
            raise UsageError(f"study: row {self.name!r}: {error}") from error
        return _spread(spec) if table.spread else spec


def _spread(spec: LayerSpec) -> LayerSpec:
    """The same code with its first n_in rows, a systematic code's identity rows, evenly among the others; one plane."""
    (code,) = spec.codes
    places = {index * spec.n_out // spec.n_in: taps for index, taps in enumerate(code.taps[: spec.n_in])}
    others = iter(code.taps[spec.n_in :])
    return LayerSpec.from_code(
        XorCode(code.n_in, tuple(places[place] if place in places else next(others) for place in range(spec.n_out)))
    )


def plan_rows(study: StudyFile, epochs: int = 0, only: Sequence[str] = ()) -> list[Row]:
    """The rows of a study, each checked before anything is trained.

    Args:
        study: what is asked.
        epochs: of every training, in place of the recipes' own; 0: theirs.
        only: names of the rows wanted; none: all.

    Raises:
        UsageError: a workload, recipe, rate, pattern or budget that is wrong, or bits per weight that are not the
            nominal ones.
    """
    names = [row.name for row in study.row]
    for name in only:
        if name not in names:
            raise UsageError(f"rows: {name!r} is no row of this study; {nearest(name, names)}")
    spaces: dict[str, SearchSpace] = {}
    rows = []
    for table in study.row:
        if only and table.name not in only:
            continue
        task = workload(table.workload)
        if task.name not in spaces:
            file = read_space_file(task.space) if task.space else None
            spaces[task.name] = make_space(describe(task.build()), file, task.name)
        recipe = Recipe.from_dict(study.recipe | table.recipe, task.recipe)
        if epochs:
            recipe = replace(recipe, epochs=epochs, search_epochs=min(epochs, recipe.search_epochs))
        rows.append(_checked(Row(table, replace(task, recipe=recipe), spaces[task.name])))
    return rows


def _checked(row: Row) -> Row:
    table = row.table
    if table.search:
        budgets = Budget.parse_list(table.search)
        if len(budgets) != 1:
            raise UsageError(f"study: row {row.name!r} must search for one budget, got {table.search!r}")
        check_reachable(row.space, budgets[0])
        return row
    if table.spread and table.planes > 1:
        raise UsageError(f"study: row {row.name!r}: spread goes with one plane, got {table.planes}")
    recipe = row.task.recipe
    if table.slice_order != "planes" and (recipe.pretrained or recipe.from_teacher):
        given = "pretrained" if recipe.pretrained else "from_teacher"
        raise UsageError(f"study: row {row.name!r}: slice_order {table.slice_order!r} does not go with {given}")
    bits = row.allocation(0).nominal_bits_per_weight
    if table.nominal is not None and abs(bits - table.nominal) > NOMINAL_TOLERANCE:
        raise UsageError(
            f"study: row {row.name!r} has {bits:.4g} bits per weight by the paper's count, and nominal says "
            f"{table.nominal:g}; correct one of them"
        )
    return row
