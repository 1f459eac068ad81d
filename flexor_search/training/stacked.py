"""Train many allocations of one model as one: K times the arithmetic for about the launches of one training.

Each model keeps its own seed, its own order of images and its own end: one that is stopped or fails leaves the stack,
and the others go on as if it had never been there. Alone or stacked, a model comes to the same values but for the last
bits; dropout draws other random numbers.
"""

import functools
import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flexor_search.errors import TrainingError
from flexor_search.planning import Recipe
from flexor_search.training.checkpoint import Checkpoint, Saver
from flexor_search.training.images import Epoch, Shuffler, TrainImages
from flexor_search.training.optimizer import set_learning_rate
from flexor_search.training.score import (
    EVALUATION_BATCH,
    Score,
    TrainResult,
    Watch,
    losses,
    resolve_precision,
    seeded,
)
from flexor_search.training.stack import Stack
from flexor_search.training.step import Step, default_route
from flexor_search.training.trainer import CHECK_EVERY
from flexor_search.workloads import NO_OWN, Data, Own

_SMALLEST_EVALUATION_BATCH = 32


def train_stacked(
    models: Sequence[nn.Module],
    data: Data,
    recipe: Recipe,
    *,
    seeds: Sequence[int],
    device: str = "cpu",
    on_epoch: Sequence[Watch | None] | None = None,
    route: str = "",
    checkpoint: Checkpoint | None = None,
    own: Own = NO_OWN,
) -> list[TrainResult | TrainingError]:
    """Train models of one structure in place, all at once.

    Args:
        models: as `stackable_groups` puts them together.
        data: `train` is learned from, `validation` scored; `test` is not touched.
        recipe: how, for all; its `memory_format` has no meaning here.
        seeds: of the order of images, one a model.
        device: "cpu", "cuda", ...
        on_epoch: one a model, as in `train`; a model that is stopped leaves the stack.
        route: how a step is done, as in `train`, but not compiled: torch's compiler does not get through vmap over a
            module.
        checkpoint: of all of them together, as in `train`.
        own: may hold a metric; a stack is not trained by a loop of one's own.

    Returns:
        For each model its result, or the error that ended it: one whose loss is not a number fails alone. Its
        `train_seconds` are its share of the time. All are left in evaluation mode.
    """
    if "compiled" in route:
        raise ValueError(f"route: a stack cannot be compiled, got {route!r}")
    watches: list[Watch | None] = list(on_epoch) if on_epoch is not None else [None] * len(models)
    if not len(models) == len(seeds) == len(watches):
        raise ValueError(f"seeds, on_epoch: one a model, got {len(seeds)} and {len(watches)} for {len(models)}")
    for model in models:
        model.to(device)
    with seeded(seeds[0]):
        training = _Training(models, data, recipe, seeds, device, watches, route, checkpoint, own)
        while training.members:
            training.epoch()
    training.stack.write_back()
    for model in models:
        model.eval()
    return [training.results[index] for index in range(len(models))]


