"""The time that the search phase of a run has taken, over all calls with the same budgets: what `--timeout` limits."""

import json
import time
from contextlib import suppress

from flexor_search.errors import UsageError
from flexor_search.files import write_json
from flexor_search.planning import Budget
from flexor_search.runs import SEARCH, Run


class SearchClock:
    """Runs from its making; what earlier calls took is in clock.json, written after each trial.

    Budgets asked for later have time of their own: what others took is not theirs. A call that was killed took what it
    had written down: at most the trial that it was at is missing. Where the file is lost, the time that all trainings
    of the search took stands for it.

    Args:
        run: whose search it is, for the budgets of its question.
    """

    def __init__(self, run: Run) -> None:
        self._path = run.folder / "clock.json"
        self._budgets = ",".join(sorted({_limit(str(text)) for text in run.question.get("budgets", ())}))
        self._started = time.monotonic()
        self._others: dict[str, float] = {}
        self._before = sum(m.train_seconds for m in run.measurements if m.phase == SEARCH)
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            told = json.loads(self._path.read_text(encoding="utf-8"))["search_seconds"]
            known = {str(budgets): max(0.0, float(seconds)) for budgets, seconds in told.items()}
            self._before = known.pop(self._budgets, 0.0)
            self._others = known

    @property
    def seconds(self) -> float:
        """Of the search so far, in all calls with these budgets."""
        return self._before + time.monotonic() - self._started

    def write(self) -> None:
        """Have it on disk.

        Raises:
            RunError: the folder is not writable or the disk is full.
        """
        write_json(self._path, {"search_seconds": self._others | {self._budgets: round(self.seconds, 3)}})


def _limit(text: str) -> str:
    """A budget, the same for all the ways to write it."""
    with suppress(UsageError):
        return " ".join(map(str, Budget.parse(text).key))
    return text
