"""How models are trained and scored: one, or many at a time."""

from flexor_search.training.check import check_fits
from flexor_search.training.checkpoint import CHECKPOINT_SECONDS, Checkpoint, say_nothing
from flexor_search.training.choice import choose, is_open
from flexor_search.training.memory import in_halves, is_out_of_memory
from flexor_search.training.score import Score, TrainResult, Watch, evaluate, resolve_precision, seeded
from flexor_search.training.shared import (
    ProfileScorer,
    SharedNetworkError,
    SharedResult,
    check_learned,
    most_scored,
    shared_model,
    train_shared,
)
from flexor_search.training.teacher import Teachers, fresh_model
from flexor_search.training.together import train_together
from flexor_search.training.trainer import placed, train

__all__ = [
    "CHECKPOINT_SECONDS",
    "Checkpoint",
    "ProfileScorer",
    "Score",
    "SharedNetworkError",
    "SharedResult",
    "Teachers",
    "TrainResult",
    "Watch",
    "check_fits",
    "check_learned",
    "choose",
    "evaluate",
    "fresh_model",
    "in_halves",
    "is_open",
    "is_out_of_memory",
    "most_scored",
    "placed",
    "resolve_precision",
    "say_nothing",
    "seeded",
    "shared_model",
    "train",
    "train_shared",
    "train_together",
]
