"""A workload: model, data and recipe under one name."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from flexor_search.planning import Recipe
from flexor_search.workloads.data import Data
from flexor_search.workloads.own import NO_OWN, Own


@dataclass(frozen=True)
class Workload:
    """What a search works on.

    Attributes:
        name: of a built-in workload; "" for a user's own.
        build: makes the model, with logits out; called again for every training.
        load: makes the data; takes the folder given by --data-dir, or None.
        recipe: how the model is trained.
        space: name of the shipped search space, "" for the default rule.
        trials: default number of search trials, baselines included.
        timeout_seconds: default limit of the search phase; confirmation comes after it.
        own: a training loop or a metric in place of the project's.
    """

    name: str
    build: Callable[[], nn.Module]
    load: Callable[[Path | None], Data]
    recipe: Recipe
    space: str = ""
    trials: int = 40
    timeout_seconds: float = 3600.0
    own: Own = NO_OWN
