"""Training by a loop of the user's own; what is the tool's stays with the tool: scores, slopes, early stopping."""

import math
import time

import torch
from torch import nn

from flexor_search.errors import FlexorError, TrainingError
from flexor_search.planning import Recipe
from flexor_search.quantization import shared_s_tanh
from flexor_search.training.score import Score, TrainResult, Watch, evaluate
from flexor_search.workloads import Data, Own, name_of
from flexor_search.workloads.own import first_line


def train_by_own(
    own: Own, model: nn.Module, data: Data, recipe: Recipe, *, seed: int, device: str, on_epoch: Watch | None
) -> TrainResult:
    """Train a model in place by the loop in `own`; the other arguments are those of `train`.

    Raises:
        TrainingError: the loop raises, changes what the model is made of, or leaves a loss that is not finite.
    """
    assert own.train is not None
    name, started, made_of = name_of(own.train), time.perf_counter(), _made_of(model)
    report = _Report(own, model, data, recipe, device, on_epoch)
    model.train()
    try:
        own.train(model, data.train, data.validation, recipe, seed, report)
    except (FlexorError, MemoryError, torch.OutOfMemoryError):
        raise
    except (Exception, SystemExit) as error:  # the user's code runs here
        raise TrainingError(f"train: {name} raised {type(error).__name__}: {first_line(error)}") from error
    if changed := made_of ^ _made_of(model):
        what = ", ".join(sorted({f"{key} {shape} {dtype}".replace("torch.", "") for key, shape, dtype in changed})[:3])
        raise TrainingError(f"train: {name} must train the model in place; it changed what it is made of: {what}")
    score = evaluate(model, data.validation, device=device, recipe=recipe, own=own)
    if not math.isfinite(score.loss):
        raise TrainingError(f"train: {name} left a model whose validation loss is {score.loss}")
    epochs = report.epochs or recipe.epochs
    return TrainResult(score, epochs, report.stopped, time.perf_counter() - started)


class _Report:
    """What a loop calls after each epoch."""

    def __init__(
        self, own: Own, model: nn.Module, data: Data, recipe: Recipe, device: str, on_epoch: Watch | None
    ) -> None:
        self.epochs, self.stopped = 0, False
        self._own, self._model, self._data, self._recipe = own, model, data, recipe
        self._device, self._on_epoch = device, on_epoch
        self._s_tanh = shared_s_tanh(model)
        self._set_slope()

    def __call__(self) -> bool:
        """Score the model, set the slope for the next epoch, and tell whether to end here."""
        self.epochs += 1
        self._set_slope()
        if self.epochs >= self._recipe.epochs:
            return True
        if self._on_epoch is not None and not self.stopped:
            self.stopped = self._on_epoch(self.epochs, self._score())
        return self.stopped

    def _score(self) -> Score:
        was_training = {module: module.training for module in self._model.modules()}
        score = evaluate(self._model, self._data.validation, device=self._device, recipe=self._recipe, own=self._own)
        for module, training in was_training.items():
            module.training = training
        return score

    def _set_slope(self) -> None:
        if self._s_tanh is not None:
            self._s_tanh.fill_(self._recipe.s_tanh_at(min(1.0, self.epochs / self._recipe.epochs)))


def _made_of(model: nn.Module) -> set[tuple[str, tuple[int, ...], str]]:
    return {(name, tuple(tensor.shape), str(tensor.dtype)) for name, tensor in model.state_dict().items()}
