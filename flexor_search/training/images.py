"""Training images where they are trained on: their order, their augmentation, their batches.

A data set that fits lives on the device as it is stored (uint8 where it is images), and batches are gathered, moved and
normalized there, many images in one operation: no DataLoader stands in the loop.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from flexor_search.errors import DataError
from flexor_search.planning import Recipe
from flexor_search.workloads import FileSplit, Split

IN_FILES = "resized-crop-flip"
"""The augmentation that goes with images in files, and only with them: each is cropped when it is decoded."""
PADDING = 4
"""Black pixels around an image that is cropped to its own size again: the usual augmentation of CIFAR."""
_MEMORY_SHARE = 0.5
"""Of a device's free memory: the most that images may take; the rest is for training."""


@dataclass(frozen=True)
class Epoch:
    """What one pass over the images does with each.

    Attributes:
        order: indices of images, shape (n,).
        moves: of each image, in that order: its place in its padded self (down, right), 0 to 2 * PADDING, and whether
            it is mirrored; shape (n, 3), uint8; empty (n, 0) without augmentation. Of images in files: the seed of a
            random crop, shape (n, 1), int64.
    """

    order: Tensor
    moves: Tensor

    def to(self, device: torch.device) -> "Epoch":
        """The same on a device."""
        return Epoch(self.order.to(device), self.moves.to(device))

    def step(self, step: int, size: int) -> tuple[Tensor, Tensor]:
        """Order and moves of a batch."""
        part = slice(step * size, (step + 1) * size)
        return self.order[part], self.moves[part]


class Shuffler:
    """Epochs of one training; they depend on the seed alone, not on the device or on who trains beside it."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def epoch(self, count: int, augmentation: str) -> Epoch:
        """The next one, over so many images."""
        order = torch.randperm(count, generator=self.generator)
        if augmentation == "none":
            return Epoch(order, torch.zeros(count, 0, dtype=torch.uint8))
        if augmentation == IN_FILES:
            return Epoch(order, torch.randint(2**63 - 1, (count, 1), generator=self.generator))
        moves = torch.full((count, 3), PADDING, dtype=torch.uint8)
        if augmentation == "crop-flip":
            moves[:, :2] = torch.randint(2 * PADDING + 1, (count, 2), generator=self.generator, dtype=torch.uint8)
        moves[:, 2] = torch.randint(2, (count,), generator=self.generator, dtype=torch.uint8)
        return Epoch(order, moves)


def moved(images: Tensor, moves: Tensor) -> Tensor:
    """Crop each image out of its padded self, and mirror it.

    Args:
        images: shape (n, channels, height, width), any dtype.
        moves: shape (n, 3), as in Epoch.

    Returns:
        The same shape and dtype.
    """
    each = moves.long()
    down, right, mirrored = each[:, 0, None], each[:, 1, None], each[:, 2, None] > 0
    rows = torch.arange(images.shape[-2], device=images.device)
    columns = torch.arange(images.shape[-1], device=images.device)
    columns = torch.where(mirrored, columns.flip(0), columns)
    padded = functional.pad(images, (PADDING,) * 4)
    image = torch.arange(len(images), device=images.device)[:, None, None]
    found = padded[
        image, :, (down + rows)[:, :, None], (right + columns)[:, None, :]
    ]  # (images, height, width, channels)
    return found.permute(0, 3, 1, 2)


@dataclass(frozen=True)
class TrainImages:
    """A training split as a training uses it.

    Attributes:
        split: where its images lie: on the device, or in memory where they do not fit there.
        device: where batches are wanted.
        augmentation: as in Recipe.

    Raises:
        DataError: augmentation of what has no height and width.
    """

    split: Split
    device: torch.device
    augmentation: str

    @classmethod
    def of(cls, split: Split, recipe: Recipe, device: str) -> "TrainImages":
        """Place a split for a device."""
        if isinstance(split, FileSplit) or recipe.augmentation == IN_FILES:
            _check_files(split, recipe)
            return cls(split, torch.device(device), recipe.augmentation)
        if recipe.augmentation != "none" and split.images.dim() != 4:
            raise DataError(
                f"data: augmentation {recipe.augmentation!r} needs images of shape (channels, height, width), got "
                f'{tuple(split.images.shape[1:])}; set augmentation = "none" in the recipe'
            )
        place = torch.device(device)
        if split.labels.device.type == place.type:
            return cls(split, place, recipe.augmentation)
        if place.type != "cuda" or fits(split, torch.cuda.mem_get_info(place)[0]):
            split = split.to(place)
        return cls(split, place, recipe.augmentation)

    def __len__(self) -> int:
        return len(self.split)

    def epoch(self, shuffler: Shuffler) -> Epoch:
        """The next epoch of a training, where the images are."""
        return shuffler.epoch(len(self.split), self.augmentation).to(self.split.labels.device)

    @property
    def prepare(self) -> "Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None":
        """What a step is to do first with each of `batches`; None: they are images and labels already."""
        return self.batch if self._is_on_device else None

    @property
    def _is_on_device(self) -> bool:
        return not isinstance(self.split, FileSplit) and self.split.labels.device.type == self.device.type

    def batches(self, epoch: Epoch, size: int, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The whole batches of an epoch from step `first` on: images and labels, those of files read ahead; of images
        on the device the order and the moves only, from which a step that is recorded gathers them itself."""
        steps = len(self.split) // size
        if isinstance(self.split, FileSplit):
            part = slice(first * size, steps * size)
            for images, labels in self.split.stream(epoch.order[part], epoch.moves[part], size):
                yield self._ready(images, labels)
            return
        for step in range(first, steps):
            part = epoch.step(step, size)
            yield part if self._is_on_device else self.batch(*part)

    def batch(self, order: Tensor, moves: Tensor) -> tuple[Tensor, Tensor]:
        """Images and labels, augmented, as float32, on the device."""
        images, labels = self.split.images[order], self.split.labels[order]
        if self.augmentation != "none":
            images = moved(images, moves)
        return self._ready(images, labels)

    def _ready(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        images, labels = (part.to(self.device, non_blocking=True) for part in (images, labels))
        return self.split.normalized(images), labels


def _check_files(split: Split, recipe: Recipe) -> None:
    if not isinstance(split, FileSplit):
        raise DataError(
            f"data: augmentation {IN_FILES!r} needs images in files; set augmentation = 'crop-flip' in the recipe"
        )
    if recipe.augmentation not in ("none", IN_FILES):
        raise DataError(
            f"data: images in files are augmented by {IN_FILES!r} or by none, got {recipe.augmentation!r}; set "
            f"augmentation = {IN_FILES!r} in the recipe"
        )


def fits(split: Split, free_bytes: int) -> bool:
    """Whether a split leaves a device enough memory to train."""
    return split.images.nbytes + split.labels.nbytes <= _MEMORY_SHARE * free_bytes
