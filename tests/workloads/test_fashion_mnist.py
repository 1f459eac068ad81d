"""Fashion-MNIST from idx files: every layout it is found in, and every way in which files can be wrong."""

import gzip
import struct

import numpy as np
import pytest
import torchvision

from flexor_search.errors import DataError
from flexor_search.workloads import fashion_mnist, workload
from flexor_search.workloads.fashion_mnist import DEBIAN_FOLDER, load
from flexor_search.workloads.idx_files import FILES, read_idx

N_TRAIN, N_TEST = 5_040, 30


def idx(array):
    return b"\x00\x00\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def arrays():
    random = np.random.default_rng(0)
    pixels = [random.integers(0, 256, (count, 3, 2), dtype=np.uint8) for count in (N_TRAIN, N_TEST)]
    labels = [np.arange(count, dtype=np.uint8) % 10 for count in (N_TRAIN, N_TEST)]
    return pixels[0], labels[0], pixels[1], labels[1]


def write(folder, zipped=False):
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in zip(FILES, arrays(), strict=True):
        if zipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array), 1))
        else:
            (folder / name).write_bytes(idx(array))
    return folder


@pytest.mark.parametrize("inner", ["", "FashionMNIST/raw"])
@pytest.mark.parametrize("zipped", [True, False])
def test_it_reads_the_four_files(tmp_path, inner, zipped):
    write(tmp_path / inner, zipped)
    data = load(tmp_path)
    images, labels, test_images, test_labels = arrays()
    assert [len(split) for split in (data.train, data.validation, data.test)] == [40, 5_000, N_TEST]
    assert np.array_equal(data.train.images[:, 0], images[:40])
    assert np.array_equal(data.validation.images[:, 0], images[40:])
    assert np.array_equal(data.validation.labels, labels[40:])
    assert np.array_equal(data.test.images[:, 0], test_images)
    assert np.array_equal(data.test.labels, test_labels)


def test_the_debian_folder_comes_first_and_then_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "debian")
    monkeypatch.setenv("HOME", str(tmp_path))

    def download(root, download):
        write(tmp_path / ".cache" / "flexor-search" / "FashionMNIST" / "raw")

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", download)
    assert len(load().test) == N_TEST
    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", None)  # would fail if it were called
    write(tmp_path / "debian", zipped=True)
    assert len(load().test) == N_TEST


def test_with_no_data_anywhere_the_message_names_all_three_ways(tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "debian")
    monkeypatch.setenv("HOME", str(tmp_path))

    def download(root, download):
        raise ConnectionError("no network")

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", download)
    with pytest.raises(DataError) as caught:
        load()
    for way in ("--data-dir", "apt-get install dataset-fashion-mnist", "download", "ConnectionError"):
        assert way in str(caught.value)


def test_a_download_that_leaves_nothing_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "debian")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", lambda root, download: None)
    with pytest.raises(DataError, match="left no Fashion-MNIST"):
        load()


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere.* does not exist; --data-dir"):
        load(tmp_path / "nowhere")


def test_a_missing_file_is_an_error(tmp_path):
    (write(tmp_path) / FILES[3]).unlink()
    with pytest.raises(DataError, match=r"does not hold the four files.*t10k-labels"):
        load(tmp_path)


def damaged(good):
    yield "empty", b""
    yield "no magic", b"\x00\x00"
    yield "wrong type", b"\x00\x00\x0d" + good[3:]
    yield "wrong magic", b"\x01" + good[1:]
    yield "header cut", good[:9]
    yield "cut", good[:-1]
    yield "too long", good + b"\x00"
    yield "huge shape", good[:4] + b"\xff" * 12 + good[16:]
    yield "text", b"<html>404 not found</html>"


@pytest.mark.parametrize("what", [what for what, _ in damaged(b"")])
def test_a_damaged_file_is_named(tmp_path, what):
    path = write(tmp_path) / FILES[0]
    path.write_bytes(dict(damaged(path.read_bytes()))[what])
    with pytest.raises(DataError, match=f"{FILES[0]}.*fetch it again"):
        load(tmp_path)


@pytest.mark.parametrize("what", ["cut", "changed", "no gzip"])
def test_a_damaged_gzip_file_is_named(tmp_path, what):
    path, raw = tmp_path / "images.gz", gzip.compress(idx(arrays()[0]))
    path.write_bytes({"cut": raw[:-20], "changed": raw[:40] + b"\xff" * 9 + raw[49:], "no gzip": b"no"}[what])
    with pytest.raises(DataError, match=r"images.gz is damaged or cut short.*fetch it again"):
        read_idx(path)


@pytest.mark.parametrize(
    ("file", "array", "message"),
    [
        (0, np.zeros((N_TRAIN, 6), np.uint8), "train images must be grey images"),
        (2, np.zeros((N_TEST, 3, 2, 3), np.uint8), "test images must be grey images"),
        (1, np.zeros(N_TRAIN - 1, np.uint8), "images but .* labels"),
        (1, np.zeros((N_TRAIN, 1), np.uint8), "one integer an image"),
        (0, np.zeros((5_000, 3, 2), np.uint8), "5000 training images leave none"),
    ],
)
def test_files_that_do_not_belong_together(tmp_path, file, array, message):
    (write(tmp_path) / FILES[file]).write_bytes(idx(array))
    with pytest.raises(DataError, match=message):
        load(tmp_path)


@pytest.mark.fashion
@pytest.mark.skipif(not DEBIAN_FOLDER.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_debians_data_set():
    data = workload("lenet5-fashion-mnist").load(None)
    splits = (data.train, data.validation, data.test)
    assert [tuple(split.images.shape) for split in splits] == [(n, 1, 28, 28) for n in (55_000, 5_000, 10_000)]
    together = data.train.labels.bincount() + data.validation.labels.bincount()
    assert together.tolist() == [6_000] * 10
    assert data.test.labels.bincount().tolist() == [1_000] * 10
    images, _ = data.test.batch(slice(0, 1000))
    assert images.mean().item() == pytest.approx(0, abs=0.05)
    assert images.std().item() == pytest.approx(1, abs=0.05)
