"""CIFAR-10: 50,000 training and 10,000 test images, 32x32 in colour; the last tenth of train validates.

The official files are pickles. They are read by an unpickler that knows the few names such a file needs, arrays of
numpy among them, and refuses every other: a file that would run code is an error, not a danger.
"""

import hashlib
import pickle
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from flexor_search.errors import DataError
from flexor_search.workloads.data import Data, Split
from flexor_search.workloads.known_folders import folder_given, missing

FOLDER = "cifar-10-batches-py"
TRAIN_FILES = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST_FILE, META_FILE = "test_batch", "batches.meta"
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
OFFICIAL_BATCH = 10_000
_PIXELS = (3, 32, 32)
_CLASSES = 10
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}
"""What pickles of a dict of arrays, lists, numbers and bytes name."""


def load(data_dir: Path | None = None) -> Data:
    """Read CIFAR-10 as torchvision lays it out.

    A folder whose batches.meta promises the official 10,000 images a batch must hold the official files, by their MD5.
    One that promises fewer is taken for a part of CIFAR-10, and checked by its lengths.

    Args:
        data_dir: the folder cifar-10-batches-py, or the one that holds it.

    Raises:
        DataError: no such folder, another data set, or a damaged file.
    """
    root = folder_given(data_dir, "CIFAR-10")
    folder = root / FOLDER if (root / FOLDER).is_dir() else root
    names = (*TRAIN_FILES, TEST_FILE, META_FILE)
    absent = [name for name in names if not (folder / name).is_file()]
    if len(absent) == len(names):
        raise missing(root, "CIFAR-10", f"the files {', '.join(names)}, as in {FOLDER}")
    if absent:
        raise DataError(f"data: {folder} lacks {', '.join(absent)} of CIFAR-10; fetch it again")
    count = _images_per_batch(folder / META_FILE)
    batches = [_read_batch(folder / name, count) for name in TRAIN_FILES]
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    last = max(1, len(images) // 10)
    test_images, test_labels = _read_batch(folder / TEST_FILE, count)
    splits = (
        ("train", images[:-last], labels[:-last]),
        ("validation", images[-last:], labels[-last:]),
        ("test", test_images, test_labels),
    )
    return Data(*(Split(name, x, y, mean=MEAN, std=STD) for name, x, y in splits))


def read_pickle(path: Path) -> Any:
    """Read a pickle of arrays, containers, numbers, text and bytes.

    Raises:
        DataError: damaged, cut short, or it holds anything else.
    """
    try:
        with path.open("rb") as file:
            return _Unpickler(file, encoding="latin1").load()
    except DataError as error:
        raise DataError(f"data: {path} {error}") from error
    except Exception as error:  # pickle raises whatever a damaged stream leads it to
        raise DataError(f"data: {path} is damaged or cut short ({error}); fetch it again") from error


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, encoding: str) -> None:
        super().__init__(file, encoding=encoding)

    def find_class(self, module: str, name: str) -> Any:
        """Only what arrays need."""
        if (module, name) not in _ALLOWED:
            raise DataError(f"names {module}.{name}, which no CIFAR-10 file does; it was not loaded, do not trust it")
        return super().find_class(module, name)


def _images_per_batch(path: Path) -> int:
    meta = read_pickle(path)
    count = meta.get("num_cases_per_batch") if isinstance(meta, dict) else None
    if not isinstance(count, int) or count < 1:
        raise DataError(f"data: {path} does not say how many images a batch holds; fetch it again")
    if len(names := meta.get("label_names", ())) != _CLASSES:
        raise DataError(f"data: {path} names {len(names)} classes where CIFAR-10 has {_CLASSES}; fetch CIFAR-10")
    return count


def _read_batch(path: Path, count: int) -> tuple[Tensor, Tensor]:
    """Images (count, 3, 32, 32) and labels of one file."""
    if count == OFFICIAL_BATCH and _md5(path) != _official_md5()[path.name]:
        raise DataError(f"data: {path} is not the official file: its MD5 is another one; fetch it again")
    batch = read_pickle(path)
    data, labels = (batch.get(key) for key in ("data", "labels")) if isinstance(batch, dict) else (None, None)
    if not isinstance(data, np.ndarray) or not isinstance(labels, list) or data.dtype != np.uint8:
        raise DataError(f"data: {path} is not a batch of CIFAR-10 (data, labels); fetch it again")
    if data.shape != (count, int(np.prod(_PIXELS))) or len(labels) != count:
        raise DataError(
            f"data: {path} holds images of shape {list(data.shape)} and {len(labels)} labels where {META_FILE} says "
            f"{count} images of {int(np.prod(_PIXELS))} bytes; fetch it again"
        )
    wrong = [label for label in labels if not isinstance(label, int) or not 0 <= label < _CLASSES]
    if wrong:
        raise DataError(f"data: {path} has the label {wrong[0]}; those of CIFAR-10 go from 0 to {_CLASSES - 1}")
    return torch.from_numpy(data.reshape(-1, *_PIXELS).copy()), torch.tensor(labels, dtype=torch.int64)


def _official_md5() -> dict[str, str]:
    from torchvision.datasets import CIFAR10

    return {entry[0]: entry[1] for entry in (*CIFAR10.train_list, *CIFAR10.test_list)}


def _md5(path: Path) -> str:
    try:
        return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    except OSError as error:
        raise DataError(f"data: {path} cannot be read: {error.strerror or error}; fetch it again") from error
