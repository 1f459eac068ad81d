"""A user's own data: two or three parts, Dataset or DataLoader, and everything that can be wrong with them."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from flexor_search.errors import DataError
from flexor_search.workloads import user_data


class Items(Dataset):
    """Any items at all; an exception among them is raised when it is asked for."""

    def __init__(self, *items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        if isinstance(self.items[index], Exception):
            raise self.items[index]
        return self.items[index]


class Stream(IterableDataset):
    def __init__(self, count):
        self.count = count

    def __iter__(self):
        return ((torch.full((3,), float(i)), i % 4) for i in range(self.count))


def numbered(count, start=0):
    return TensorDataset(torch.arange(start, start + count).float()[:, None], torch.arange(count) % 4)


def images_of(split):
    return split.images.flatten().tolist()


GOOD = numbered(5)


def test_three_parts_are_taken_as_they_are():
    data = user_data((numbered(300), numbered(3, 500), numbered(4, 600)))
    assert [split.name for split in (data.train, data.validation, data.test)] == ["train", "validation", "test"]
    assert images_of(data.train) == list(range(300))
    assert images_of(data.validation) == [500, 501, 502]
    assert images_of(data.test) == [600, 601, 602, 603]
    assert data.train.labels.dtype == torch.int64
    assert data.train.labels.tolist() == [i % 4 for i in range(300)]


@pytest.mark.parametrize("count", [2, 9, 10, 305])
def test_of_two_parts_a_seeded_tenth_of_train_validates(count):
    data = user_data([numbered(count), numbered(4, 600)], seed=7)
    train, validation = images_of(data.train), images_of(data.validation)
    assert len(validation) == max(1, count // 10)
    assert sorted(train + validation) == list(range(count))
    assert [image % 4 for image in train] == data.train.labels.tolist()
    assert [image % 4 for image in validation] == data.validation.labels.tolist()
    assert images_of(data.test) == [600, 601, 602, 603]
    assert images_of(user_data([numbered(count), GOOD], seed=7).validation) == validation
    if count > 100:
        assert images_of(user_data([numbered(count), GOOD], seed=8).validation) != validation


def test_a_loader_that_shuffles_gives_the_same_splits_every_time():
    parts = DataLoader(numbered(40), batch_size=8, shuffle=True), GOOD
    first = user_data(parts, seed=2)
    torch.rand(1)
    before = torch.get_rng_state()
    again, other = user_data(parts, seed=2), user_data(parts, seed=3)
    assert torch.equal(torch.get_rng_state(), before)  # the caller's random numbers go on
    assert images_of(first.train) == images_of(again.train) != images_of(other.train)
    assert images_of(first.validation) == images_of(again.validation)


def test_loaders_and_streams_are_read_to_their_end():
    data = user_data((DataLoader(numbered(7), batch_size=3), Stream(600), DataLoader(Stream(5), batch_size=2)))
    assert images_of(data.train) == list(range(7))
    assert len(data.validation) == 600
    assert data.test.labels.tolist() == [0, 1, 2, 3, 0]


@pytest.mark.parametrize("kind", [torch.int32, torch.uint8, torch.int16, torch.bool])
def test_any_kind_of_whole_label_becomes_int64(kind):
    part = TensorDataset(torch.zeros(3, 2), torch.tensor([1, 0, 1]).to(kind))
    assert user_data((part, part, part)).train.labels.dtype == torch.int64


def test_numpy_items_and_integer_pixels_become_floats():
    part = Items((np.ones((2, 2), np.uint8), np.int32(3)), (np.zeros((2, 2), np.uint8), 1))
    split = user_data((part, part, part)).train
    assert split.images.dtype == torch.float32
    assert split.images.flatten().tolist() == [1] * 4 + [0] * 4
    assert split.labels.tolist() == [3, 1]


@pytest.mark.parametrize("parts", [None, GOOD, (GOOD,), (GOOD,) * 4, {"train": GOOD, "test": GOOD}, "ab"])
def test_not_two_or_three_parts(parts):
    with pytest.raises(DataError, match=r"must return \(train, validation, test\) or \(train, test\)"):
        user_data(parts)


@pytest.mark.parametrize("part", [None, [1, 2], (torch.zeros(3, 1), torch.zeros(3)), torch.zeros(3), "folder"])
def test_a_part_of_another_kind(part):
    with pytest.raises(DataError, match=f"validation must be a torch Dataset or DataLoader, got {type(part).__name__}"):
        user_data((GOOD, part, GOOD))


def without_length():
    class Unsized(Dataset):
        def __getitem__(self, index):
            return torch.zeros(1), 0

    return Unsized()


def broken_length():
    class Broken(Items):
        def __len__(self):
            raise OSError("disk gone")

    return Broken()


IMAGE = torch.zeros(2)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (Items(), "the validation split is empty"),
        (Stream(0), "the validation split is empty"),
        (DataLoader(Stream(0)), "the validation split is empty"),
        (Items((IMAGE, -1)), "validation has the label -1"),
        (Items((IMAGE, 0), (torch.tensor([1.0, math.nan]), 1)), "validation image 1 holds a pixel that is NaN"),
        (Items((IMAGE, 0.5)), "labels must be one integer an image, got torch.float"),
        (Items((IMAGE, torch.tensor([1]))), "labels must be one integer an image"),
        (Items((IMAGE, "cat")), "reading validation failed: "),
        (Items((IMAGE, 0), (torch.zeros(3), 0)), "reading validation failed: RuntimeError"),
        (Items(IMAGE), "must give pairs"),
        (Items((IMAGE, 0, 1)), "must give pairs"),
        (Items({"image": IMAGE, "label": 0}), r"must give pairs \(input, label\), got dict"),
        (Items(({"a": IMAGE}, 0)), "reading validation failed: "),
        (Items((None, 0)), "reading validation failed: TypeError"),
        (Items((IMAGE, 0), ValueError("image 1 is torn")), "reading validation failed: ValueError: image 1 is torn"),
        (Items((IMAGE, 0), KeyError("x")), "reading validation failed: KeyError"),
        (without_length(), "reading validation failed: "),
        (broken_length(), "reading validation failed: OSError: disk gone"),
    ],
)
def test_what_is_wrong_with_a_part_is_said(part, message):
    with pytest.raises(DataError, match=message):
        user_data((GOOD, part, GOOD))


def test_one_image_cannot_be_divided():
    with pytest.raises(DataError, match="at least two images"):
        user_data((numbered(1), GOOD))


def test_the_users_exception_is_kept_as_the_cause():
    mistake = ValueError("torn")
    with pytest.raises(DataError) as caught:
        user_data((Items(mistake), GOOD))
    assert isinstance(caught.value.__cause__, ValueError)


def test_inputs_that_carry_a_gradient_are_taken_without_it():
    features = nn.Linear(3, 4)(torch.randn(6, 3))
    data = user_data([TensorDataset(features, torch.arange(6))] * 2)
    assert not data.train.images.requires_grad
    assert b"".join(data.test.identity())[: 4 * features.numel()] == features.detach().numpy().tobytes()
