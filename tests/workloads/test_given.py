"""Models and data that are objects: copied, drawn anew with each seed, read from arrays, refused in words."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from flexor_search.errors import DataError, ModelError
from flexor_search.planning import Recipe
from flexor_search.training import seeded
from flexor_search.workloads.given import Given, GivenBuild, given_data, kept_values


class Scaled(nn.Module):
    """A part with a parameter that nothing draws anew."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.full((4,), 3.0))
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        return self.gain * self.inner(x)


def built(build, seed):
    with seeded(seed):
        return build().state_dict()


def equal(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_a_module_gets_fresh_values_of_each_seed_and_is_never_changed():
    model = nn.Sequential(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.MultiheadAttention(4, 2))
    model[1].running_mean.fill_(5.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    build = GivenBuild(model)
    one, again, other = built(build, 0), built(build, 0), built(build, 1)
    assert equal(one, again)
    for name in ("0.weight", "2.in_proj_weight"):
        assert not torch.equal(one[name], other[name])
        assert not torch.equal(one[name], before[name])
    assert one["1.running_mean"].abs().max() == 0
    assert equal(before, model.state_dict())
    build()[0].weight.data.zero_()
    assert equal(before, model.state_dict())


def test_parts_are_drawn_before_the_whole_that_sets_values_of_theirs():
    model = nn.Sequential(nn.MultiheadAttention(4, 2))
    assert model[0].out_proj.bias.abs().max() == 0
    assert built(GivenBuild(model), 3)["0.out_proj.bias"].abs().max() == 0


def test_a_pretrained_module_keeps_its_values():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    task = Given(model).workload(Recipe(pretrained=True))
    assert equal(built(task.build, 3), model.state_dict())
    assert not equal(built(Given(model).workload(Recipe()).build, 3), model.state_dict())


def test_parts_that_cannot_be_drawn_anew_are_named_and_kept():
    model = nn.Sequential(nn.Linear(2, 4), Scaled())
    assert kept_values(model) == ["1.gain"]
    assert kept_values(model[1]) == ["gain"]
    found = built(GivenBuild(model), 0)
    assert (found["1.gain"] == 3).all()
    assert not torch.equal(found["1.inner.weight"], model[1].inner.weight)


def test_tied_weights_stay_tied():
    first = nn.Linear(4, 4, bias=False)
    model = nn.Sequential(first, nn.ReLU(), nn.Linear(4, 4, bias=False))
    model[2].weight = first.weight
    made = GivenBuild(model)()
    assert made[0].weight is made[2].weight


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda: 1 / 0, r"<lambda>\(\) raised ZeroDivisionError"),
        (lambda: [1], r"<lambda>\(\) must return a torch.nn.Module, got list"),
        (3, "must be a torch.nn.Module or a function that makes one, got int"),
    ],
)
def test_what_makes_no_model_is_refused(model, words):
    with pytest.raises(ModelError, match=words):
        GivenBuild(model)()


def pairs():
    inputs, labels = torch.arange(24.0).reshape(12, 2), torch.arange(12) % 3
    return inputs, labels


def test_arrays_tensors_sets_and_loaders_come_to_the_same_data():
    inputs, labels = pairs()
    arrays = inputs.numpy().astype(np.float64), labels.numpy().astype(np.int32)
    kinds = {
        "tensors": (inputs, labels),
        "arrays": arrays,
        "list": [inputs, labels],
        "set": TensorDataset(inputs, labels),
        "loader": DataLoader(TensorDataset(inputs, labels), batch_size=5),
    }
    for first in kinds.values():
        for parts in ((first, kinds["set"], (inputs, labels)), [first, first, first]):
            data = given_data(parts)
            for split in (data.train, data.validation, data.test):
                assert torch.equal(split.images, inputs)
                assert torch.equal(split.labels, labels)
                assert (split.images.dtype, split.labels.dtype) == (torch.float32, torch.int64)
    assert torch.equal(given_data(lambda: (arrays, arrays, arrays)).test.images, inputs)
    two = given_data((arrays, arrays), seed=4)
    assert (len(two.train), len(two.validation), len(two.test)) == (11, 1, 12)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (pairs(), "train must be a torch Dataset or DataLoader, got Tensor"),
        (((pairs()[0], pairs()[1][:5]),) * 3, "a pair has 12 inputs but 5 labels"),
        ((([1.0], [2]),) * 3, "train must be a torch Dataset or DataLoader, got tuple"),
        ("mine", "must return"),
        (7, "must return"),
        (None, "must return"),
        (lambda: 1 / 0, r"<lambda>\(\) raised ZeroDivisionError"),
        (((np.array(["a", "b"]), np.array([0, 1])),) * 3, "must hold numbers"),
        (((pairs()[0], pairs()[1].float()),) * 3, "labels must be one integer an image"),
    ],
)
def test_what_is_no_data_is_refused(data, words):
    with pytest.raises(DataError, match=words):
        given_data(data)
