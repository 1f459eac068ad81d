"""sensitivity.json: what the shared network of a run told, and the model of accuracy fitted to it and to trainings.

fingerprint   what the scores are of: the run's own, without what does not touch them
network       how it was trained, and what that and the scoring cost; empty where every trial trained
failed        why there are no scores, "" where there are
complete      whether all that was to be scored has been; false where the time did not last
scores        one entry an allocation: its profile (menu indices), accuracy and loss on the validation split
own_rates     where ties were found: the layers that are let go of theirs, and by how many standard errors each differs
              from the others; absent before that is known
table         for each layer and rate what it is predicted to lose
model         all else that was fitted; `level` is what an allocation is predicted to have that loses nothing

Scores of the shared network are no trainings, so they are not in measurements.csv.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flexor_search.errors import RunError
from flexor_search.files import write_json
from flexor_search.planning import SearchSpace
from flexor_search.planning.space import Profile

FILE = "sensitivity.json"
_APART = ("strategy", "format")
"""Parts of a run's fingerprint that no score depends on."""


class DamagedError(RunError):
    """sensitivity.json cannot be read; all in it can be made again."""


@dataclass(frozen=True)
class SharedScore:
    """What the shared network has for one allocation.

    Attributes:
        profile: its menu indices.
        accuracy: on the validation split, 0 to 1.
        loss: mean cross-entropy there.
    """

    profile: Profile
    accuracy: float
    loss: float


@dataclass(frozen=True)
class Sensitivity:
    """The content of the file.

    Attributes:
        fingerprint: see `identity`.
        network: how the shared network was trained: paths, epochs, images, train_seconds, score_seconds,
            training_equivalents.
        scores: in the order in which they were made.
        complete: whether all that was to be scored has been.
        failed: why there are none, "" where there are.
        model: the fitted model, as plain data; {} before it is fitted.
        own_rates: layers let go of ties that were found, and by how many standard errors each differs; None: not known,
            or no ties were found.
    """

    fingerprint: dict[str, str]
    network: dict[str, Any] = field(default_factory=dict)
    scores: tuple[SharedScore, ...] = ()
    complete: bool = False
    failed: str = ""
    model: dict[str, Any] = field(default_factory=dict)
    own_rates: dict[str, float] | None = None

    def adding(self, scores: Iterable[SharedScore], seconds: float) -> "Sensitivity":
        """The same with more scores, which took so long; they may let other layers go of their ties."""
        spent, more = round(self.network.get("score_seconds", 0.0) + seconds, 3), tuple(scores)
        return replace(
            self,
            scores=(*self.scores, *more),
            network=self.network | {"score_seconds": spent},
            own_rates=None if more else self.own_rates,
        )

    def write(self, folder: Path) -> None:
        """Write it into a run folder, whole or not at all.

        Raises:
            RunError: the folder is not writable or the disk is full.
        """
        model = dict(self.model)
        body = {
            "fingerprint": self.fingerprint,
            "network": self.network,
            "failed": self.failed,
            "complete": self.complete,
            "table": model.pop("sensitivities", []),
            "model": model,
            "scores": [
                {"profile": list(s.profile), "val_accuracy": s.accuracy, "val_loss": s.loss} for s in self.scores
            ],
        } | ({"own_rates": self.own_rates} if self.own_rates is not None else {})
        write_json(folder / FILE, body)


def identity(fingerprint: dict[str, str]) -> dict[str, str]:
    """The part of a run's fingerprint that the scores depend on: model, data, space, recipe, seed, code."""
    return {name: value for name, value in fingerprint.items() if name not in _APART}


def is_of_network(folder: Path) -> bool:
    """Whether a run folder has a file that a shared network began, and that can be read.

    Args:
        folder: of the run; a search that trains every trial leaves a file with nothing but its model.
    """
    try:
        body = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return bool(body["network"] or body["failed"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def own_sensitivity(folder: Path, fingerprint: dict[str, str]) -> dict[str, Any] | None:
    """The file as it is, for who shows it and knows no search space; None if there is none that is this run's.

    Args:
        folder: of the run.
        fingerprint: the run's; a file of another model, data, space, recipe, seed or code is none of this run's.
    """
    try:
        body = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return body if body["fingerprint"] == identity(fingerprint) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_sensitivity(folder: Path, space: SearchSpace, fingerprint: dict[str, str]) -> Sensitivity | None:
    """Read the file of a run folder; None if there is none.

    Args:
        folder: of the run.
        space: which the profiles must be of: the run's, found ties opened.
        fingerprint: the run's.

    Raises:
        RunError: it is of another model, data, space, recipe, seed or code; what differs is named.
        DamagedError: it is no such file, or was cut short.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        theirs = {str(name): str(value) for name, value in body["fingerprint"].items()}
        is_ours = theirs == identity(fingerprint)
        scores = tuple(_score(entry, space) for entry in body["scores"]) if is_ours else ()
        found = Sensitivity(
            theirs,
            dict(body["network"]),
            scores,
            body["complete"] is True,
            str(body["failed"]),
            dict(body["model"]) | {"sensitivities": list(body["table"])},
            _own_rates(body["own_rates"], space) if is_ours and "own_rates" in body else None,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error) if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {error}"
        raise DamagedError(f"{path} is damaged or cut short: {reason.splitlines()[0]}") from error
    ours = identity(fingerprint)
    differing = [
        f"{name} (there {theirs.get(name, 'absent')}, here {ours.get(name, 'absent')})"
        for name in sorted(theirs.keys() | ours.keys())
        if theirs.get(name) != ours.get(name)
    ]
    if differing:
        raise RunError(
            f"{path} is of another search; what differs: {', '.join(differing)}. Delete it to train the shared network "
            "again, or choose another --out"
        )
    return found


def _score(body: Any, space: SearchSpace) -> SharedScore:
    profile = tuple(body["profile"])
    menus = [len(variable.menu) for variable in space.variables]
    if len(profile) != len(menus) or not all(
        type(index) is int and 0 <= index < count for index, count in zip(profile, menus, strict=True)
    ):
        raise ValueError(f"{list(profile)} is no profile of this space")
    accuracy, loss = float(body["val_accuracy"]), float(body["val_loss"])
    if not 0 <= accuracy <= 1 or not math.isfinite(loss):
        raise ValueError(f"accuracy {accuracy} and loss {loss} are no score")
    return SharedScore(profile, accuracy, loss)


def _own_rates(body: Any, space: SearchSpace) -> dict[str, float]:
    found = {str(name): float(errors) for name, errors in body.items()}
    alone = {variable.layers[0] for variable in space.variables if len(variable.layers) == 1}
    if unknown := sorted(found.keys() - alone):
        raise ValueError(f"{unknown[0]!r} is no layer that could have a rate of its own")
    return found
