"""Train one model by a recipe, deterministically in its seed; device-neutral, data held as tensors on the device.

Plain torch on purpose: the loop is short, and what is unusual in it (the surrogate's slope follows a schedule of its
own, a trial can be stopped at an epoch) would have to be argued into a framework.
"""

import functools
import logging
import math
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from flexor_search.errors import TrainingError
from flexor_search.planning import Recipe
from flexor_search.quantization import shared_s_tanh
from flexor_search.training.checkpoint import Checkpoint, Saver
from flexor_search.training.images import Shuffler, TrainImages
from flexor_search.training.optimizer import optimizer_of, set_learning_rate
from flexor_search.training.own_loop import train_by_own
from flexor_search.training.score import Score, TrainResult, Watch, evaluate, seeded, training_loss
from flexor_search.training.step import Losses, Step, default_route
from flexor_search.workloads import NO_OWN, Data, Own

CHECK_EVERY = 50  # steps between looks at the loss: each look makes a GPU wait
TELL_SECONDS = 300.0
"""A training tells how far it is about so often: one of ImageNet takes days."""

_log = logging.getLogger(__name__)


def train(
    model: nn.Module,
    data: Data,
    recipe: Recipe,
    *,
    seed: int,
    device: str = "cpu",
    on_epoch: Watch | None = None,
    route: str = "",
    checkpoint: Checkpoint | None = None,
    own: Own = NO_OWN,
    teacher: nn.Module | None = None,
) -> TrainResult:
    """Train a model in place.

    Args:
        model: quantized or not; moved to the device.
        data: `train` is learned from, `validation` scored; `test` is not touched.
        recipe: how; its `epochs` are done on all of `data.train`.
        seed: of the order of images and of dropout. Build and quantize the model under `seeded` for its first values.
        device: "cpu", "cuda", ...
        on_epoch: called with the number of epochs done and the validation score; returns whether to stop. Of a training
            that goes on from a checkpoint it is told the earlier epochs again.
        route: how a step is done, one of step.ROUTES; "": `default_route`.
        checkpoint: where the training is written down now and then, and taken up from if it was; None: nowhere. A loop
            of one's own has none: it begins anew.
        own: a loop that trains in this one's place, and a metric that scores.
        teacher: from `Teachers`, where the recipe distils.

    Returns:
        The score and the cost, that of earlier attempts included; the model is left in evaluation mode.

    Raises:
        TrainingError: the loss is not a finite number, or code of one's own failed.
        RunError: the checkpoint cannot be written.
    """
    placed(model, data, recipe, device)
    with seeded(seed):
        if own.train is not None:
            result = train_by_own(own, model, data, recipe, seed=seed, device=device, on_epoch=on_epoch)
        else:
            result = Training(
                *(model, data, recipe, seed, device, on_epoch, route, checkpoint), own=own, teacher=teacher
            ).run()
    model.eval()
    return result


def placed(model: nn.Module, data: Data, recipe: Recipe, device: str) -> nn.Module:
    """The model, moved to where and as the recipe trains it."""
    model.to(device)
    if recipe.memory_format == "channels_last" and data.train.images.dim() == 4:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


