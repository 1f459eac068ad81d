"""What a killed process leaves lying in a run folder, and nobody will use any more."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from flexor_search.runs.measurement import Measurement


def sweep(folder: Path, measurements: Iterable[Measurement], *, is_done: bool = False) -> list[Path]:
    """Take leftovers away; only who holds the folder's lock may.

    Those are files under a temporary name, checkpoints of trainings that have their measurement, packed files that have
    none, and at the end the models that others learned from.

    Args:
        folder: of the run.
        measurements: all that were made.
        is_done: whether the run has come to its end; then no checkpoint and no teacher is of use.

    Returns:
        What was taken away.
    """
    trained = folder / "trained"
    measured = list(measurements)
    finished = {unfinished_name(m.key) for m in measured}
    numbers = {str(m.number) for m in measured}
    found = [*folder.glob(".*.tmp"), *trained.glob(".*.tmp"), *trained.glob(".unproven-*")]
    found += [path for path in trained.glob("unfinished-*") if is_done or path.name in finished]
    found += trained.glob("teacher-*") if is_done else []
    found += [path for path in trained.iterdir() if path.stem.isdecimal() and path.stem not in numbers]
    gone = []
    for path in dict.fromkeys(found):
        with suppress(OSError):  # what cannot be taken away does no harm
            path.unlink()
            gone.append(path)
    return gone


def unfinished_name(key: tuple[str, str, int]) -> str:
    """The name of the checkpoint of a training that is under way."""
    digest, phase, seed = key
    return f"unfinished-{digest}-{phase}-{seed}.safetensors"
