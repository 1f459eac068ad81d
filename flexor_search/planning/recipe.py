"""How a model is trained: one frozen, serialisable object, saved with the run."""

import math
import tomllib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from flexor_search.errors import UsageError, nearest

_CHOICES = {
    "optimizer": ("adam", "sgd"),
    "schedule": ("one-cycle", "cosine", "halve", "constant"),
    "decay": ("all", "encrypted", "none"),
    "precision": ("auto", "float32", "bfloat16"),
    "memory_format": ("auto", "contiguous", "channels_last"),
    "augmentation": ("none", "flip", "crop-flip", "resized-crop-flip"),
    "surrogate": ("flexor", "ste", "analog"),
}
_LATER = ("distillation", "from_teacher")


@dataclass(frozen=True)
class Recipe:
    """How one model is trained.

    Attributes:
        optimizer: "adam", or "sgd" with momentum 0.9.
        learning_rate: its peak.
        schedule: "one-cycle" (linear up over `warmup`, cosine to 0), "cosine" (to 0, after the warm-up), "halve"
            (halved at each of `halve_at`) or "constant".
        warmup: fraction of all steps over which learning rate and s_tanh rise linearly.
        halve_at: fractions of all steps.
        epochs: passes over the training images.
        batch_size: images per step.
        weight_decay: L2 penalty added to the gradient.
        decay: which parameters it touches: "all", "encrypted" (only encrypted weights), or "none".
        s_tanh: slope of the surrogate once warm.
        s_tanh_start: slope at step 0.
        s_tanh_doubles: whether the slope is doubled at each of `halve_at`; goes with the schedule "halve".
        clip: encrypted weights are kept within +- clip / s_tanh, the paper's ablation (it takes 2); 0: they are free.
        surrogate: "flexor" (eq. 6), or the ablations "ste" and "analog".
        label_smoothing: of the cross-entropy.
        distillation: share of the loss that is the distance (Kullback-Leibler divergence, temperature 2) from the
            answers of the full-precision model of the same recipe and seed, which is trained first; 0: none. The shared
            network of a search trains without.
        from_teacher: start from the weights of that full-precision model, as near as each code allows.
        precision: "float32", "bfloat16" (autocast), or "auto": bfloat16 where the processor computes in it and a short
            measurement finds it faster.
        memory_format: of models and image batches: "contiguous", "channels_last", or "auto": the one that a short
            measurement finds faster.
        augmentation: of training images: "none", "flip" (half of them mirrored), "crop-flip" (and moved by up to 4
            pixels each way), or for images that are read from files "resized-crop-flip" (a random part of each, as is
            usual for ImageNet).
        threads: processor threads, 0 for all; small models train faster, and repeatably anywhere, on one.
        search_epochs: epochs of a search trial.
        search_images: training images of a search trial, 0 for all.
        pretrained: start from the weights that the model is built with, not from scratch.

    Raises:
        UsageError: a value outside its range.
    """

    optimizer: str = "adam"
    learning_rate: float = 3e-3
    schedule: str = "one-cycle"
    warmup: float = 0.25
    halve_at: tuple[float, ...] = ()
    epochs: int = 20
    batch_size: int = 128
    weight_decay: float = 1e-5
    decay: str = "all"
    s_tanh: float = 10.0
    s_tanh_start: float = 5.0
    s_tanh_doubles: bool = False
    clip: float = 0.0
    surrogate: str = "flexor"
    label_smoothing: float = 0.0
    precision: str = "float32"
    memory_format: str = "contiguous"
    augmentation: str = "none"
    threads: int = 0
    search_epochs: int = 10
    search_images: int = 0
    pretrained: bool = False
    distillation: float = 0.0
    from_teacher: bool = False

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise UsageError(f"recipe: {name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        for name in ("epochs", "batch_size", "search_epochs"):
            if getattr(self, name) < 1:
                raise UsageError(f"recipe: {name} must be at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "s_tanh", "s_tanh_start"):
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"recipe: {name} must be above zero, got {getattr(self, name)}")
        if not 0 <= self.warmup < 1 or not 0 <= self.label_smoothing < 1 or not 0 <= self.weight_decay < math.inf:
            raise UsageError("recipe: warmup and label_smoothing must be in [0, 1), weight_decay not negative")
        if not 0 <= self.distillation <= 1:
            raise UsageError(f"recipe: distillation is a share of the loss, from 0 to 1, got {self.distillation}")
        if not all(isinstance(at, int | float) and 0 <= at <= 1 for at in self.halve_at):
            raise UsageError(f"recipe: halve_at must hold fractions of all steps, got {list(self.halve_at)}")
        if self.s_tanh_doubles and self.schedule != "halve":
            raise UsageError(f'recipe: s_tanh_doubles goes with schedule = "halve", got {self.schedule!r}')
        for name in ("search_images", "threads", "clip"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"recipe: {name} must not be negative, got {getattr(self, name)}")

    @property
    def has_teacher(self) -> bool:
        """Whether the full-precision model of the same recipe and seed is trained first."""
        return bool(self.distillation) or self.from_teacher

    def learning_rate_at(self, progress: float) -> float:
        """Learning rate when a fraction `progress` of all steps is done."""
        rise = min(1.0, progress / self.warmup) if self.warmup else 1.0
        if self.schedule == "halve":
            return self.learning_rate * rise * 0.5 ** self._halvings(progress)
        if self.schedule == "constant" or progress < self.warmup:
            return self.learning_rate * max(rise, 1e-3)
        done = (progress - self.warmup) / (1 - self.warmup)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))

    def s_tanh_at(self, progress: float) -> float:
        """Slope of the surrogate when a fraction `progress` of all steps is done."""
        rise = min(1.0, progress / self.warmup) if self.warmup else 1.0
        slope = self.s_tanh_start + (self.s_tanh - self.s_tanh_start) * rise
        return slope * 2 ** self._halvings(progress) if self.s_tanh_doubles else slope

    def _halvings(self, progress: float) -> int:
        return sum(progress >= at for at in self.halve_at)

    def for_search(self) -> "Recipe":
        """The same recipe at the reduced length of a search trial."""
        return replace(self, epochs=min(self.search_epochs, self.epochs))

    def to_json(self) -> dict[str, Any]:
        """All fields; those that came later only where they are used, so that earlier measurements keep their keys."""
        body = asdict(self) | {"halve_at": list(self.halve_at)}
        return {key: value for key, value in body.items() if key not in _LATER or value}

    @classmethod
    def from_dict(cls, body: dict[str, Any], base: "Recipe | None" = None) -> "Recipe":
        """The base recipe with these fields replaced.

        Raises:
            UsageError: an unknown field (the nearest is named), or a value of the wrong type.
        """
        base = base or cls()
        for key, value in body.items():
            if key not in cls.__dataclass_fields__:
                raise UsageError(f"recipe: unknown key {key!r}; {nearest(key, cls.__dataclass_fields__)}")
            wanted = type(getattr(cls, key))  # of the default: the base may hold 100 for 100.0
            allowed = {float: (float, int), tuple: (tuple, list)}.get(wanted, (wanted,))
            if type(value) not in allowed:
                raise UsageError(f"recipe: {key} must be of type {wanted.__name__}, got {value!r}")
        fixed = {key: tuple(value) if isinstance(value, list) else value for key, value in body.items()}
        return replace(base, **fixed)

    @classmethod
    def read(cls, path: str | Path, base: "Recipe | None" = None) -> "Recipe":
        """Read a recipe from a TOML file of these fields.

        Raises:
            UsageError: no such file, not TOML, or a wrong field.
        """
        try:
            body = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"recipe: {path} is not a readable TOML file: {error}") from error
        return cls.from_dict(body, base)
