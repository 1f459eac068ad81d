"""The full-precision model that a training with distillation learns from: trained once for a seed, and kept.

Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network (2015). The teacher is the same network with plain
weights, trained by the same recipe on the same images with the same seed, so it needs nothing that is not there anyway.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import nn

from flexor_search.planning import Recipe
from flexor_search.training.checkpoint import Checkpoint, read_checkpoint, say_nothing, write_checkpoint
from flexor_search.training.score import seeded
from flexor_search.training.trainer import placed, train
from flexor_search.workloads import Data


def teacher_for(
    build: Callable[[], nn.Module],
    data: Data,
    recipe: Recipe,
    seed: int,
    device: str,
    folder: Path,
    tell: Callable[[str], None] = say_nothing,
) -> nn.Module | None:
    """The teacher of a training, read from the folder if it was trained before.

    Args:
        build: makes the plain model.
        data, recipe, seed, device: those of the training.
        folder: where teachers are kept, and written down while they train.
        tell: is told what could not be used.

    Returns:
        The model, on the device, in evaluation mode, its parameters without gradients; None where the recipe distils
        nothing.

    Raises:
        TrainingError: its loss is not a finite number.
        RunError: the folder cannot be written.
    """
    if not recipe.distillation:
        return None
    alone = replace(recipe, distillation=0.0)
    identity = [alone.to_json(), seed, len(data.train)]
    name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    path, unfinished = (folder / f"{begins}-{name}.safetensors" for begins in ("teacher", "unfinished-teacher"))
    with seeded(seed):
        model = build()
    if not _is_read(model, path, tell):
        train(model, data, alone, seed=seed, device=device, checkpoint=Checkpoint(unfinished, tell=tell))
        write_checkpoint(path, model.state_dict(), {})
        unfinished.unlink(missing_ok=True)
    return placed(model, data, recipe, device).eval().requires_grad_(False)


def _is_read(model: nn.Module, path: Path, tell: Callable[[str], None]) -> bool:
    """Whether the model was given the values of a file."""
    if not path.exists():
        return False
    try:
        model.load_state_dict(read_checkpoint(path)[0])
    except Exception as error:  # there is no end to what a damaged file can raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        tell(f"{path} cannot be used ({reason}); this teacher is trained again")
        return False
    return True
