"""Train a shared network once, and judge every allocation on it.

Each step trains one or several paths, an allocation each. Under "random" it is one, every menu entry drawn with equal
probability; under "sandwich" the largest, the smallest and a random one, whose mean loss is what the step lowers.
Paths are drawn from torch's generator, which checkpoints keep: a training that goes on draws what it would have
drawn.

An allocation is judged with batch-norm statistics of its own, estimated anew on a few fixed batches of training images:
those that training leaves behind are a mixture over all allocations. Where the model is a plain sequence, what the
layers in front came to is kept and used again by the next allocation that begins with the same entries.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from flexor_search.errors import TrainingError
from flexor_search.planning import Recipe, SearchSpace
from flexor_search.planning.space import Profile
from flexor_search.quantization import set_profile, share_, shared_weights
from flexor_search.training.checkpoint import Checkpoint
from flexor_search.training.score import EVALUATION_BATCH, Score, logits_of, seeded, training_loss
from flexor_search.training.trainer import Training, placed
from flexor_search.workloads import Data, Split

PATHS = ("random", "sandwich")
STATISTICS_BATCHES = 4
"""Batches of training images that batch-norm statistics are estimated on."""
_CACHE_BYTES = 1 << 30
"""What activations that are kept may take, at most."""
_PASSING_BYTES = 2 << 30
"""What all images may take between two parts of a sequence, at most; else they go through the whole batch by batch."""


class SharedNetworkError(TrainingError):
    """A shared network did not learn: its loss is not a number, or its largest allocation is at chance level."""


@dataclass(frozen=True)
class SharedResult:
    """What the training of a shared network came to.

    Attributes:
        train_seconds: wall time, that of earlier attempts included.
        steps: done.
        paths: trained in each.
    """

    train_seconds: float
    steps: int
    paths: int


def shared_model(model: nn.Module, space: SearchSpace, recipe: Recipe) -> nn.Module:
    """A plain model as a shared network of a space, in place; call it under `seeded`."""
    return share_(model, space, pretrained=recipe.pretrained, surrogate=recipe.surrogate)


def train_shared(
    model: nn.Module,
    space: SearchSpace,
    data: Data,
    recipe: Recipe,
    *,
    seed: int,
    device: str = "cpu",
    paths: str = "random",
    checkpoint: Checkpoint | None = None,
) -> SharedResult:
    """Train a shared network in place.

    Args:
        model: made by `shared_model`.
        space: whose allocations it holds.
        data: `train` is learned from.
        recipe: how, its epochs all done.
        seed: of the order of images, of paths and of dropout.
        device: where to train.
        paths: one of PATHS.
        checkpoint: where the training is written down now and then; None: nowhere.

    Raises:
        SharedNetworkError: the loss is not a finite number.
        RunError: the checkpoint cannot be written.
    """
    if paths not in PATHS:
        raise ValueError(f"paths: must be one of {', '.join(PATHS)}, got {paths!r}")
    placed(model, data, recipe, device)

    def losses(images: Tensor, labels: Tensor) -> Tensor:
        drawn = _draw(space, paths)
        found = []
        for profile in drawn:
            set_profile(model, profile)
            found.append(training_loss(model, images, labels, recipe, device))
        return torch.stack(found).mean()

    try:
        with seeded(seed):
            # Recorded steps would repeat the paths they were recorded with.
            training = Training(model, data, recipe, seed, device, None, "eager", checkpoint, losses)
            result = training.run()
    except TrainingError as error:
        raise SharedNetworkError(f"the shared network does not learn: {error}") from error
    model.eval()
    return SharedResult(result.train_seconds, recipe.epochs * training.steps, 3 if paths == "sandwich" else 1)


def check_learned(score: Score, data: Data) -> None:
    """Refuse a shared network whose largest allocation has learned nothing.

    Args:
        score: of that allocation.
        data: its validation split, on which the most frequent class is what chance can reach.

    Raises:
        SharedNetworkError: a loss that is not a number, or an accuracy that chance explains.
    """
    labels = data.validation.labels
    chance = float(torch.bincount(labels).max()) / len(labels)
    reach = chance + 2 * math.sqrt(chance * (1 - chance) / len(labels))
    if not math.isfinite(score.loss) or score.accuracy <= reach:
        raise SharedNetworkError(
            f"the shared network does not learn: its largest allocation has {100 * score.accuracy:.1f} % validation "
            f"accuracy (loss {score.loss:.3g}), and always saying one class has {100 * chance:.1f} %"
        )


class ProfileScorer:
    """Scores allocations on a trained shared network, fastest where neighbours in the list begin alike: sort them.

    Args:
        model: the network, left in evaluation mode.
        data: `validation` is scored, as much of it as a gigabyte holds, at least a batch; a few batches of `train`
            give batch-norm statistics.
        recipe: its batch size, precision and memory format.
        device: where to compute.

    Attributes:
        image_counts: of a score: the images of training, and those of validation.
    """

    def __init__(self, model: nn.Module, data: Data, recipe: Recipe, device: str = "cpu") -> None:
        self._model, self._recipe, self._device = model.to(device).eval(), recipe, device
        count = STATISTICS_BATCHES * recipe.batch_size
        norms = [module for module in model.modules() if _has_statistics(module)]
        fixed = data.train.take(count) if norms else None
        self._statistics = [b[0].to(device) for b in fixed.batches(recipe.batch_size)] if fixed is not None else []
        if len(self._statistics) > 1 and len(self._statistics[-1]) < len(self._statistics[0]):
            self._statistics.pop()  # a small batch would count as much as a whole one
        scored = data.validation.take(most_scored(data.validation))
        self._images = [b[0].to(device) for b in scored.batches(EVALUATION_BATCH)]
        self.image_counts = sum(map(len, self._statistics)), len(scored)
        self._labels = scored.labels.to(device)
        self._parts = _parts(model)
        if len(self._parts) > 1 and self._most_passing() > _PASSING_BYTES:
            self._parts = [model]
        self._kept: list[tuple[list[Tensor], list[Tensor]] | None] = [None] * len(self._parts)
        self._last: list[tuple[int, ...]] = []

    @torch.no_grad()
    def __call__(self, profile: Profile) -> Score:
        """Accuracy and mean cross-entropy of an allocation on the validation images."""
        set_profile(self._model, profile)
        keys = [tuple(weight.choice for weight in shared_weights(part)) for part in self._parts]
        alike = next((i for i, (a, b) in enumerate(zip(keys, self._last, strict=False)) if a != b), len(self._last))
        # What goes into part i is kept at place i: it holds if all parts in front of it are as they were.
        first = max((i for i in range(1, len(keys)) if i <= alike and self._kept[i] is not None), default=0)
        statistics, images = self._kept[first] or (self._statistics, self._images)
        self._last = keys
        for index in range(first, len(self._parts)):
            if index > first:
                self._keep(index, statistics, images)
            statistics, images = self._through(self._parts[index], statistics, images)
        logits = torch.cat(images).float()
        loss = float(functional.cross_entropy(logits, self._labels))
        return Score(float((logits.argmax(1) == self._labels).float().mean()), loss)

    @torch.no_grad()
    def _most_passing(self) -> float:
        """Bytes of what all images together are after the part where they are most, told from a few of them."""
        few, most = self._images[0][:2], 0
        for part in self._parts:
            few = self._of(part, few)
            if not isinstance(few, Tensor):  # a part that takes it apart comes next
                return math.inf
            most = max(most, few.nbytes // len(few))
        return most * sum(self.image_counts)

    def _through(
        self, part: nn.Module, statistics: list[Tensor], images: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Both kinds of images through a part, which estimates its batch-norm statistics on the way."""
        with _estimating(part):
            statistics = [self._of(part, batch) for batch in statistics]
        return statistics, [self._of(part, batch) for batch in images]

    def _of(self, part: nn.Module, batch: Tensor) -> Tensor:
        """What a part makes of a batch, which may be kept: the part may work in place."""
        return logits_of(part, batch.clone(), self._recipe, self._device, as_float=False)

    def _keep(self, index: int, statistics: list[Tensor], images: list[Tensor]) -> None:
        self._kept[index] = None
        others = sum(t.nbytes for kept in self._kept if kept is not None for part in kept for t in part)
        if others + sum(t.nbytes for part in (statistics, images) for t in part) <= _CACHE_BYTES:
            self._kept[index] = statistics, images


