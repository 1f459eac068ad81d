"""The full-precision model that a training learns from: trained once for a seed, and kept.

Distillation: Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network (2015). The teacher is the same
network with plain weights, trained by the same recipe on the same images with the same seed, so it needs nothing that
is not there anyway. Its weights can also be what a training starts from.
"""

import fcntl
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from flexor_search.planning import Allocation, Recipe
from flexor_search.quantization import quantize_
from flexor_search.training.checkpoint import (
    CHECKPOINT_SECONDS,
    Checkpoint,
    read_checkpoint,
    say_nothing,
    write_checkpoint,
)
from flexor_search.training.score import Watch, seeded
from flexor_search.training.trainer import placed, train
from flexor_search.workloads import Data, Own
from flexor_search.workloads.own import first_line


def fresh_model(
    build: Callable[[], nn.Module], allocation: Allocation, recipe: Recipe, seed: int, teacher: nn.Module | None = None
) -> nn.Module:
    """A model as its training begins: drawn with the seed, from the weights it is built with, or from its teacher's."""
    with seeded(seed):
        if teacher is None or not recipe.from_teacher:
            return quantize_(build(), allocation, pretrained=recipe.pretrained, surrogate=recipe.surrogate)
        plain = build()  # which of its parameters are frozen, no teacher knows
        plain.load_state_dict(teacher.state_dict())
        return quantize_(plain, allocation, pretrained=True, surrogate=recipe.surrogate)


@dataclass(frozen=True)
class Teachers:
    """The teachers of trainings of one model on one data set.

    Attributes:
        build: makes the plain model.
        folder: where they are kept, and written down while they train; it exists.
        about: what else tells them from those of other models and data in that folder, as JSON.
        every_seconds: between two checkpoints of a teacher.
        on_epoch: called after each epoch of a teacher; it may raise, and returns False.
        metric: of the user's own, for what is no classification.
        tell: is told that one is trained, and what could not be used.
    """

    build: Callable[[], nn.Module]
    folder: Path
    about: Any = None
    every_seconds: float = CHECKPOINT_SECONDS
    on_epoch: Watch | None = None
    metric: Callable[[Tensor, Tensor], float] | None = None
    tell: Callable[[str], None] = say_nothing

    def of(self, data: Data, recipe: Recipe, seed: int, device: str) -> nn.Module | None:
        """The teacher of a training by this recipe with this seed, read from the folder if it was trained before.

        Processes that share the folder train it once: the others wait.

        Returns:
            The model, on the device, in evaluation mode, its parameters without gradients; None where the recipe needs
            none.

        Raises:
            TrainingError: its loss is not a finite number.
            RunError: the folder cannot be written.
        """
        if not recipe.has_teacher:
            return None
        alone = replace(recipe, distillation=0.0, from_teacher=False)
        identity = [self.about, alone.to_json(), seed, len(data.train)]
        name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
        path = self.folder / f"teacher-{name}.safetensors"
        with (self.folder / f".teacher-{name}.tmp").open("w") as lock:  # swept like any file of that ending
            fcntl.flock(lock, fcntl.LOCK_EX)
            model = self._read(path, seed)
            if model is None:  # not "or": a module with a length may be false
                model = self._trained(path, data, alone, seed, device)
        return placed(model, data, recipe, device).eval().requires_grad_(False)

    def all_of(self, data: Data, recipe: Recipe, seeds: Sequence[int], device: str) -> dict[int, nn.Module | None]:
        """Seed -> its teacher, for trainings side by side: those of one seed share it."""
        return {seed: self.of(data, recipe, seed, device) for seed in dict.fromkeys(seeds)}

    def _fresh(self, seed: int) -> nn.Module:
        with seeded(seed):
            return self.build()

    def _read(self, path: Path, seed: int) -> nn.Module | None:
        if not path.exists():
            return None
        model = self._fresh(seed)
        try:
            model.load_state_dict(read_checkpoint(path)[0])
        except Exception as error:  # there is no end to what a damaged file can raise
            reason = first_line(error)
            self.tell(f"{path} cannot be used ({reason}); this teacher is trained again")
            return None
        return model

    def _trained(self, path: Path, data: Data, recipe: Recipe, seed: int, device: str) -> nn.Module:
        self.tell(f"the full-precision model of seed {seed} is trained first, for others to learn from")
        unfinished = path.with_name(f"unfinished-{path.name}")
        checkpoint = Checkpoint(unfinished, self.every_seconds, path.name, self.tell)
        model = self._fresh(seed)
        own = Own(metric=self.metric)
        train(model, data, recipe, seed=seed, device=device, on_epoch=self.on_epoch, checkpoint=checkpoint, own=own)
        write_checkpoint(path, model.state_dict(), {})
        unfinished.unlink(missing_ok=True)
        return model
