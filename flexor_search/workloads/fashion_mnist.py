"""Fashion-MNIST: 60,000 training and 10,000 test images of clothes, 28x28 grey; the last 5,000 train to validate."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flexor_search.errors import DataError
from flexor_search.workloads.data import Data, Split

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
N_VALIDATION = 5_000


def load(data_dir: Path | None = None) -> Data:
    """Read Fashion-MNIST.

    Args:
        data_dir: a folder with the four idx files, gzipped or not, or the root that torchvision downloads to. None: the
            folder of Debian's package dataset-fashion-mnist, else torchvision's download.

    Raises:
        DataError: no data to be had, or a damaged file.
    """
    images, labels, test_images, test_labels = (_tensor(path) for path in _find(data_dir))
    for name, part in (("train", images), ("test", test_images)):
        if part.dim() != 3:
            raise DataError(f"data: the {name} images must be grey images, got a tensor of shape {tuple(part.shape)}")
    if len(images) <= N_VALIDATION:
        raise DataError(
            f"data: {len(images)} training images leave none after {N_VALIDATION} for validation; "
            "give the full data set"
        )
    splits = (
        ("train", images[:-N_VALIDATION], labels[:-N_VALIDATION]),
        ("validation", images[-N_VALIDATION:], labels[-N_VALIDATION:]),
        ("test", test_images, test_labels),
    )
    return Data(*(Split(name, x.unsqueeze(1), y.long(), mean=0.286, std=0.353) for name, x, y in splits))


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


def _tensor(path: Path) -> Tensor:
    return torch.from_numpy(read_idx(path).copy())


def _find(data_dir: Path | None) -> list[Path]:
    if data_dir is not None:
        if not data_dir.is_dir():
            raise DataError(f"data: the folder {data_dir} does not exist; --data-dir must name a folder")
        found = _files_in(data_dir)
        if found is None:
            raise DataError(f"data: {data_dir} does not hold the four files {', '.join(FILES)} (gzipped or not)")
        return found
    found = _files_in(DEBIAN_FOLDER)
    if found is not None:
        return found
    cache = Path.home() / ".cache" / "flexor-search"
    try:
        from torchvision.datasets import FashionMNIST

        FashionMNIST(str(cache), download=True)
    except Exception as error:  # whatever a network can do
        raise DataError(
            "data: Fashion-MNIST is not here. Any of three ways gets it: --data-dir FOLDER with its four idx files; "
            "Debian's package dataset-fashion-mnist (apt-get install dataset-fashion-mnist); or a network, for "
            f"torchvision's download, which failed: {type(error).__name__}"
        ) from error
    found = _files_in(cache)
    if found is None:
        raise DataError(f"data: torchvision's download left no Fashion-MNIST in {cache}; use --data-dir")
    return found


def _files_in(folder: Path) -> list[Path] | None:
    for inner in (folder, folder / "FashionMNIST" / "raw"):
        found = [
            next((path for path in (inner / f"{name}.gz", inner / name) if path.is_file()), None) for name in FILES
        ]
        if all(found):
            return [path for path in found if path is not None]
    return None
