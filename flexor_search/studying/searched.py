"""Rows that are what a search chooses: the search runs once, in a folder of its own."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import tomli_w

from flexor_search import api
from flexor_search.asking import Question
from flexor_search.files import write_atomically
from flexor_search.planning import Allocation
from flexor_search.runs import Run
from flexor_search.studying.rows import Row

if TYPE_CHECKING:
    from flexor_search.studying.work import StudyQuestion

SEARCH_SEEDS = 3
"""Trainings of each finalist of a search; their seeds are none of the study's."""


def searched_allocation(
    row: Row, asked: "StudyQuestion", folder: Path, device: str, tell: Callable[[str], None]
) -> Allocation:
    """Search for a row's budget, or look up what was found.

    Args:
        row: with a budget.
        asked: data and what is cut for trying out.
        folder: of the study's results; the run is searches/ROW in it.
        device: where to train.
        tell: is told of progress.
    """
    place = folder / "searches" / re.sub(r"[^\w.-]+", "-", row.name)
    chosen = place / f"allocation-{row.table.search}.json"
    if not _is_complete(place) or not chosen.exists():
        tell(f"{row.name}: searching at {row.table.search}; the run is {place}")
        place.mkdir(parents=True, exist_ok=True)
        recipe = row.task.recipe.to_json()
        if asked.images:
            recipe["search_images"] = min(asked.images, recipe["search_images"] or asked.images)
        write_atomically(place / "recipe.toml", tomli_w.dumps(recipe).encode())
        question = Question(
            budget=row.table.search or "",
            workload=row.table.workload,
            data_dir=asked.data_dir,
            recipe=str(place / "recipe.toml"),
            trials=row.table.trials,
            seeds=min(SEARCH_SEEDS, asked.seeds or SEARCH_SEEDS),
            jobs=asked.jobs,
            device=device,
        )
        api.search(question, place)
    return Allocation.from_json(row.space.model, json.loads(chosen.read_text(encoding="utf-8")))


def _is_complete(place: Path) -> bool:
    if not (place / "summary.json").exists():
        return False
    summary = Run.open(place).summary()
    return summary is not None and summary.get("state") == "complete"
