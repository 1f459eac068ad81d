"""MNIST from idx files, and what is told about folders of other data sets."""

import gzip

import numpy as np
import pytest

from flexor_search.errors import DataError
from flexor_search.workloads import fashion_mnist, mnist
from flexor_search.workloads.fashion_mnist import DEBIAN_FOLDER
from flexor_search.workloads.idx_files import FILES
from tests.workloads.made_data import digits, idx, write_cifar10, write_idx_files, write_imagenet


@pytest.mark.parametrize("inner", ["", "MNIST/raw"])
@pytest.mark.parametrize("zipped", [True, False])
def test_it_reads_the_four_files(tmp_path, inner, zipped):
    write_idx_files(tmp_path / inner, train=100, test=30, zipped=zipped)
    data = mnist.load(tmp_path)
    images, labels = digits(100, 28)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [90, 10, 30]
    assert np.array_equal(data.train.images[:, 0], images[:90])
    assert np.array_equal(data.validation.labels, labels[90:])
    assert np.array_equal(data.test.images[:, 0], digits(30, 28, seed=1)[0])


def test_a_full_set_keeps_five_thousand_to_validate(tmp_path):
    write_idx_files(tmp_path, train=60_000, test=10, side=2, zipped=False)
    assert len(mnist.load(tmp_path).validation) == 5_000


def test_without_a_folder_it_says_how_to_give_one():
    with pytest.raises(DataError, match="MNIST is not here; give its folder by --data-dir"):
        mnist.load(None)


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (write_cifar10, "it seems to hold CIFAR-10;"),
        (write_imagenet, "it seems to hold class folders as of ImageNet;"),
        (lambda folder: write_idx_files(folder / "FashionMNIST" / "raw"), "it seems to hold Fashion-MNIST;"),
        (lambda folder: None, "gzipped or not\\); --data-dir must name a folder of MNIST"),
    ],
)
def test_a_folder_of_another_data_set_is_refused_and_named(tmp_path, write, told):
    write(tmp_path)
    with pytest.raises(DataError, match=told):
        mnist.load(tmp_path)


@pytest.mark.fashion
@pytest.mark.skipif(not DEBIAN_FOLDER.is_dir(), reason="needs Debian's dataset-fashion-mnist")
def test_fashion_mnist_in_the_same_files_is_told_from_mnist():
    with pytest.raises(DataError, match="holds Fashion-MNIST, not MNIST"):
        mnist.load(DEBIAN_FOLDER)


def test_mnist_is_told_from_fashion_mnist(tmp_path):
    write_idx_files(tmp_path, train=100)
    labels = np.array([5, 0, 4, 1, 9, 2, 1, 3, 1, 4] * 10, np.uint8)  # MNIST begins so
    (tmp_path / f"{FILES[1]}.gz").write_bytes(gzip.compress(idx(labels)))
    assert len(mnist.load(tmp_path).train) == 90
    with pytest.raises(DataError, match="holds MNIST, not Fashion-MNIST"):
        fashion_mnist.load(tmp_path)
