"""How one model is trained and scored."""

from flexor_search.training.trainer import Score, TrainResult, check_fits, evaluate, resolve_precision, seeded, train

__all__ = ["Score", "TrainResult", "check_fits", "evaluate", "resolve_precision", "seeded", "train"]
