"""What a scenario is given, and what it comes to."""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


class Unavailable(Exception):
    """The scenario cannot run here; says what is missing."""


@dataclass(frozen=True)
class Settings:
    """What a scenario is given.

    Attributes:
        folder: an empty one, for all that it makes.
        kills: how many processes or nodes to kill.
        seed: of when and where they are killed.
        quick: a few kills on the smallest run, to see that it works.
    """

    folder: Path
    kills: int
    seed: int
    quick: bool


@dataclass(frozen=True)
class Outcome:
    """What a scenario came to; all counts should be 0 but kills and runs.

    Attributes:
        kills: processes or nodes that were killed at work.
        lost: finished measurements that were not there afterwards, or changed.
        repeated: measurements that are there twice, or that were made again after they had finished.
        unverified: runs that did not end with a verified model for each budget.
        worst_recovery_seconds: from the start of the process that resumes until it is at new work.
        different: runs whose summary is not that of the same run left alone.
        unreadable: files that could not be read, after a kill or at the end; named in `complaints`.
        runs: that were brought to their end.
        work_lost_seconds_per_kill: mean time of training that had to be done again, or waited to be.
        worst_work_lost_seconds: the most of it.
        moments: where the kills hit.
        complaints: what was wrong, in words.
    """

    kills: int
    lost: int
    repeated: int
    unverified: int
    worst_recovery_seconds: float
    different: int
    unreadable: int
    runs: int
    work_lost_seconds_per_kill: float
    worst_work_lost_seconds: float
    moments: dict[str, int]
    complaints: list[str]

    @property
    def is_clean(self) -> bool:
        """Whether nothing was lost, repeated, unverified, different or unreadable."""
        return not (self.lost or self.repeated or self.unverified or self.different or self.unreadable)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass
class Tally:
    """Counts while a scenario runs."""

    lost: int = 0
    repeated: int = 0
    unverified: int = 0
    different: int = 0
    unreadable: int = 0
    runs: int = 0
    moments: Counter[str] = field(default_factory=Counter)
    work_lost_seconds: list[float] = field(default_factory=list)
    recovery_seconds: list[float] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        """So far."""
        return sum(self.moments.values())

    def killed(self, moment: str, work_lost_seconds: float) -> None:
        """One more was killed at a moment; so much training since the last state on disk is gone."""
        self.moments[moment] += 1
        self.work_lost_seconds.append(work_lost_seconds)

    def complain(self, kind: str, complaints: Sequence[str]) -> None:
        """Count complaints under one of the fields: "lost", "repeated", "unverified", "different", "unreadable"."""
        setattr(self, kind, getattr(self, kind) + len(complaints))
        self.complaints += [f"{kind}: {complaint}" for complaint in complaints]

    def outcome(self) -> Outcome:
        """All of it."""
        return Outcome(
            kills=self.kills,
            lost=self.lost,
            repeated=self.repeated,
            unverified=self.unverified,
            worst_recovery_seconds=round(max(self.recovery_seconds, default=0.0), 2),
            different=self.different,
            unreadable=self.unreadable,
            runs=self.runs,
            work_lost_seconds_per_kill=round(statistics.fmean(self.work_lost_seconds or [0.0]), 3),
            worst_work_lost_seconds=round(max(self.work_lost_seconds, default=0.0), 3),
            moments=dict(sorted(self.moments.items())),
            complaints=self.complaints,
        )
