"""Small data sets in exactly the formats of the real ones."""

import gzip
import io
import pickle
import struct
from pathlib import Path

import numpy as np
from PIL import Image

from flexor_search.workloads.cifar10 import FOLDER, META_FILE, TEST_FILE, TRAIN_FILES
from flexor_search.workloads.idx_files import FILES

CLASSES = 10


def idx(array):
    return b"\x00\x00\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def digits(count, side, seed=0):
    """Images that differ by class, so that something can be learned, and their labels."""
    random = np.random.default_rng(seed)
    labels = (np.arange(count) % CLASSES).astype(np.uint8)
    images = random.integers(0, 80, (count, side, side), dtype=np.uint8)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[:, label * side // CLASSES : (label + 1) * side // CLASSES] += 150
    return images, labels


def write_idx_files(folder: Path, train=100, test=30, side=28, zipped=True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    arrays = (*digits(train, side), *digits(test, side, seed=1))
    for name, array in zip(FILES, arrays, strict=True):
        if zipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array), 1))
        else:
            (folder / name).write_bytes(idx(array))
    return folder


def cifar_batch(count, seed=0):
    images, labels = digits(count, 32, seed)
    data = np.repeat(images[:, None], 3, axis=1).reshape(count, -1)
    return {b"batch_label": b"made", b"labels": labels.tolist(), b"data": data, b"filenames": [b"made.png"] * count}


class _Python2Pickler(pickle._Pickler):  # type: ignore[name-defined]
    """Writes bytes as Python 2 wrote its strings, in which the official files were made."""

    def save_string(self, text):
        if len(text) < 256:
            self.write(pickle.SHORT_BINSTRING + bytes([len(text)]) + text)
        else:
            self.write(pickle.BINSTRING + struct.pack("<i", len(text)) + text)
        self.memoize(text)

    dispatch = pickle._Pickler.dispatch | {bytes: save_string}  # type: ignore[attr-defined]


def write_pickle(path: Path, body) -> None:
    with io.BytesIO() as written:
        _Python2Pickler(written, protocol=2).dump(body)
        path.write_bytes(written.getvalue().replace(b"numpy._core.", b"numpy.core."))


def write_cifar10(folder: Path, per_batch=20) -> Path:
    inner = folder / FOLDER
    inner.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate((*TRAIN_FILES, TEST_FILE)):
        write_pickle(inner / name, cifar_batch(per_batch, seed))
    names = [f"class {label}".encode() for label in range(CLASSES)]
    write_pickle(inner / META_FILE, {b"num_cases_per_batch": per_batch, b"label_names": names, b"num_vis": 3072})
    return folder


def write_image(path: Path, width=40, height=30, seed=0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, format="JPEG")


def write_imagenet(folder: Path, classes=2, train=8, val=3) -> Path:
    for label in range(classes):
        for part, count in (("train", train), ("val", val)):
            for number in range(count):
                path = folder / part / f"n0000000{label}" / f"n0000000{label}_{number}.JPEG"
                write_image(path, 40 + 3 * number, 50 - 2 * number, seed=100 * label + number)
    return folder
