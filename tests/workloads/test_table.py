"""Every built-in workload: what any of them must hold to."""

import pytest
import torch

from flexor_search.errors import UsageError
from flexor_search.planning import Recipe, shipped_spaces
from flexor_search.quantization import describe
from flexor_search.workloads import DEFAULT_WORKLOAD, WORKLOADS, workload

INPUT_SHAPES = {
    "digits-convnet": (1, 8, 8),
    "lenet5-fashion-mnist": (1, 28, 28),
    "lenet5-mnist": (1, 28, 28),
    "resnet18-imagenet": (3, 64, 64),
    "resnet20-cifar10": (3, 32, 32),
    "resnet20-fashion-mnist": (1, 28, 28),
    "resnet20-fashion-mnist-small": (1, 14, 14),
    "resnet32-cifar10": (3, 32, 32),
}


@pytest.mark.parametrize("name", sorted(WORKLOADS))
def test_it_builds_a_fresh_model_with_logits_out(name):
    chosen = workload(name)
    assert chosen.name == name
    assert isinstance(chosen.recipe, Recipe)
    assert chosen.space == "" or chosen.space in shipped_spaces()
    one, other = chosen.build(), chosen.build()
    assert not torch.equal(next(one.parameters()), next(other.parameters()))
    assert one(torch.zeros(2, *INPUT_SHAPES[name])).shape == (2, 1000 if "imagenet" in name else 10)
    assert describe(one) == describe(other)


@pytest.mark.parametrize("name", ["lenet5-fashion-mnist", "lenet5-mnist"])
def test_lenet5_has_the_papers_layers(name):
    weights = [layer.n_weights for layer in describe(workload(name).build()).layers]
    assert weights == [32 * 25, 64 * 32 * 25, 512 * 64 * 49, 10 * 512]


def test_the_default_is_in_the_table():
    assert DEFAULT_WORKLOAD in WORKLOADS


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'digits-convnet'"):
        workload("digit")
