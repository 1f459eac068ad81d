"""Images and labels, split into train, validation and test, held in memory as tensors."""

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from flexor_search.errors import DataError

VALIDATION_SHARE = 10  # of train, where a user gives only two parts: one tenth


@dataclass(frozen=True)
class Split:
    """Some images with their labels; a map-style data set of (float32 input, label), which a DataLoader takes.

    Attributes:
        name: "train", "validation" or "test", for messages.
        images: shape (n, ...), uint8 (0 to 255) or float32.
        labels: shape (n,), int64; or targets of a regression, shape (n, k), float32.
        mean, std: for uint8 images only: batches are (images / 255 - mean) / std; of all channels, or one a channel.

    Raises:
        DataError: empty, lengths that differ, negative labels, or pixels or targets that are not finite.
    """

    name: str
    images: Tensor
    labels: Tensor
    mean: float | tuple[float, ...] = 0.0
    std: float | tuple[float, ...] = 1.0

    def __post_init__(self) -> None:
        if len(self.images) == 0:
            raise DataError(f"data: the {self.name} split is empty; give it at least one image")
        if len(self.images) != len(self.labels):
            raise DataError(f"data: {self.name} has {len(self.images)} images but {len(self.labels)} labels")
        if self.is_regression:
            if not torch.isfinite(self.labels).all():
                raise DataError(f"data: {self.name} has a target that is NaN or infinite; clean the data")
        elif self.labels.is_floating_point() or self.labels.dim() != 1:
            raise DataError(
                f"data: {self.name} labels must be one integer an image, got {self.labels.dtype} of shape "
                f"{tuple(self.labels.shape)}"
            )
        elif int(self.labels.min()) < 0:
            raise DataError(f"data: {self.name} has the label {int(self.labels.min())}; labels count from 0")
        if self.images.is_floating_point() and not torch.isfinite(self.images).all():
            broken = int((~torch.isfinite(self.images.flatten(1)).all(1)).nonzero()[0, 0])
            raise DataError(f"data: {self.name} image {broken} holds a pixel that is NaN or infinite; clean the data")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.name} has {len(self)} images, not {index}")  # ends a loop over the split
        image, label = self.batch(slice(index, index + 1 or None))
        return image[0], label[0].clone()

    @property
    def is_regression(self) -> bool:
        """Whether it has float targets in place of labels."""
        return self.labels.is_floating_point() and self.labels.dim() == 2

    def to(self, device: str | torch.device) -> "Split":
        """The same split on a device."""
        return Split(self.name, self.images.to(device), self.labels.to(device), self.mean, self.std)

    def take(self, count: int) -> "Split":
        """The first `count` images of a fixed shuffle; all if count is 0 or not fewer."""
        if not 0 < count < len(self):
            return self
        return self.chosen(torch.randperm(len(self), generator=torch.Generator().manual_seed(0))[:count])

    def chosen(self, index: Tensor) -> "Split":
        """Some of its images, in that order."""
        return replace(self, images=self.images[index], labels=self.labels[index])

    def identity(self) -> Iterator[bytes]:
        """What it holds, for a fingerprint."""
        for part in (self.images, self.labels):
            yield part.contiguous().numpy().tobytes()

    def batch(self, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Images as float32, and labels; a model may work on the images in place."""
        images = self.normalized(self.images[index])
        return images.clone() if images._is_view() else images, self.labels[index]

    def normalized(self, images: Tensor) -> Tensor:
        """Some of its images as float32."""
        if images.dtype == torch.uint8:
            if isinstance(self.mean, float) and isinstance(self.std, float):
                return images.float().mul_(1 / (255 * self.std)).sub_(self.mean / self.std)
            mean, std = (_channels(each, images.device) for each in (self.mean, self.std))
            return images.float().div_(255).sub_(mean).div_(std)
        return images

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All images in order."""
        for start in range(0, len(self), size):
            yield self.batch(slice(start, start + size))


@functools.lru_cache(maxsize=64)
def _channels(values: float | tuple[float, ...], device: torch.device) -> Tensor:
    """Made once: a training step that is recorded must not copy from the processor."""
    return torch.tensor(values, device=device).view(-1, 1, 1)


@dataclass(frozen=True)
class Data:
    """The three splits, kept apart: train to fit, validation to choose, test to report, read once at the end."""

    train: Split
    validation: Split
    test: Split

    @property
    def n_classes(self) -> int:
        """One more than the largest label of any split; of a regression the numbers to be predicted."""
        if self.train.is_regression:
            return self.train.labels.shape[1]
        return 1 + max(int(split.labels.max()) for split in (self.train, self.validation, self.test))


def user_data(parts: Any, seed: int = 0, *, float_targets: bool = False) -> Data:
    """Data from what a user's `loaders()` returns.

    Each part is read once, from beginning to end, into memory: random augmentation inside a Dataset is frozen. torch's
    generator is seeded meanwhile, so that a DataLoader that shuffles gives the same order every time.

    Args:
        parts: (train, validation, test) or (train, test), each a torch Dataset or DataLoader of (float input, int
            label); with two parts validation is a seeded tenth of train.
        seed: of that choice, and of loaders that shuffle.
        float_targets: whether targets may be floats, one or several an image.

    Raises:
        DataError: another kind of object, items that are not pairs, unequal shapes, or one of Split's.
    """
    if not isinstance(parts, tuple | list) or len(parts) not in (2, 3):
        raise DataError(
            "data: the function must return (train, validation, test) or (train, test), each a Dataset or DataLoader "
            f"of (float input, int label); got {type(parts).__name__}"
        )
    names = ("train", "validation", "test") if len(parts) == 3 else ("train", "test")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        splits = {name: _read(name, part, float_targets) for name, part in zip(names, parts, strict=True)}
    kinds = {split.labels.shape[1:] for split in splits.values()}
    if len(kinds) > 1:
        raise DataError(f"data: the splits have targets of different shapes: {sorted(map(tuple, kinds))}")
    if "validation" not in splits:
        whole = splits["train"]
        count = max(1, len(whole) // VALIDATION_SHARE)
        if len(whole) < 2:
            raise DataError("data: train needs at least two images to set a tenth aside for validation")
        order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(seed))
        splits["validation"] = Split("validation", whole.images[order[:count]], whole.labels[order[:count]])
        splits["train"] = Split("train", whole.images[order[count:]], whole.labels[order[count:]])
    return Data(splits["train"], splits["validation"], splits["test"])


def _read(name: str, part: Any, float_targets: bool) -> Split:
    if not isinstance(part, DataLoader | Dataset):
        raise DataError(f"data: {name} must be a torch Dataset or DataLoader, got {type(part).__name__}")
    images, labels = [], []
    try:
        for batch in _batches(part):
            if not isinstance(batch, tuple | list) or len(batch) != 2:
                raise DataError(f"data: {name} must give pairs (input, label), got {type(batch).__name__}")
            for kept, given in zip((images, labels), batch, strict=True):
                kept.append(torch.as_tensor(given).detach().cpu())
        if not images:
            raise DataError(f"data: the {name} split is empty; give it at least one image")
        every = torch.cat(labels)
        if every.is_floating_point() and not float_targets:
            raise DataError(
                f"data: {name} labels must be one integer an image, got {every.dtype}; for float targets give --metric"
            )
        # one number an image is a row of one
        targets = every.float().reshape(len(every), -1) if every.is_floating_point() else every.long()
        return Split(name, torch.cat(images).float(), targets)
    except DataError:
        raise
    except Exception as error:  # the user's own code runs in this loop
        raise DataError(f"data: reading {name} failed: {type(error).__name__}: {error}") from error


def _batches(part: DataLoader | Dataset) -> Iterable[Any]:
    if isinstance(part, DataLoader):
        return part
    empty = hasattr(part, "__len__") and len(part) == 0  # type: ignore[arg-type]  # a DataLoader would refuse it
    return [] if empty else DataLoader(part, batch_size=256)
