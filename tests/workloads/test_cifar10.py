"""CIFAR-10 from its official pickles: what torchvision reads, nothing that could run, and all that can be wrong."""

import hashlib
import pickle

import numpy as np
import pytest
import torch
import torchvision

from flexor_search.errors import DataError
from flexor_search.workloads import cifar10
from flexor_search.workloads.cifar10 import FOLDER, META_FILE, TEST_FILE, TRAIN_FILES, load, read_pickle
from tests.workloads.made_data import cifar_batch, write_cifar10, write_idx_files, write_pickle


@pytest.mark.parametrize("inner", ["", FOLDER])
def test_it_reads_what_torchvision_reads(tmp_path, inner, monkeypatch):
    folder = write_cifar10(tmp_path) / FOLDER

    def md5(name):
        return hashlib.md5((folder / name).read_bytes(), usedforsecurity=False).hexdigest()

    theirs = torchvision.datasets.CIFAR10
    monkeypatch.setattr(theirs, "train_list", [[name, md5(name)] for name in TRAIN_FILES])
    monkeypatch.setattr(theirs, "test_list", [[TEST_FILE, md5(TEST_FILE)]])
    monkeypatch.setattr(theirs, "meta", {"filename": META_FILE, "key": "label_names", "md5": md5(META_FILE)})
    theirs, their_test = theirs(str(tmp_path)), theirs(str(tmp_path), train=False)
    data = load(tmp_path / inner)
    images = torch.cat([data.train.images, data.validation.images])
    assert [len(split) for split in (data.train, data.validation, data.test)] == [90, 10, 20]
    assert np.array_equal(images.permute(0, 2, 3, 1), theirs.data)
    assert torch.cat([data.train.labels, data.validation.labels]).tolist() == theirs.targets
    assert np.array_equal(data.test.images.permute(0, 2, 3, 1), their_test.data)


def test_every_channel_is_normalized_by_its_own_mean(tmp_path):
    split = load(write_cifar10(tmp_path)).train
    transform = torchvision.transforms.Normalize(cifar10.MEAN, cifar10.STD)
    assert torch.allclose(split.batch(slice(0, 5))[0], transform(split.images[:5] / 255), atol=1e-6)


@pytest.mark.parametrize("protocol", [2, 4])
def test_pickles_of_today_are_read_too(tmp_path, protocol):
    path = tmp_path / "batch"
    path.write_bytes(pickle.dumps({key.decode(): value for key, value in cifar_batch(3).items()}, protocol=protocol))
    assert read_pickle(path)["data"].shape == (3, 3072)


def test_a_pickle_that_would_run_something_is_refused_and_nothing_runs(tmp_path):
    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (open, (str(ran), "w"))

    folder = write_cifar10(tmp_path) / FOLDER
    write_pickle(folder / "data_batch_3", {b"data": Evil(), b"labels": []})
    with pytest.raises(DataError, match=r"data_batch_3 names .*open, which no CIFAR-10 file does"):
        load(tmp_path)
    assert not ran.exists()


def test_the_same_hidden_in_an_array(tmp_path):
    class Evil:
        def __reduce__(self):
            return (eval, ("1",))

    write_pickle(write_cifar10(tmp_path) / FOLDER / TEST_FILE, {b"data": np.array([Evil()], dtype=object)})
    with pytest.raises(DataError, match="eval, which no CIFAR-10 file does"):
        load(tmp_path)


def with_data(**change):
    return cifar_batch(20) | {key.encode(): value for key, value in change.items()}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (cifar_batch(19), r"data_batch_2 holds images of shape \[19, 3072\] and 19 labels where batches.meta says 20"),
        (with_data(labels=[0] * 21), r"\[20, 3072\] and 21 labels where"),
        (with_data(data=np.zeros((20, 3071), np.uint8)), r"\[20, 3071\] and 20 labels"),
        (with_data(data=np.zeros((20, 3072))), "is not a batch of CIFAR-10"),
        (with_data(labels=[0] * 19 + [10]), "data_batch_2 has the label 10; those of CIFAR-10 go from 0 to 9"),
        (with_data(labels=[-1] + [0] * 19), "has the label -1"),
        ([1, 2], "is not a batch of CIFAR-10"),
    ],
)
def test_a_wrong_batch_is_named_with_what_is_wrong(tmp_path, body, message):
    write_pickle(write_cifar10(tmp_path) / FOLDER / "data_batch_2", body)
    with pytest.raises(DataError, match=message):
        load(tmp_path)


@pytest.mark.parametrize("kept", [0, 1, 100, 30_000])
def test_a_batch_cut_short_is_named(tmp_path, kept):
    path = write_cifar10(tmp_path) / FOLDER / "data_batch_5"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match="data_batch_5 is damaged or cut short"):
        load(tmp_path)


def test_a_missing_batch_is_named(tmp_path):
    (write_cifar10(tmp_path) / FOLDER / "data_batch_4").unlink()
    with pytest.raises(DataError, match="lacks data_batch_4 of CIFAR-10"):
        load(tmp_path)


def test_what_calls_itself_official_is_held_to_its_md5(tmp_path):
    folder = write_cifar10(tmp_path) / FOLDER
    names = [b"class"] * 10
    write_pickle(folder / META_FILE, {b"num_cases_per_batch": 10_000, b"label_names": names})
    with pytest.raises(DataError, match="data_batch_1 is not the official file: its MD5"):
        load(tmp_path)


def test_cifar_100_and_mnist_are_refused_and_named(tmp_path):
    (tmp_path / "a" / "cifar-100-python").mkdir(parents=True)
    with pytest.raises(DataError, match="it seems to hold CIFAR-100; --data-dir must name a folder of CIFAR-10"):
        load(tmp_path / "a")
    write_idx_files(tmp_path / "b")
    with pytest.raises(DataError, match="it seems to hold files in MNIST's format"):
        load(tmp_path / "b")


def test_other_classes_are_refused(tmp_path):
    folder = write_cifar10(tmp_path) / FOLDER
    write_pickle(folder / META_FILE, {b"num_cases_per_batch": 20, b"label_names": [b"x"] * 100})
    with pytest.raises(DataError, match="names 100 classes where CIFAR-10 has 10"):
        load(tmp_path)
