"""Whether a user's model, data and own code go together, seen before any training."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from flexor_search.errors import DataError, ModelError
from flexor_search.planning import Recipe
from flexor_search.quantization import batch_norm_folds, check_float32
from flexor_search.training.own_loop import train_by_own
from flexor_search.training.score import evaluate, losses, seeded
from flexor_search.workloads import NO_OWN, Data, Own, Split
from flexor_search.workloads.own import first_line

CHECK_IMAGES = 8


def check_fits(model: nn.Module, data: Data, recipe: Recipe | None = None, own: Own = NO_OWN) -> None:
    """Check before any training that the data go through the model, and that a loop and a metric of one's own work.

    Args:
        model: plain; left in evaluation mode.
        data: all of it is looked at, little of it used; two images of each split go through the model.
        recipe: says how many images a step has; is given to a loop of one's own.
        own: the metric scores the untrained model; the loop does an epoch of one batch on a copy.

    Raises:
        DataError: wrong channels or shape, or labels past the model's outputs.
        ModelError: the output is not one row of logits an image, a training step fails, a layer is not of float32, or
            a batch norm behind a Linear normalizes something else than its outputs.
        TrainingError: the user's loop or metric fails.
    """
    recipe = recipe or Recipe()
    check_float32(model)
    model.eval()
    with _checked_folds(model):
        logits, *_ = [_logits(model, split) for split in (data.train, data.validation, data.test)]
    if data.train.is_regression and data.n_classes != logits.shape[1]:
        raise DataError(
            f"data: targets of {data.n_classes} numbers an image do not fit the model, which has {logits.shape[1]} "
            "outputs"
        )
    if recipe.distillation and data.train.is_regression:
        raise DataError(
            f"data: distillation = {recipe.distillation:g} in the recipe is for classes, and the targets are floats; "
            "set it to 0"
        )
    if data.n_classes > logits.shape[1]:
        raise DataError(
            f"data: the label {data.n_classes - 1} is out of range: the model has {logits.shape[1]} outputs, "
            f"so labels go from 0 to {logits.shape[1] - 1}"
        )
    if own.metric is not None:
        evaluate(model, data.validation, own=own)
    if own.train is None:
        _check_trains(model, *data.train.batch(slice(0, min(CHECK_IMAGES, recipe.batch_size))))
        return
    recipe = replace(recipe, epochs=1, search_epochs=1)
    few = replace(data, train=data.train.take(recipe.batch_size), validation=data.validation.take(recipe.batch_size))
    with seeded(0):
        train_by_own(own, copy.deepcopy(model), few, recipe, seed=0, device="cpu", on_epoch=None)


def _logits(model: nn.Module, split: Split) -> Tensor:
    """What the model makes of two images of a split."""
    images, _ = split.batch(slice(0, 2))
    try:
        with torch.no_grad():
            logits = model(images)
    except ModelError:
        raise
    except Exception as error:  # the user's own forward runs here
        raise DataError(
            f"data: {split.name} images of shape {tuple(images.shape[1:])} do not go through the model: "
            f"{first_line(error)}"
        ) from error
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(images):
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ModelError(f"model: must return logits of shape (images, classes), got {got} for {len(images)} images")
    return logits


@contextmanager
def _checked_folds(model: nn.Module) -> Iterator[None]:
    """Within, a batch norm that would be folded into a Linear refuses what has more axes than (images, outputs).

    Of a sequence of tokens it normalizes the places, and only the shapes tell: the traced graph does not hold them.
    """
    modules, hooks = dict(model.named_modules(remove_duplicate=False)), []
    for name, norm in batch_norm_folds(model).items():
        if isinstance(modules[name], nn.Linear):

            def refuse(_linear: nn.Module, _: object, given: Tensor, name: str = name, norm: str = norm) -> None:
                if given.dim() != 2:
                    raise ModelError(
                        f"model: {norm} normalizes axis 1 of what {name} gives, of shape {tuple(given.shape)}, and "
                        "would be folded into the last one; put nn.Identity() between the two, so that it is kept"
                    )

            hooks.append(modules[name].register_forward_hook(refuse))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _check_trains(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """One forward and backward in training mode: what a user's model does only there is seen before the search."""
    trial = copy.deepcopy(model).train()  # a step changes running statistics
    try:
        with torch.enable_grad():
            losses(trial(images), labels).mean().backward()
    except Exception as error:  # the user's own forward runs here
        raise ModelError(f"model: one training step on {len(images)} images failed: {first_line(error)}") from error
