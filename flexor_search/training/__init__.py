"""How models are trained and scored: one, or many as one."""

from flexor_search.training.choice import choose, is_open
from flexor_search.training.stacked import stackable_groups, train_stacked, why_not_stackable
from flexor_search.training.trainer import Score, TrainResult, check_fits, evaluate, resolve_precision, seeded, train

__all__ = [
    "Score",
    "TrainResult",
    "check_fits",
    "choose",
    "evaluate",
    "is_open",
    "resolve_precision",
    "seeded",
    "stackable_groups",
    "train",
    "train_stacked",
    "why_not_stackable",
]
