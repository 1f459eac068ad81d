"""A batch norm is folded only where it is its layer's only user, and can only have that one input."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from flexor_search.quantization import describe


class Net(nn.Module):
    """conv and norm, joined by the forward of a subclass."""

    def __init__(self):
        super().__init__()
        self.conv, self.conv2 = nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 1)
        self.norm = nn.BatchNorm2d(4)


class Plain(Net):
    def forward(self, x):
        return self.conv2(self.norm(self.conv(x)))


class InTrainingOnly(Net):
    def forward(self, x):
        x = self.conv(x)
        return self.norm(functional.dropout(x, 0.5, self.training) if self.training else x)


class OutputUsedTwice(Net):
    def forward(self, x):
        x = self.conv(x)
        return self.norm(x) + x


class FunctionBetween(Net):
    def forward(self, x):
        return self.norm(functional.relu(self.conv(x)))


class MethodBetween(Net):
    def forward(self, x):
        return self.norm(self.conv(x).mul(2))


class SharedNorm(Net):
    def forward(self, x):
        return self.norm(self.conv2(self.norm(self.conv(x))))


class LayerCalledTwice(Net):
    def forward(self, x):
        return self.norm(self.conv(self.conv(x)[:, :2]))


class WeightReadToo(Net):
    def forward(self, x):
        return self.norm(self.conv(x)) + self.conv.weight.sum()


class StatisticsReadToo(Net):
    def forward(self, x):
        return self.norm(self.conv(x)) + torch.sum(self.norm.weight)


class SharedWeight(Net):
    def __init__(self):
        super().__init__()
        self.conv2 = nn.Conv2d(2, 4, 1)
        self.conv2.weight = self.conv.weight

    def forward(self, x):
        return self.norm(self.conv(x)) + self.conv2(x)


class NormOfTwoNames(Net):
    def __init__(self):
        super().__init__()
        self.alias = self.norm

    def forward(self, x):
        return self.alias(self.conv(x))


class Untraceable(Net):
    def forward(self, x):
        return self.norm(self.conv(x)) if x.sum() > 0 else x


class OtherWidth(Net):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Linear(2, 4), nn.BatchNorm1d(6)

    def forward(self, x):
        return self.norm(self.conv(x))  # of six rows an image: normalized by row, not by output channel


class NoStatistics(Plain):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(4, track_running_stats=False)


class NoAffine(Plain):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(4, affine=False)


class OtherNorm(Plain):
    def __init__(self):
        super().__init__()
        self.norm = nn.InstanceNorm2d(4, affine=True, track_running_stats=True)


class NormInAFunction(Net):
    def forward(self, x):
        return functional.batch_norm(self.conv(x), self.norm.running_mean, self.norm.running_var)


class NormFirst(Net):
    def forward(self, x):
        return self.conv2(functional.relu(self.norm(x)))


def folded(net):
    return {layer.name: layer.folded_norm for layer in describe(net).layers if layer.folded_norm}


@pytest.mark.parametrize("net", [Plain, InTrainingOnly, NoAffine])
def test_the_only_user_is_folded(net):
    net = net()
    assert folded(net) == {"conv": "norm"}
    assert not [tensor.name for tensor in describe(net).others]


@pytest.mark.parametrize(
    "net",
    [
        *(OutputUsedTwice, FunctionBetween, MethodBetween, SharedNorm, LayerCalledTwice, WeightReadToo, OtherWidth),
        *(StatisticsReadToo, SharedWeight, NormOfTwoNames, Untraceable, NoStatistics, OtherNorm, NormInAFunction),
        NormFirst,
    ],
)
def test_anything_else_is_kept(net):
    net = net()
    assert folded(net) == {}
    stored = {tensor.name for tensor in describe(net).others}
    assert {name for name in net.state_dict() if name.startswith("norm.")} == {
        name for name in stored if name.startswith("norm.")
    }


def test_every_kind_of_batch_norm_behind_every_kind_of_layer():
    net = nn.Sequential(
        *(nn.Conv1d(2, 4, 1), nn.BatchNorm1d(4), nn.ConvTranspose1d(4, 6, 1, groups=2), nn.BatchNorm1d(6)),
        *(nn.Flatten(), nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Unflatten(1, (5, 1, 1, 1))),
        *(nn.Conv3d(5, 5, 1, groups=5), nn.BatchNorm3d(5)),
    )
    assert folded(net) == {"0": "1", "2": "3", "5": "6", "8": "9"}


def test_a_model_that_is_a_layer_has_nothing_to_fold():
    assert folded(nn.Linear(2, 2)) == {}
