"""Splits: what they refuse, and how they give batches."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flexor_search.errors import DataError
from flexor_search.workloads import Data, Split

IMAGES = torch.arange(12.0).view(4, 1, 3)
LABELS = torch.tensor([0, 1, 2, 1])


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES[:0], LABELS[:0], "the train split is empty"),
        (IMAGES, LABELS[:3], "4 images but 3 labels"),
        (IMAGES, LABELS.float(), "one integer an image, got torch.float32"),
        (IMAGES, LABELS[:, None], r"of shape \(4, 1\)"),
        (IMAGES, LABELS - 1, "the label -1; labels count from 0"),
        (IMAGES.where(IMAGES != 7, math.nan), LABELS, "train image 2 holds a pixel that is NaN"),
        (IMAGES.where(IMAGES != 10, -math.inf), LABELS, "train image 3 holds"),
    ],
)
def test_refused(images, labels, message):
    with pytest.raises(DataError, match=message):
        Split("train", images, labels)


@given(st.integers(1, 9), st.floats(0, 1), st.floats(0.1, 2))
def test_bytes_become_normalized_floats(size, mean, std):
    pixels = torch.arange(0, 240, 20, dtype=torch.uint8).view(4, 3)
    split = Split("test", pixels, LABELS, mean, std)
    batches = list(split.batches(size))
    assert [len(labels) for _, labels in batches] == [size] * (4 // size) + [4 % size] * (4 % size > 0)
    found = torch.cat([images for images, _ in batches])
    torch.testing.assert_close(found, (pixels.float() / 255 - mean) / std)
    assert torch.equal(torch.cat([labels for _, labels in batches]), LABELS)
    assert pixels[0, 1] == 20  # the split itself is not changed


def test_floats_are_given_as_they_are():
    images, labels = Split("test", IMAGES, LABELS, mean=9, std=9).batch(torch.tensor([2, 0]))
    assert torch.equal(images, IMAGES[[2, 0]])
    assert labels.tolist() == [2, 0]


def test_take_is_a_fixed_choice_of_pairs():
    split = Split("train", torch.arange(50).float()[:, None], torch.arange(50), 0.5, 2.0)
    some = split.take(20)
    assert len(some) == len(set(some.labels.tolist())) == 20
    assert some.images.flatten().tolist() == some.labels.tolist() == split.take(20).labels.tolist()
    assert some.labels.tolist() != list(range(20))
    assert (some.name, some.mean, some.std) == ("train", 0.5, 2.0)
    assert split.take(0) is split.take(50) is split.take(99) is split


def test_classes_are_counted_over_all_splits():
    few = Split("validation", IMAGES, LABELS)
    assert Data(few, few, Split("test", IMAGES, LABELS + 4)).n_classes == 7


def test_what_is_done_in_place_to_an_item_leaves_the_data():
    images = torch.randn(4, 1, 2, 2)
    split = Split("train", images.clone(), torch.arange(4))
    for index in (0, 3, -1, -4):
        image, label = split[index]
        assert torch.equal(image, images[index])
        assert label == split.labels[index]
        assert label.shape == ()
        image.add_(1)
        label.add_(1)
    assert torch.equal(split.images, images)
    assert split.labels.tolist() == [0, 1, 2, 3]
