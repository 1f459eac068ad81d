"""Whether a user's model and data go together, seen before any training."""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from flexor_search.errors import DataError, ModelError
from flexor_search.workloads import Data

CHECK_IMAGES = 8


def check_fits(model: nn.Module, data: Data) -> None:
    """Check before any training that the data go through the model.

    Raises:
        DataError: wrong channels or shape, or labels past the model's outputs.
        ModelError: the output is not one row of logits an image, or a training step fails.
    """
    images, _ = data.train.batch(slice(0, 2))
    model.eval()
    try:
        with torch.no_grad():
            logits = model(images)
    except Exception as error:  # the user's own forward runs here
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"data: images of shape {tuple(images.shape[1:])} do not go through the model: {reason}"
        ) from error
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(images):
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ModelError(f"model: must return logits of shape (images, classes), got {got} for {len(images)} images")
    if data.n_classes > logits.shape[1]:
        raise DataError(
            f"data: the label {data.n_classes - 1} is out of range: the model has {logits.shape[1]} outputs, "
            f"so labels go from 0 to {logits.shape[1] - 1}"
        )
    _check_trains(model, *data.train.batch(slice(0, CHECK_IMAGES)))


def _check_trains(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """One forward and backward in training mode: what a user's model does only there is seen before the search."""
    trial = copy.deepcopy(model).train()  # a step changes running statistics
    try:
        with torch.enable_grad():
            functional.cross_entropy(trial(images), labels).backward()
    except Exception as error:  # the user's own forward runs here
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"model: one training step on {len(images)} images failed: {reason}") from error
