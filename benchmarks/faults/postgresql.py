"""Two workers on one PostgreSQL server: one is killed at a random moment and started again, until the run is done.

What both folders come to is compared with a run of one process that nobody shared and nobody killed. A measurement
that two workers had made would stand in their folders with two times and two names: that counts as repeated.
"""

import random
from collections.abc import Sequence
from pathlib import Path

from benchmarks.faults import checks, journal
from benchmarks.faults.process import Child, run_to_end
from benchmarks.faults.single import QUESTION, QUICK, kill_until_done, moment_seconds
from benchmarks.faults.tally import Outcome, Settings, Tally, Unavailable
from benchmarks.postgresql_server import Server, binaries, server
from flexor_search.runs import Run

_AHEAD = ("--ahead", "7")
"""Of one process: what workers on a storage have by default."""


def run(settings: Settings) -> Outcome:
    """All kills of one of two workers."""
    if binaries() is None:
        raise Unavailable("needs Debian's postgresql")
    # Workers on a storage train directly where nothing else is asked for; what they are compared with has to as well.
    question = ("--strategy", "direct", *(QUICK if settings.quick else QUESTION))
    asked = question[:-2]  # without --jobs
    random_numbers, tally = random.Random(settings.seed), Tally()
    whole = settings.folder / "whole"
    run_to_end(settings.folder / "whole.journal", None, [*question, *_AHEAD, "--quiet", "--out", whole])
    tally.complain("unverified", checks.unverified(whole))
    with server() as running:
        lengths: dict[str, tuple[float, int]] = {}
        while tally.kills < settings.kills:
            lengths = _one_run(settings, running, asked, whole, lengths, random_numbers, tally)
    return tally.outcome()


def _one_run(
    settings: Settings,
    running: Server,
    asked: Sequence[str],
    whole: Path,
    lengths: dict[str, tuple[float, int]],
    random_numbers: random.Random,
    tally: Tally,
) -> dict[str, tuple[float, int]]:
    """Two workers on a new database; returns how long the moments lasted for the one that was left alone."""
    storage = running.database(f"run_{tally.runs}")
    folders = [settings.folder / f"run-{tally.runs}-{name}" for name in ("alone", "killed")]
    told = [folder.with_suffix(".journal") for folder in folders]
    args = [*asked, "--quiet", "--storage", storage]
    alone = Child(told[0], None, [*args, "--out", folders[0]])
    if not lengths:  # the first time nobody is killed, to see how long each moment lasts
        run_to_end(told[1], None, [*args, "--out", folders[1]])
    else:
        command = [*args, "--out", folders[1]]
        kill_until_done(settings, folders[1], command, command, lengths, random_numbers, tally)
    ended = alone.wait()
    if ended.code:
        raise RuntimeError(f"the worker that was left alone ended with {ended.code}: {ended.errors[-2000:]}")
    for folder in folders:
        tally.complain("repeated", checks.repeated(folder))
        tally.complain("unverified", checks.unverified(folder))
        tally.complain("unreadable", [*checks.unreadable(folder), *checks.untidy(folder)])
        tally.complain("different", _different(folder, whole))
    tally.complain("repeated", _made_by_two(*folders))
    tally.runs += 1
    return moment_seconds(journal.read(told[0]))


def _different(folder: Path, whole: Path) -> list[str]:
    """As `checks.different`, but in whatever order the lines came."""
    complaints = []
    if Run.open(folder).summary() != Run.open(whole).summary():
        complaints.append(f"{folder.name}: summary.json")
    here, there = ({m.number: checks.as_text(m) for m in checks.measured(each)} for each in (folder, whole))
    if here != there:
        complaints.append(f"{folder.name}: measurements.csv")
    shipped = [path.name for path in whole.glob("model-*.safetensors")]
    changed = [name for name in shipped if (folder / name).read_bytes() != (whole / name).read_bytes()]
    return [*complaints, *(f"{folder.name}: {name}" for name in changed)]


def _made_by_two(one: Path, other: Path) -> list[str]:
    """Measurements that stand in two folders with different makers or times."""
    here, there = ({m.key: m for m in checks.measured(folder)} for folder in (one, other))
    return [f"{key} was trained by two workers" for key in here.keys() & there.keys() if here[key] != there[key]]