class Training:
    """The state of one training; what is not a tensor of the model or the optimizer is its position and its scores.

    Losses other than those of the model as it stands can be given.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        recipe: Recipe,
        seed: int,
        device: str,
        on_epoch: Watch | None,
        route: str,
        checkpoint: Checkpoint | None,
        losses: Losses | None = None,
        own: Own = NO_OWN,
        teacher: nn.Module | None = None,
    ) -> None:
        self.model, self.recipe, self.device, self.on_epoch, self.own = model, recipe, device, on_epoch, own
        self.train, self.validation = TrainImages.of(data.train, recipe, device), data.validation
        self.batch_size = min(recipe.batch_size, len(self.train))
        self.steps = len(self.train) // self.batch_size
        self.shuffler = Shuffler(seed)
        self.epoch, self.step, self.scores = 0, 0, list[tuple[int, Score]]()
        self._started, self._before, self._share = time.perf_counter(), 0.0, 1.0
        self._seed, self._told = seed, time.monotonic()
        identity = [recipe.to_json(), seed, len(self.train), torch.device(device).type]
        self.s_tanh = shared_s_tanh(model)  # before the saver looks for the tensors of the model
        self.saver = Saver(checkpoint, identity, {"model": model})
        saved = self.saver.restore()
        self.optimizer = optimizer_of(model, recipe, device)
        self.saver.restore_optimizer(self.optimizer)
        losses = losses or functools.partial(training_loss, model, recipe=recipe, device=device, teacher=teacher)
        self.take_step = Step(losses, self.optimizer, route or default_route(device), prepare=self.train.prepare)
        if saved is not None:
            self._take_up(saved)

    def run(self) -> TrainResult:
        """From where it is to the end."""
        return next(result for result in self.stepwise() if result is not None)

    def start_clock(self) -> None:
        """Time counts from now on; what an earlier attempt took stays counted."""
        self._started = time.perf_counter()

    def take_turns(self, count: int) -> None:
        """From now on so many trainings take turns: the time of each is that share of what passes."""
        self._before, self._started = self._seconds(), time.perf_counter()
        self._share = 1 / count

    def stepwise(self) -> Iterator[TrainResult | None]:
        """The same step by step: None after each, then the result."""
        score, stopped = Score(0.0, math.inf), False
        while self.epoch < self.recipe.epochs and not stopped:
            yield from self._pass()
            self.epoch, self.step = self.epoch + 1, 0
            last = self.epoch == self.recipe.epochs
            if self.on_epoch is not None or last:
                score = evaluate(self.model, self.validation, device=self.device, recipe=self.recipe, own=self.own)
                if not math.isfinite(score.loss):
                    raise TrainingError(f"the validation loss is {score.loss} after epoch {self.epoch}")
            if self.on_epoch is not None and not last:
                self.scores.append((self.epoch, score))
                stopped = self.on_epoch(self.epoch, score)
        yield TrainResult(score, self.epoch, stopped, self._seconds())

    def _pass(self) -> Iterator[None]:
        """What is left of a pass over the images."""
        recipe, steps, size = self.recipe, self.steps, self.batch_size
        self.model.train()
        batches = self.train.batches(self.train.epoch(self.shuffler), size, self.step)
        for step, batch in enumerate(batches, self.step):
            progress = (self.epoch * steps + step) / (recipe.epochs * steps)
            set_learning_rate(self.optimizer, recipe.learning_rate_at(progress))
            if self.s_tanh is not None:
                self.s_tanh.fill_(recipe.s_tanh_at(progress))
            loss = self.take_step(*batch)
            if step % CHECK_EVERY == 0 or step == steps - 1:
                self._look_at(loss, step)
            self.step = step + 1
            if self.saver.is_due():
                self.saver.save(self.optimizer, self._progress())
            yield

    def _look_at(self, loss: Tensor, step: int) -> None:
        if not math.isfinite(value := loss.item()):
            raise TrainingError(f"the loss is {value} in epoch {self.epoch + 1}, step {step + 1}")
        if time.monotonic() - self._told > TELL_SECONDS:
            self._told = time.monotonic()
            _log.info(
                "seed %d: epoch %d of %d, image %s of %s, loss %.3g, %.0f min so far",
                *(self._seed, self.epoch + 1, self.recipe.epochs, f"{(step + 1) * self.batch_size:,}"),
                *(f"{len(self.train):,}", value, self._seconds() / 60),
            )

    def _progress(self) -> dict[str, Any]:
        scores = [(epoch, score.accuracy, score.loss) for epoch, score in self.scores]
        return {"epoch": self.epoch, "step": self.step, "scores": scores, "seconds": self._seconds()}

    def _take_up(self, saved: dict[str, Any]) -> None:
        self.epoch, self.step = saved["epoch"], saved["step"]
        self._before = saved["seconds"]
        for _ in range(self.epoch):
            self.train.epoch(self.shuffler)
        for epoch, accuracy, loss in saved["scores"]:
            self.scores.append((epoch, Score(accuracy, loss)))
            if self.on_epoch is not None:
                self.on_epoch(*self.scores[-1])

    def _seconds(self) -> float:
        return self._before + self._share * (time.perf_counter() - self._started)