class _Training:
    """The state of one stacked training: who is still in the stack, and what the others came to."""

    def __init__(
        self,
        models: Sequence[nn.Module],
        data: Data,
        recipe: Recipe,
        seeds: Sequence[int],
        device: str,
        watches: list[Watch | None],
        route: str,
        checkpoint: Checkpoint | None,
        own: Own,
    ) -> None:
        self.recipe, self.device, self.watches, self.own = recipe, device, watches, own
        self.members = list(range(len(models)))
        self.results: dict[int, TrainResult | TrainingError] = {}
        self.done, self.step = 0, 0
        self._scores: list[tuple[int, dict[int, Score]]] = []
        self._seconds = [0.0] * len(models)
        self._train, self._validation = TrainImages.of(data.train, recipe, device), data.validation
        self._shufflers = [Shuffler(seed) for seed in seeds]
        identity = [recipe.to_json(), list(seeds), len(self._train), torch.device(device).type]
        self._saver = Saver(checkpoint, identity, {str(index): model for index, model in enumerate(models)})
        saved = self._saver.restore()
        self.stack = Stack(models)
        if saved is not None:
            self._take_up(saved)
        self._optimizer = self.stack.optimizer(recipe, device)
        self._saver.restore_optimizer(self._optimizer)
        losses = functools.partial(stacked_losses, self.stack, recipe=recipe, device=device)
        self._take_step = Step(losses, self._optimizer, route or default_route(device))

    def epoch(self) -> None:
        """What is left of one pass of all members over the images, each in its own order."""
        started, recipe, epoch = time.perf_counter(), self.recipe, self.done
        batch_size = min(recipe.batch_size, len(self._train))
        steps = len(self._train) // batch_size
        self.stack.train(True)
        beginning = list(self.members)
        planned = Epoch.stacked([self._train.epoch(self._shufflers[index]) for index in beginning])
        for step in range(self.step, steps):
            progress = (epoch * steps + step) / (recipe.epochs * steps)
            set_learning_rate(self._optimizer, recipe.learning_rate_at(progress))
            self.stack.set_s_tanh(recipe.s_tanh_at(progress))
            losses = self._take_step(*self._train.batch(*planned.step(step, batch_size)))
            if step % CHECK_EVERY == 0 or step == steps - 1:
                remaining = self._fail(losses.tolist(), f"the loss is {{}} in epoch {epoch + 1}, step {step + 1}")
                if not self.members:
                    break
                if len(remaining) < len(losses):
                    planned = planned.keep(remaining)
            self.step = step + 1
            if self._saver.is_due():
                self.stack.write_back()
                self._saver.save(self._optimizer, self._progress((time.perf_counter() - started) / len(beginning)))
        self.done, self.step = epoch + 1, 0
        if self.members:
            self._score(epoch + 1)
        for index in beginning:
            self._seconds[index] += (time.perf_counter() - started) / len(beginning)
        for index in beginning:
            if isinstance(found := self.results.get(index), TrainResult):
                self.results[index] = TrainResult(found.validation, found.epochs, found.stopped, self._seconds[index])

    def _progress(self, seconds: float) -> dict[str, Any]:
        """All that is neither a tensor nor follows from the seeds.

        Args:
            seconds: a member's share of the time since the epoch began.
        """
        ended = {index: r for index, r in self.results.items() if isinstance(r, TrainResult)}
        return {
            "done": self.done,
            "step": self.step,
            "members": self.members,
            "seconds": [spent + seconds * (i in self.members) for i, spent in enumerate(self._seconds)],
            "scores": [(done, [(i, s.accuracy, s.loss) for i, s in scores.items()]) for done, scores in self._scores],
            "failed": [(index, str(r)) for index, r in self.results.items() if isinstance(r, TrainingError)],
            "ended": [(i, r.validation.accuracy, r.validation.loss, r.epochs, r.stopped) for i, r in ended.items()],
        }

    def _take_up(self, saved: dict[str, Any]) -> None:
        """Where a saved training was; its models have their values already."""
        self.done, self.step, self._seconds = saved["done"], saved["step"], saved["seconds"]
        self.results = {index: TrainingError(text) for index, text in saved["failed"]} | {
            index: TrainResult(Score(accuracy, loss), epochs, stopped, self._seconds[index])
            for index, accuracy, loss, epochs, stopped in saved["ended"]
        }
        self.members = saved["members"]
        self.stack.keep(self.members)
        for index in self.members:
            for _ in range(self.done):
                self._train.epoch(self._shufflers[index])
        for done, scores in saved["scores"]:
            self._scores.append((done, {index: Score(accuracy, loss) for index, accuracy, loss in scores}))
            for index, score in self._scores[-1][1].items():
                if (watch := self.watches[index]) is not None:
                    watch(done, score)

    def _score(self, done: int) -> None:
        """Score those that are watched, or all at the end; some may leave."""
        last = done == self.recipe.epochs
        if not last and all(self.watches[index] is None for index in self.members):
            return
        scores = dict(zip(self.members, self.score(), strict=True))
        self._fail([scores[i].accuracy for i in self.members], f"the metric is {{}} after epoch {done}")
        self._fail([scores[i].loss for i in self.members], f"the validation loss is {{}} after epoch {done}")
        if not last:
            self._scores.append((done, {index: scores[index] for index in self.members}))
        leaving = {}
        for index in self.members:
            watch = self.watches[index]
            stopped = not last and watch is not None and watch(done, scores[index])
            if last or stopped:
                leaving[index] = TrainResult(scores[index], done, stopped, 0.0)
        self._leave(leaving)

    @torch.no_grad()
    def score(self) -> list[Score]:
        """Validation score of every member; NaN of a metric that fails."""
        self.stack.train(False)
        count = len(self.members)
        right, loss = torch.zeros(count, device=self.device), torch.zeros(count, device=self.device)
        outputs, targets = list[Tensor](), list[Tensor]()
        for images, labels in self._validation.batches(max(_SMALLEST_EVALUATION_BATCH, EVALUATION_BATCH // count)):
            labels = labels.to(self.device)
            logits = stacked_logits(self.stack, images.to(self.device), self.recipe, self.device, shared=True)
            loss += _losses(logits, labels.expand(count, *labels.shape), 0.0).sum(1)
            if self.own.metric is not None:
                outputs.append(logits.cpu())
                targets.append(labels.cpu())
            else:
                right += (logits.argmax(2) == labels).sum(1)
        images_scored = len(self._validation)
        values = [int(r) / images_scored for r in right.tolist()]
        if self.own.metric is not None:
            values = [self._metric(member, torch.cat(targets)) for member in torch.cat(outputs, 1)]
        return [Score(value, x / images_scored) for value, x in zip(values, loss.tolist(), strict=True)]

    def _metric(self, outputs: Tensor, targets: Tensor) -> float:
        try:
            return self.own.score(outputs, targets)
        except TrainingError:
            return math.nan

    def _fail(self, losses: list[float], reason: str) -> list[int]:
        """Members whose loss is no number leave; returns the positions of the others."""
        finite = [math.isfinite(loss) for loss in losses]
        pairs = list(zip(self.members, losses, strict=True))
        self._leave({i: TrainingError(reason.format(loss)) for i, loss in pairs if not math.isfinite(loss)})
        return [position for position, good in enumerate(finite) if good]

    def _leave(self, results: dict[int, TrainResult] | dict[int, TrainingError]) -> None:
        if not results:
            return
        self.results.update(results)
        staying = [position for position, index in enumerate(self.members) if index not in results]
        self.members = [self.members[position] for position in staying]
        self.stack.keep(staying)
        self._take_step.forget()


def stacked_losses(stack: Stack, images: Tensor, labels: Tensor, recipe: Recipe, device: str) -> Tensor:
    """Mean loss of every model on its own images, shape (K,)."""
    return _losses(stacked_logits(stack, images, recipe, device), labels, recipe.label_smoothing).mean(1)


def stacked_logits(stack: Stack, images: Tensor, recipe: Recipe, device: str, *, shared: bool = False) -> Tensor:
    """Logits at the recipe's precision, in float32, shape (K, images, classes)."""
    low = resolve_precision(recipe.precision, device) == "bfloat16"
    with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=low):
        return stack.logits(images, shared=shared).float()


def _losses(logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """Of every image, shape (K, images)."""
    return losses(logits.flatten(0, 1), labels.flatten(0, 1), label_smoothing).view(labels.shape[:2])
