"""idx files of unsigned bytes, the format of MNIST and of the data sets made in its likeness."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flexor_search.errors import DataError

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
"""Images and labels for training, then for the test, each plain or with ".gz" behind it."""

_FIRST_LABELS = {
    "MNIST": (5, 0, 4, 1, 9, 2, 1, 3, 1, 4),
    "Fashion-MNIST": (9, 0, 0, 3, 0, 2, 7, 2, 5, 5),
}
"""Of training: the data sets have the same file names and shapes, and nothing else in them says which one it is."""


def read_idx(path: Path) -> np.ndarray:
    """Read an idx file of unsigned bytes, gzipped or not.

    Raises:
        DataError: not such a file, or cut short.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"data: {path} is damaged or cut short ({error}); fetch it again") from error
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08" or len(raw) < 4 + 4 * raw[3]:
        raise DataError(f"data: {path} is not an idx file of unsigned bytes; fetch it again")
    shape = np.frombuffer(raw, ">u4", count=raw[3], offset=4)
    body = np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3])
    if len(body) != math.prod(int(size) for size in shape):
        raise DataError(f"data: {path} holds {len(body)} bytes where its header says {shape.tolist()}; fetch it again")
    return body.reshape(shape)


def find_idx_files(folder: Path, inner: str) -> list[Path] | None:
    """The four files, in the folder or where torchvision puts them below it; None if one is missing.

    Args:
        folder: given by --data-dir, or a cache.
        inner: torchvision's folder, such as "MNIST/raw".
    """
    for place in (folder, folder / inner):
        found = [
            next((path for path in (place / f"{name}.gz", place / name) if path.is_file()), None) for name in FILES
        ]
        if all(found):
            return [path for path in found if path is not None]
    return None


def read_four(paths: list[Path], name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images and labels for training, then for the test: uint8, shapes (n, height, width) and (n,).

    Args:
        paths: as `find_idx_files` gives them.
        name: of the data set that they should hold.

    Raises:
        DataError: a damaged file, images that are not grey, or another data set.
    """
    images, labels, test_images, test_labels = (torch.from_numpy(read_idx(path).copy()) for path in paths)
    for split, part in (("train", images), ("test", test_images)):
        if part.dim() != 3:
            raise DataError(f"data: the {split} images must be grey images, got a tensor of shape {tuple(part.shape)}")
    for other, first in _FIRST_LABELS.items():
        if other != name and tuple(labels.flatten()[: len(first)].tolist()) == first:
            raise DataError(f"data: {paths[0].parent} holds {other}, not {name}; give another --data-dir or --workload")
    return images, labels, test_images, test_labels