def most_scored(validation: Split) -> int:
    """How many images a score is of, at most."""
    image, _ = validation.batch(slice(0, 1))
    return max(EVALUATION_BATCH, _CACHE_BYTES // image.nbytes)


def score_profiles(scorer: ProfileScorer, profiles: Sequence[Profile]) -> Iterator[tuple[Profile, Score]]:
    """Score profiles, in the order that is fastest."""
    for profile in sorted(profiles):
        yield profile, scorer(profile)


def _draw(space: SearchSpace, paths: str) -> list[Profile]:
    menus = [len(variable.menu) for variable in space.variables]
    random = tuple(int(torch.randint(count, ())) for count in menus)
    if paths == "random":
        return [random]
    return [tuple(count - 1 for count in menus), (0,) * len(menus), random]


def _parts(model: nn.Module) -> list[nn.Module]:
    """A plain sequence cut in front of every child with a choice; any other model in one part."""
    if type(model) is not nn.Sequential:
        return [model]
    children = list(model)
    if _shares_norms(children):
        return [model]
    parts: list[list[nn.Module]] = [[]]
    for child in children:
        if parts[-1] and shared_weights(child):
            parts.append([])
        parts[-1].append(child)
    return [nn.Sequential(*part).eval() for part in parts]


def _shares_norms(children: list[nn.Module]) -> bool:
    """Whether a batch norm is in several children: its statistics are over all its uses."""
    norms = [id(module) for child in children for module in set(child.modules()) if _has_statistics(module)]
    return len(norms) != len(set(norms))


def _has_statistics(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and module.running_mean is not None


@contextmanager
def _estimating(part: nn.Module) -> Iterator[None]:
    """Batch norms use each batch's own statistics, and their running ones become the mean over the batches."""
    norms = [module for module in part.modules() if _has_statistics(module)]
    before = [norm.momentum for norm in norms]  # type: ignore[union-attr]
    for norm in norms:
        norm.reset_running_stats()  # type: ignore[operator]
        norm.momentum = None  # type: ignore[assignment]
        norm.train()
    try:
        yield
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum  # type: ignore[assignment]
            norm.eval()
