"""Small models and data that the training tests share."""

from functools import cache

import torch
from torch import nn

from flexor_search.planning import Allocation, LayerSpec
from flexor_search.quantization import describe, quantize_
from flexor_search.training import seeded
from flexor_search.workloads import Data, Split, workload


class Untouchable:
    """A test split that may not even be looked at."""

    def __getattribute__(self, name):
        raise AssertionError(f"training looked at the test split ({name})")

    def __len__(self):
        raise AssertionError("training looked at the test split (its length)")


@cache
def digits():
    return workload("digits-convnet").load(None)


def few_digits(count=160):
    """A little of the digits, and a test split that raises."""
    whole = digits()
    return Data(whole.train.take(count), whole.validation.take(60), Untouchable())


def one_point(n_features=6):
    """Two images, one class each: data for a single step."""
    images = torch.randn(2, n_features, generator=torch.Generator().manual_seed(0))
    split = Split("train", images, torch.tensor([0, 1]))
    return Data(split, split, Untouchable())


def quantized(build, seed=0, spec=None):
    with seeded(seed):
        model = build()
        return quantize_(model, Allocation.of(describe(model), {}, default=spec or LayerSpec(n_in=6, n_out=8)))


def small_net():
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Dropout(0.2), nn.Linear(36, 10)),
    )


def conv_net():
    """No dropout: of models that train together all draw from one generator."""
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(36, 12), nn.ReLU(), nn.Linear(12, 10)),
    )


def parameters(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def values(model):
    """All that it keeps, buffers that no state_dict holds too."""
    return {name: value.detach().clone() for name, value in [*model.named_parameters(), *model.named_buffers()]}


def assert_same(one, other):
    """To the last bit."""
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


class Tape:
    """Stands for CUDA graphs on a processor: "replay" does the work again, on what it finds where it was recorded."""

    def __init__(self):
        self.warmed, self.recordings, self.replays = 0, 0, 0

    def warm_up(self, work):
        self.warmed += 1
        return work()

    def record(self, work):
        self.recordings += 1
        results = []

        def replay():
            self.replays += 1
            found = work()
            if not results:
                results.append(found.clone())
            return results[0].copy_(found)

        return replay
