"""Images that stay in their files: a split of any size in bounded memory, decoded by processes while others train.

A random crop depends on the seed of its image alone, which the training draws; so batches are the same whoever decodes
them, and a training that goes on from a checkpoint sees what it would have seen.
"""

import logging
import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from flexor_search.codes.sharing import n_processors
from flexor_search.errors import DataError
from flexor_search.workloads.data import Split

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MOST_READERS = 8
"""Processes that decode, at most."""
FEW_IMAGES = 64
"""So many are decoded here: starting processes would take longer."""
SCORED_AT_ONCE = 100
"""Images of a batch that is only scored, at most: it is float32, and so is all that a model makes of it."""
_RESIZED = 256 / 224
"""Shorter side of an image over the side of its middle that is scored, as usual for ImageNet."""
_AREA, _RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
"""Of a random crop: its share of the image, and its width over its height; torchvision's."""
_CROP_TRIES = 10
_SUBSTITUTES = 10
"""Images that are tried in the place of a damaged one, before the split itself is taken to be damaged."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FileSplit(Split):
    """A split whose images are files; make it by `of`.

    Its `images` are on the meta device: they have a shape and no values. A damaged file is named: of the split
    named "train", the next image that can be read takes its place; in one that is scored, it is an error.

    Attributes:
        root: folder of the files.
        names: below it, encoded and padded with zeros, shape (n, longest), uint8.
        sizes: of the files in bytes, shape (n,), int64.
    """

    root: str = ""
    names: Tensor = field(default_factory=lambda: torch.empty(0, 0, dtype=torch.uint8))
    sizes: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))

    def path(self, index: int) -> Path:
        """The file of an image."""
        return Path(self.root) / os.fsdecode(self.names[index].numpy().tobytes().rstrip(b"\0"))

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        images, labels = self.batch(torch.tensor([range(len(self))[index]]))
        return images[0], labels[0]

    def to(self, device: str | torch.device) -> "FileSplit":
        """Itself: files lie where they lie."""
        return self

    def chosen(self, index: Tensor) -> "FileSplit":
        """Some of its images, in that order."""
        images = torch.empty((len(index), *self.images.shape[1:]), dtype=torch.uint8, device="meta")
        labels, names, sizes = (part[index] for part in (self.labels, self.names, self.sizes))
        return replace(self, images=images, labels=labels, names=names, sizes=sizes)

    def identity(self) -> Iterator[bytes]:
        """Names, sizes and labels: reading a hundred gigabytes would take longer than it is worth."""
        for part in (self.names, self.sizes, self.labels):
            yield part.numpy().tobytes()

    def batch(self, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Images as float32, cut out of the middle, and labels."""
        order = torch.arange(len(self))[index]
        images, labels = self.read(order, torch.empty(len(order), 0, dtype=torch.int64))
        return self.normalized(images), labels

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All images in order, at most SCORED_AT_ONCE in a batch."""
        seeds = torch.empty(len(self), 0, dtype=torch.int64)
        for images, labels in self.stream(torch.arange(len(self)), seeds, min(size, SCORED_AT_ONCE)):
            yield self.normalized(images), labels

    def read(self, order: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
        """A batch, decoded by threads of this process.

        Args:
            order: indices of images, any shape.
            seeds: of their random crops, shape (*order.shape, 1); (*order.shape, 0): the middle of each.

        Returns:
            Images as uint8, labels.
        """
        files = _Files(self, order.flatten(), seeds.flatten(0, -2))
        with ThreadPoolExecutor(min(MOST_READERS, n_processors())) as pool:
            images, labels = _told(_collate(list(pool.map(files.__getitem__, range(len(files))))))
        return images.view(*order.shape, *images.shape[1:]), labels.view(order.shape)

    def stream(self, order: Tensor, seeds: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of an order, decoded ahead by other processes.

        Args:
            order: indices of images, shape (n,).
            seeds: as of `read`.
            size: of a batch; the last may be smaller.

        Yields:
            Images as uint8, labels.
        """
        readers = 0 if len(order) <= FEW_IMAGES else min(MOST_READERS, n_processors())
        files = _Files(self, order, seeds)
        own = torch.Generator()  # the loader draws a number, which must not be one of the training's
        for read in DataLoader(files, size, num_workers=readers, collate_fn=_collate, generator=own):
            yield _told(read)


