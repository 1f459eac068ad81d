"""What a data folder holds, by its names: so that the error about a wrong folder can say what it is instead."""

from pathlib import Path

from flexor_search.errors import DataError

_MARKS = {
    "CIFAR-10": ("data_batch_1", "cifar-10-batches-py"),
    "CIFAR-100": ("cifar-100-python",),
    "MNIST": ("MNIST",),
    "Fashion-MNIST": ("FashionMNIST",),
    "files in MNIST's format": ("train-images-idx3-ubyte", "train-images-idx3-ubyte.gz"),
    "class folders as of ImageNet": ("train", "val"),
}
"""Data set -> names in its folder, any of which marks it."""


def missing(folder: Path, name: str, wanted: str) -> DataError:
    """The error about a folder that does not hold a data set, naming the one that it seems to hold.

    Args:
        folder: given by --data-dir.
        name: of the data set that it should hold.
        wanted: what was looked for, in words.
    """
    others = [
        other for other, marks in _MARKS.items() if other != name and any((folder / mark).exists() for mark in marks)
    ]
    seems = f"; it seems to hold {others[0]}" if others else ""
    return DataError(f"data: {folder} does not hold {wanted}{seems}; --data-dir must name a folder of {name}")


def folder_given(data_dir: Path | None, name: str) -> Path:
    """The folder of a data set that is fetched by nobody.

    Raises:
        DataError: none was given, or it is no folder.
    """
    if data_dir is None:
        raise DataError(f"data: {name} is not here; give its folder by --data-dir, as torchvision lays it out")
    if not data_dir.is_dir():
        raise DataError(f"data: the folder {data_dir} does not exist; --data-dir must name a folder")
    return data_dir
