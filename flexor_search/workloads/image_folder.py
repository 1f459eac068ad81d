"""Folders of images as torchvision reads them: one folder a class, in train/ and val/; ImageNet is laid out so."""

import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import monotonic

import torch

from flexor_search.errors import DataError
from flexor_search.workloads.data import Data
from flexor_search.workloads.image_files import FileSplit, file_split
from flexor_search.workloads.known_folders import folder_given, missing

SIDE = 224
N_VALIDATION = 10_000
"""Images of train that are set aside to choose by; of a smaller set a tenth, if that is less."""
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""torchvision's."""
_TOLD_EVERY = 5.0
"""Seconds after which a listing tells how far it is, and again."""
_log = logging.getLogger(__name__)


def load(data_dir: Path | None = None) -> Data:
    """List ImageNet, or a part of it; nothing is decoded yet.

    val/ is the test set, as in the literature; validation is a part of train/, always the same one.

    Args:
        data_dir: a folder with train/CLASS/*.JPEG and val/CLASS/*.JPEG.

    Raises:
        DataError: no such folders, a class folder without images, or classes that differ between train and val.
    """
    root = folder_given(data_dir, "ImageNet")
    if not all((root / part).is_dir() for part in ("train", "val")):
        raise missing(root, "ImageNet", "the folders train and val")
    classes = _classes(root / "train")
    if (others := _classes(root / "val")) != classes:
        differing = sorted(set(classes) ^ set(others))
        raise DataError(
            f"data: train and val under {root} differ in {len(differing)} class folders, such as {differing[0]}; "
            "they must be of one data set"
        )
    whole = _split("train", root / "train", classes)
    if len(whole) < 2:
        raise DataError(f"data: {root / 'train'} needs at least two images to set one aside for validation")
    last = max(1, min(N_VALIDATION, len(whole) // 10))
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))
    validation = whole.chosen(order[-last:].sort().values)
    train = whole.chosen(order[:-last].sort().values)
    return Data(train, replace(validation, name="validation"), _split("test", root / "val", classes))


def _classes(folder: Path) -> list[str]:
    """Class folders in alphabetical order: the labels."""
    with os.scandir(folder) as entries:
        found = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    if not found:
        raise DataError(
            f"data: {folder} holds no class folders; give every class a folder of its images, as torchvision does"
        )
    return found


def _split(name: str, folder: Path, classes: list[str]) -> FileSplit:
    files: list[tuple[str, int, int]] = []
    told = monotonic()
    for label, each in enumerate(classes):
        before = len(files)
        images = sorted(_images(str(folder / each), each))  # by folder, then by name, as torchvision lists them
        files += [(f"{below}/{file}", size, label) for below, file, size in images]
        if len(files) == before:
            raise DataError(
                f"data: the class folder {folder / each} holds no images ({', '.join(EXTENSIONS)}); fill it, or take "
                "it out of train and val"
            )
        if monotonic() - told > _TOLD_EVERY:
            told = monotonic()
            _log.info(
                "data: %s images listed, %d of %d class folders of %s",
                *(f"{len(files):,}", label + 1, len(classes), folder),
            )
    return file_split(name, folder, files, SIDE)


def _images(folder: str, below: str) -> Iterator[tuple[str, str, int]]:
    """Images of a class and of the folders in its folder: path below the class folders, name, size in bytes."""
    path = folder
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                path = entry.path
                if entry.is_dir():
                    yield from _images(path, f"{below}/{entry.name}")
                elif entry.name.lower().endswith(EXTENSIONS):
                    yield below, entry.name, entry.stat().st_size
    except OSError as error:  # a folder that may not be read, a link to nothing
        raise DataError(f"data: {path} cannot be read: {error.strerror or error}; mend it, or delete it") from error
