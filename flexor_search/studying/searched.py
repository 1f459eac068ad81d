"""Rows that are what a search chooses: it runs once for all budgets of a workload, in a folder of its own."""

import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import tomli_w

from flexor_search import api
from flexor_search.asking import Question
from flexor_search.errors import RunError
from flexor_search.files import write_atomically
from flexor_search.planning import Allocation, Budget
from flexor_search.runs import Measurement
from flexor_search.studying.asked import StudyQuestion
from flexor_search.studying.rows import Row
from flexor_search.tuning import Silent

SEARCH_SEEDS = 3
"""Trainings of each finalist of a search; their seeds are none of the study's."""


def searched_allocations(
    rows: Sequence[Row],
    asked: StudyQuestion,
    folder: Path,
    device: str,
    tell: Callable[[str], None],
    check_time: Callable[[], None],
    wanted: Collection[str],
) -> dict[str, Allocation]:
    """Search for the budgets of rows, or look up what was found.

    Rows of one workload, recipe and number of trials share a run: many budgets cost little more than one.

    Args:
        rows: with a budget each.
        asked: data and what is cut for trying out.
        folder: of the study's results; the runs are in searches/ there.
        device: where to train.
        tell: is told of progress.
        check_time: is called between trainings, and raises when the time is over; the run goes on in a later call.
        wanted: names of rows; runs that are for none of them wait.

    Returns:
        Name of a row -> what was chosen for it.
    """
    runs: dict[tuple[str, str, int], list[Row]] = {}
    for row in rows:
        recipe = row.task.recipe.to_json()
        if asked.images:
            recipe["search_images"] = min(asked.images, recipe["search_images"] or asked.images)
        runs.setdefault((row.table.workload, tomli_w.dumps(recipe), row.table.trials), []).append(row)
    found: dict[str, Allocation] = {}
    for (workload, recipe_toml, trials), some in runs.items():
        if not any(row.name in wanted for row in some):
            continue
        limits = {row.name: Budget.parse(str(row.table.search)) for row in some}
        asked_for = Budget.parse_list(",".join(budget.text for budget in limits.values()))
        budgets = ",".join(budget.text for budget in asked_for)
        menus = [(variable.layers, [spec.label for spec in variable.menu]) for variable in some[0].space.variables]
        seeds = min(SEARCH_SEEDS, asked.seeds or SEARCH_SEEDS)
        tried_out = f" {seeds}" if seeds < SEARCH_SEEDS else ""  # which is no answer for the study itself
        digest = hashlib.sha256(f"{recipe_toml} {trials} {budgets} {menus}{tried_out}".encode()).hexdigest()[:8]
        place = folder / "searches" / f"{workload}-{digest}"
        if not _is_complete(place):
            tell(f"{', '.join(row.name for row in some)}: searching at {budgets}; the run is {place}")
            place.mkdir(parents=True, exist_ok=True)
            write_atomically(place / "recipe.toml", recipe_toml.encode())
            question = Question(
                budget=budgets,
                workload=workload,
                data_dir=asked.data_dir,
                recipe=str(place / "recipe.toml"),
                trials=trials,
                seeds=seeds,
                jobs=asked.jobs,
                device=device,
            )
            api.search(question, place, _Timed(check_time))
        for row in some:
            same = next(b for b in asked_for if b.key == limits[row.name].key)
            path = place / f"allocation-{same.text}.json"
            if not path.exists():
                raise RunError(f"study: {path} is missing from a finished search; delete {place} to search again")
            found[row.name] = Allocation.from_json(row.space.model, json.loads(path.read_text(encoding="utf-8")))
    return found


class _Timed(Silent):
    def __init__(self, check_time: Callable[[], None]) -> None:
        self._check_time = check_time

    def begin(self, what: str) -> None:
        self._check_time()

    def measured(self, measurement: Measurement, best: str) -> None:
        self._check_time()


def _is_complete(place: Path) -> bool:
    """Whether a search has ended, of which its summary and its allocations are enough."""
    path = place / "summary.json"
    try:
        return path.exists() and json.loads(path.read_text(encoding="utf-8"))["state"] == "complete"
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"study: {path} is damaged: {error}; delete {place} to search again") from error
