"""The digits: a fixed split of scikit-learn's 1,797 images, the same in every version."""

import hashlib

import pytest
import torch

from flexor_search.workloads import workload

GOLDEN = {
    "train": (1097, "883bc03b6b61b805723944be265b458c1ae94ffd4f575f8c5e0efbc6e7b3cfd6"),
    "validation": (350, "f60e841dc13a5e01ee788fb1075d8552bdaa731ee8814fc95402e3238f410e30"),
    "test": (350, "288cea4cdb840c9e9b51e1d020d0badb6141ca6d1b8b5cb062540246f8122180"),
}


@pytest.fixture(scope="module")
def data():
    return workload("digits-convnet").load(None)


@pytest.mark.parametrize("name", GOLDEN)
def test_size_and_content_are_golden(data, name):
    split = getattr(data, name)
    digest = hashlib.sha256(split.images.numpy().tobytes() + split.labels.numpy().tobytes()).hexdigest()
    assert (split.name, len(split), digest) == (name, *GOLDEN[name])


def test_every_image_is_in_exactly_one_split(data):
    from sklearn.datasets import load_digits

    splits = (data.train, data.validation, data.test)
    found = torch.cat([split.images for split in splits])[:, 0].double() * (16 / 255)
    given = [tuple(image.flatten()) for image in load_digits().images.astype(int)]
    assert sorted(tuple(image.flatten().round().int().tolist()) for image in found) == sorted(given)


@pytest.mark.parametrize("name", GOLDEN)
def test_every_class_is_in_every_split(data, name):
    counts = getattr(data, name).labels.bincount(minlength=10)
    assert len(counts) == 10
    assert counts.min() > 0.5 * counts.float().mean()


def test_train_is_normalized(data):
    images, _ = data.train.batch(slice(None))
    assert images.mean().item() == pytest.approx(0, abs=0.02)
    assert images.std().item() == pytest.approx(1, abs=0.02)
