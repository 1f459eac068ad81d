"""The time that the search phase of a run has taken, over all its calls: `--timeout` is a limit of the sum."""

import json
import time
from contextlib import suppress

from flexor_search.files import write_json
from flexor_search.runs import SEARCH, Run


class SearchClock:
    """Runs from its making; what earlier calls took is in clock.json, written after each trial.

    A call that was killed took what it had written down: at most the trial that it was at is missing. Where the file is
    lost, the time that its trainings took stands for it.

    Args:
        run: whose search it is.
    """

    def __init__(self, run: Run) -> None:
        self._path = run.folder / "clock.json"
        self._started = time.monotonic()
        self._before = sum(m.train_seconds for m in run.measurements if m.phase == SEARCH)
        with suppress(OSError, ValueError, KeyError, TypeError):
            self._before = max(0.0, float(json.loads(self._path.read_text(encoding="utf-8"))["search_seconds"]))

    @property
    def seconds(self) -> float:
        """Of the search so far, in all calls."""
        return self._before + time.monotonic() - self._started

    def write(self) -> None:
        """Have it on disk.

        Raises:
            RunError: the folder is not writable or the disk is full.
        """
        write_json(self._path, {"search_seconds": round(self.seconds, 3)})