class _Files(Dataset):
    """Images of a split in an order, as (uint8 image, label, what was wrong with its file); no image: an error.

    An error is told, not raised: from another process torch would raise it as a whole traceback.
    """

    def __init__(self, split: FileSplit, order: Tensor, seeds: Tensor) -> None:
        self.split, self.order, self.seeds = split, order, seeds
        self.side = int(split.images.shape[-1])

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, position: int) -> tuple[Tensor | None, int, str]:
        split, first = self.split, int(self.order[position])
        seed = int(self.seeds[position, 0]) if self.seeds.shape[-1] else None
        told = ""
        may_replace = split.name == "train"  # of what is scored, another image would be another score
        for index in (i % len(split) for i in range(first, first + (_SUBSTITUTES if may_replace else 1))):
            path = split.path(index)
            try:
                return read_image(path, self.side, seed), int(split.labels[index]), told
            except Exception as error:  # PIL raises what a damaged file leads it to
                told = told or f"{path} cannot be read as an image ({error})"
        if not may_replace:
            return None, 0, f"{told}; fetch it again, or delete it and begin anew"
        return None, 0, f"{told}, nor can the {_SUBSTITUTES - 1} behind it; fetch the data again"


_Read = tuple[Tensor, Tensor, list[str], str]
"""Images and labels of a batch, the damaged files that others took the place of, and an error."""


def _collate(read: list[tuple[Tensor | None, int, str]]) -> _Read:
    error = next((told for image, _, told in read if image is None), "")
    if error:
        return torch.empty(0), torch.empty(0), [], error
    labels = torch.tensor([label for _, label, _ in read], dtype=torch.int64)
    images = [image for image, _, _ in read if image is not None]
    return torch.stack(images), labels, [told for _, _, told in read if told], ""


def _told(read: _Read) -> tuple[Tensor, Tensor]:
    images, labels, damaged, error = read
    if error:
        raise DataError(f"data: {error}")
    for text in damaged:
        _log.warning("data: %s; the next image takes its place", text)
    return images, labels


def read_image(path: Path, side: int, seed: int | None) -> Tensor:
    """Decode an image to uint8 of shape (3, side, side).

    Args:
        path: of a file that PIL reads.
        side: in pixels.
        seed: of a random crop and of whether it is mirrored; None: the middle.
    """
    from PIL import Image

    with Image.open(path) as opened:
        image = opened.convert("RGB")
    width, height = image.size
    if seed is None:
        shorter = round(side * _RESIZED)
        wide, high = (int(shorter * length / min(width, height)) for length in (width, height))
        image = image.resize((wide, high), Image.Resampling.BILINEAR)
        left, top = round((wide - side) / 2), round((high - side) / 2)
        image = image.crop((left, top, left + side, top + side))
    else:
        generator = torch.Generator().manual_seed(seed)
        left, top, wide, high = random_crop(width, height, generator)
        box = (left, top, left + wide, top + high)
        image = image.resize((side, side), Image.Resampling.BILINEAR, box=box)
        if float(torch.rand(1, generator=generator)) < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def random_crop(width: int, height: int, generator: torch.Generator) -> tuple[int, int, int, int]:
    """Where to cut: left, top, width, height.

    The same as torchvision's RandomResizedCrop with torch's own generator at the same seed; that one has no argument
    for a generator, and a global one would not do for threads.
    """

    first, last = torch.log(torch.tensor(_RATIO)).tolist()
    for _ in range(_CROP_TRIES):
        area = width * height * float(torch.empty(1).uniform_(*_AREA, generator=generator))
        ratio = float(torch.exp(torch.empty(1).uniform_(first, last, generator=generator)))
        wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            top = int(torch.randint(0, height - high + 1, (1,), generator=generator))
            left = int(torch.randint(0, width - wide + 1, (1,), generator=generator))
            return left, top, wide, high
    least, most = _RATIO
    wide = min(width, round(height * most))
    high = min(height, round(width / least))
    return (width - wide) // 2, (height - high) // 2, wide, high


def file_split(name: str, root: Path, files: list[tuple[str, int, int]], side: int) -> FileSplit:
    """A split of files.

    Args:
        name: "train", "validation" or "test".
        root: folder of the files.
        files: name below it, size in bytes, label; of each image.
        side: of the images that a model gets, in pixels.

    Raises:
        DataError: no file, or one of Split's.
    """
    encoded = np.array([os.fsencode(file) for file, _, _ in files], dtype=np.bytes_)
    names = torch.from_numpy(encoded.view(np.uint8).reshape(len(files), -1).copy()) if files else torch.empty(0, 0)
    sizes, labels = (torch.tensor([entry[i] for entry in files], dtype=torch.int64) for i in (1, 2))
    images = torch.empty((len(files), 3, side, side), dtype=torch.uint8, device="meta")
    return FileSplit(name, images, labels, IMAGENET_MEAN, IMAGENET_STD, str(root.resolve()), names, sizes)
