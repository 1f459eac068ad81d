"""How a model is scored, what it loses, and what a training came to."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from flexor_search.planning import Recipe
from flexor_search.workloads import NO_OWN, Own, Split

EVALUATION_BATCH = 1000
TEMPERATURE = 2.0
"""By which logits are divided before a model is compared with its teacher."""


@dataclass(frozen=True)
class Score:
    """What a model is worth on a split.

    Attributes:
        accuracy: 0 to 1; the value of the metric where there is one of one's own.
        loss: mean cross-entropy; mean squared error where the targets are floats.
    """

    accuracy: float
    loss: float


Watch = Callable[[int, Score], bool]
"""Is told the epochs done and the validation score; returns whether to stop."""


@dataclass(frozen=True)
class TrainResult:
    """What a training came to.

    Attributes:
        validation: score after the last epoch.
        epochs: epochs done; fewer than the recipe's if it was stopped.
        stopped: whether `on_epoch` stopped it.
        train_seconds: wall time.
    """

    validation: Score
    epochs: int
    stopped: bool
    train_seconds: float


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run with torch's generators seeded, and leave them as they were."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    with torch.random.fork_rng(devices=list(devices)):
        torch.manual_seed(seed)
        yield


def resolve_precision(precision: str, device: str) -> str:
    """What "auto" means here: bfloat16 where the processor multiplies in it, else float32."""
    if precision != "auto":
        return precision
    if device.startswith("cuda"):
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    native = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return "bfloat16" if native else "float32"


@torch.no_grad()
def evaluate(
    model: nn.Module,
    split: Split,
    *,
    device: str = "cpu",
    recipe: Recipe | None = None,
    own: Own = NO_OWN,
) -> Score:
    """Score a model on a split.

    Args:
        model: any module with logits (of a regression: predictions) out; left in evaluation mode.
        split: images and labels.
        device: where to compute.
        recipe: its precision and memory format are used; None: float32.
        own: may hold a metric that takes the place of accuracy.

    Returns:
        Accuracy or metric, and the mean loss.

    Raises:
        TrainingError: the metric raises, or gives anything but a finite number.
    """
    model.eval()
    model.to(device)
    recipe = recipe or Recipe()
    rights, each = list[Tensor](), list[Tensor]()  # read at the end: every look makes a GPU wait
    outputs, targets = list[Tensor](), list[Tensor]()
    for images, labels in split.batches(EVALUATION_BATCH):
        logits = logits_of(model, images.to(device), recipe, device)
        labels = labels.to(device)
        each.append(losses(logits, labels).sum())
        if own.metric is not None:
            outputs.append(logits.cpu())
            targets.append(labels.cpu())
        else:
            rights.append((logits.argmax(1) == labels).sum())
    loss = sum(torch.stack(each).tolist())
    if own.metric is not None:
        return Score(own.score(torch.cat(outputs), torch.cat(targets)), loss / len(split))
    return Score(sum(torch.stack(rights).tolist()) / len(split), loss / len(split))


def logits_of(model: nn.Module, images: Tensor, recipe: Recipe, device: str, *, as_float: bool = True) -> Tensor:
    """What a model, or a part of one, gives for images, in the recipe's precision and memory format."""
    if recipe.memory_format == "channels_last" and images.dim() == 4:
        images = images.contiguous(memory_format=torch.channels_last)
    low = resolve_precision(recipe.precision, device) == "bfloat16"
    with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=low):
        logits = model(images)
    return logits.float() if as_float else logits


def losses(outputs: Tensor, targets: Tensor) -> Tensor:
    """The loss of each image, shape (n,): cross-entropy of integer labels, mean squared error of float targets."""
    if targets.is_floating_point():
        return (outputs - targets).square().mean(1)
    return functional.cross_entropy(outputs, targets, reduction="none")


def training_loss(
    model: nn.Module, images: Tensor, labels: Tensor, recipe: Recipe, device: str, teacher: nn.Module | None = None
) -> Tensor:
    """Mean loss of a batch by the recipe; with a teacher a share of it is the distance from its answers."""
    wanted = None
    if teacher is not None and recipe.distillation:
        with torch.no_grad():
            wanted = logits_of(teacher, images.clone(), recipe, device)  # a model may work on its images in place
    logits = logits_of(model, images, recipe, device)
    if labels.is_floating_point():
        return losses(logits, labels).mean()
    loss = functional.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
    if wanted is None:
        return loss
    return (1 - recipe.distillation) * loss + recipe.distillation * divergence(logits, wanted)


def divergence(logits: Tensor, wanted: Tensor) -> Tensor:
    """Kullback-Leibler divergence of softened answers from the teacher's, mean over images.

    Times the square of the temperature, so that gradients are as large as those of the cross-entropy.
    """
    given, aim = (functional.log_softmax(each / TEMPERATURE, 1) for each in (logits, wanted))
    return TEMPERATURE**2 * functional.kl_div(given, aim, reduction="batchmean", log_target=True)
