"""One process, killed at a random moment and resumed, until the run is done; then the next run, until enough died.

First a run is left alone: it shows what the others must come to, and how long each moment lasts. Every kill then draws
a moment, one of its first occurrences in that process, and a time within what such a moment lasts.
"""

import random
import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.faults import checks, journal
from benchmarks.faults.child import MOMENTS, Kill
from benchmarks.faults.process import Ended, run_to_end
from benchmarks.faults.tally import Outcome, Settings, Tally

_NO_LIMIT = ("--timeout", "36000")
"""Of seconds of the search: how busy a machine is must not decide how many trials a run makes."""
_ALONE = ("--device", "cpu", *_NO_LIMIT, "--jobs", "1")
QUESTION = ("--budget", "0.7bpw", "--trials", "8", "--epochs", "8", "--seeds", "2", *_ALONE)
QUICK = ("--budget", "0.7bpw", "--trials", "3", "--epochs", "2", "--seeds", "1", *_ALONE)
_MOST_OCCURRENCES = 3
"""A kill waits for at most so many occurrences of its moment, so that a run is killed several times."""


def run(settings: Settings) -> Outcome:
    """All kills of a single process."""
    question = QUICK if settings.quick else QUESTION
    random_numbers, tally = random.Random(settings.seed), Tally()
    whole = settings.folder / "whole"
    told = settings.folder / "whole.journal"
    run_to_end(told, None, [*question, "--quiet", "--out", whole])
    lengths = moment_seconds(journal.read(told))
    tally.complain("unverified", checks.unverified(whole))
    while tally.kills < settings.kills:
        folder = settings.folder / f"run-{tally.runs}"
        begins, goes_on = [*question, "--quiet", "--out", folder], ["resume", folder, "--quiet"]
        kill_until_done(settings, folder, begins, goes_on, lengths, random_numbers, tally)
        check_finished(folder, whole, tally)
        if not tally.complaints:  # what is complained about is kept to be looked at
            shutil.rmtree(folder)
    return tally.outcome()


def kill_until_done(
    settings: Settings,
    folder: Path,
    begins: Sequence[object],
    goes_on: Sequence[object],
    lengths: dict[str, tuple[float, int]],
    random_numbers: random.Random,
    tally: Tally,
) -> None:
    """Begin with one command and go on with the other, killed while kills are wanted, until it is done."""
    told = folder.with_suffix(".journal")
    while True:
        kill = draw(random_numbers, lengths) if tally.kills < settings.kills else None
        resuming = (folder / "run.toml").exists()
        ended = run_to_end(told, kill, goes_on if resuming else begins)
        events = journal.read(told)
        if resuming and (seconds := journal.recovery_seconds(events, ended.process, ended.started)) is not None:
            tally.recovery_seconds.append(seconds)
        tally.complain("lost", checks.lost(folder, journal.finished(events)))
        if not ended.was_killed:
            tally.complain("repeated", journal.made_again(events))
            return
        note_kill(events, ended, tally)
        tally.complain("unreadable", checks.unreadable(folder))


def note_kill(events: list[journal.Event], ended: Ended, tally: Tally) -> None:
    """Count a kill by the moment that it hit."""
    died = next((e.at for e in events if e.process == ended.process and e.event == journal.KILL), ended.ended)
    lost = journal.work_lost_seconds(events, ended.process, died)
    tally.killed(journal.moment_hit(events, ended.process), lost)


def check_finished(folder: Path, whole: Path, tally: Tally) -> None:
    """What must hold of a run at its end."""
    tally.runs += 1
    tally.complain("repeated", checks.repeated(folder))
    tally.complain("unverified", checks.unverified(folder))
    tally.complain("unreadable", [*checks.unreadable(folder), *checks.untidy(folder)])
    tally.complain("different", checks.different(folder, whole))


def moment_seconds(events: list[journal.Event]) -> dict[str, tuple[float, int]]:
    """How long each moment lasts in a run, median, and how often it occurs."""
    begun: dict[str, float] = {}
    lasted: dict[str, list[float]] = {moment: [] for moment in MOMENTS}
    for event in events:
        if event.event == journal.BEGIN:
            begun[event.moment] = event.at
        elif event.event == journal.END:
            lasted[event.moment].append(event.at - begun[event.moment])
    return {moment: (statistics.median(times), len(times)) for moment, times in lasted.items() if times}


def draw(random_numbers: random.Random, lengths: dict[str, tuple[float, int]]) -> Kill:
    """A moment, an occurrence and a time at random."""
    moment = random_numbers.choice(sorted(lengths))
    seconds, count = lengths[moment]
    occurrence = random_numbers.randint(1, min(count, _MOST_OCCURRENCES))
    return Kill(moment, occurrence, random_numbers.uniform(0.0, 1.1 * seconds))
