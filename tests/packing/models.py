"""Random small models, quantized and with values as a training could leave them."""

import copy
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from flexor_search.codes import XorCode
from flexor_search.planning import KEPT, Allocation, LayerSpec
from flexor_search.quantization import describe, flexor_weights, quantize_
from flexor_search.training import seeded

CONVOLUTIONS = {
    1: (nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d),
    2: (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d),
    3: (nn.Conv3d, nn.ConvTranspose3d, nn.BatchNorm3d),
}


class Counted(nn.Module):
    """Buffers that a file stores exactly, and one that it rounds."""

    def __init__(self, features):
        super().__init__()
        self.register_buffer("steps", torch.tensor(-(2**40)))
        self.register_buffer("odd", torch.arange(3, dtype=torch.uint8))  # what follows it is not aligned
        self.register_buffer("order", torch.randperm(features))
        self.register_buffer("mask", torch.rand(features) < 0.7)
        self.register_buffer("shift", torch.randn(features, dtype=torch.float64))

    def forward(self, x):
        return x[:, self.order] * self.mask + self.shift.float()


class Tied(nn.Module):
    """An autoencoder-like head whose two layers share a weight."""

    def __init__(self, features):
        super().__init__()
        self.down, self.up = nn.Linear(features, features), nn.Linear(features, features)
        self.up.weight = self.down.weight

    def forward(self, x):
        return self.up(torch.tanh(self.down(x)))


@dataclass(frozen=True)
class Case:
    """A model as training left it, what it was quantized with, a way to build it anew, and images for it."""

    model: nn.Module
    allocation: Allocation
    build: object
    images: torch.Tensor


@st.composite
def blocks(draw, dims, channels):
    """A function that makes layers from `channels` to some number of channels, and that number."""
    convolution, transposed, norm = CONVOLUTIONS[dims]
    wide, groups = 2 * draw(st.integers(1, 3)), draw(st.sampled_from([1, 2]))
    make, kernel, bias = draw(st.sampled_from([convolution, transposed])), draw(st.integers(1, 2)), draw(st.booleans())
    after = draw(st.sampled_from(["nothing", "folded", "folded without affine", "behind a relu", "group norm"]))
    tail = {
        "nothing": lambda: [],
        "folded": lambda: [norm(wide)],
        "folded without affine": lambda: [norm(wide, affine=False)],
        "behind a relu": lambda: [nn.ReLU(), norm(wide)],
        "group norm": lambda: [nn.GroupNorm(2, wide)],
    }[after]
    return lambda: [make(channels, wide, kernel, groups=groups, bias=bias), *tail(), nn.Tanh()], wide


@st.composite
def builders(draw):
    """A function that builds a small model, and the shape of its images."""
    dims, channels = draw(st.integers(1, 3)), 2
    parts, n_channels = [], channels
    for _ in range(draw(st.integers(0, 2))):
        part, n_channels = draw(blocks(dims, n_channels))
        parts.append(part)
    head = draw(st.sampled_from(["linear", "normed", "tied", "buffers"]))

    def build():
        layers = [layer for part in parts for layer in part()]
        layers += [nn.Flatten(2), nn.AdaptiveAvgPool1d(1), nn.Flatten()]
        if head == "tied":
            layers += [Tied(n_channels)]
        if head == "buffers":
            layers += [Counted(n_channels)]
        if head == "normed":
            layers += [nn.Linear(n_channels, 5, bias=False), nn.BatchNorm1d(5), nn.Tanh()]
        return nn.Sequential(*layers, nn.Linear(5 if head == "normed" else n_channels, 4))

    return build, (channels, *(5, 4, 4)[:dims])


@st.composite
def layer_specs(draw):
    family = draw(st.sampled_from(["systematic", "taps", "random", "matrix", "kept"]))
    if family == "kept":
        return KEPT
    n_planes = draw(st.integers(1, 3))
    if family == "matrix":
        rows = draw(st.lists(st.sets(st.integers(0, 2), min_size=1), min_size=3, max_size=9))
        return LayerSpec.from_code(XorCode(3, tuple(tuple(sorted(row)) for row in rows)), n_planes)
    n_out = draw(st.sampled_from([1, 7, 8, 20]))
    n_in, n_tap = draw(st.integers(1, n_out)), draw(st.integers(1, 3))
    return LayerSpec(family, n_in, n_out, n_planes, n_tap, draw(st.integers(0, 5)))


def as_trained(model, seed):
    """Give a quantized model other encrypted weights, scales, biases and batch-norm statistics."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
        for layer in flexor_weights(model):
            encrypted, scale = model.get_submodule(layer).parametrizations.weight.parameters()
            encrypted.copy_(torch.randn(encrypted.shape, generator=generator))
            scale.abs_().add_(0.1)
        for norm in model.modules():
            if isinstance(norm, _BatchNorm):
                norm.running_mean.copy_(torch.randn(norm.running_mean.shape, generator=generator))
                norm.running_var.copy_(torch.rand(norm.running_var.shape, generator=generator) + 0.5)
                norm.num_batches_tracked.fill_(17)
    return model.eval()


@st.composite
def cases(draw):
    build, image_shape = draw(builders())
    seed = draw(st.integers(0, 2**32 - 1))
    with seeded(seed):
        plain = build()
        shape = describe(plain)
        chosen = {layer.name: draw(layer_specs()) for layer in shape.layers}
        allocation = Allocation.of(shape, chosen, draw(st.sampled_from(["float16", "float32"])))
        model = as_trained(quantize_(plain, allocation), seed)
        return Case(model, allocation, build, torch.randn(8, *image_shape))


def digits_case(kept_dtype="float16", n_planes=2):
    """A small fixed case of the same kind: three quantized layers, one kept, one batch norm folded and one not."""

    def build():
        return nn.Sequential(
            *(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3, groups=2), nn.ReLU()),
            *(nn.BatchNorm2d(6), nn.ConvTranspose2d(6, 4, 2, groups=2), nn.Flatten(), nn.Linear(100, 10)),
        )

    with seeded(1):
        plain = build()
        spec = LayerSpec(n_in=6, n_out=8, n_planes=n_planes)
        chosen = {"0": spec, "3": LayerSpec("taps", 5, 7), "6": spec}
        allocation = Allocation.of(describe(plain), chosen, kept_dtype)
        model = as_trained(quantize_(plain, allocation), 1)
        return Case(model, allocation, build, torch.randn(8, 1, 8, 8))


def copied(case):
    """The trained model of a case, free to be changed."""
    return copy.deepcopy(case.model)
