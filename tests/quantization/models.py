"""Layers, models and specs that the quantization tests share."""

import torch
from hypothesis import strategies as st
from torch import nn

from flexor_search.codes import XorCode
from flexor_search.planning import Allocation, LayerSpec
from flexor_search.quantization import describe, quantize_

LAYERS = {
    "linear": (lambda bias: nn.Linear(7, 5, bias), (3, 7)),
    "conv1d": (lambda bias: nn.Conv1d(3, 4, 3, bias=bias), (2, 3, 6)),
    "conv1d-groups": (lambda bias: nn.Conv1d(4, 6, 2, groups=2, bias=bias), (2, 4, 5)),
    "conv2d": (lambda bias: nn.Conv2d(2, 3, (3, 2), bias=bias), (2, 2, 4, 4)),
    "conv2d-depthwise": (lambda bias: nn.Conv2d(4, 8, 3, groups=4, bias=bias), (2, 4, 4, 4)),
    "conv3d-groups": (lambda bias: nn.Conv3d(2, 4, 2, groups=2, bias=bias), (1, 2, 3, 3, 3)),
    "transposed1d": (lambda bias: nn.ConvTranspose1d(3, 4, 3, bias=bias), (2, 3, 4)),
    "transposed2d-groups": (lambda bias: nn.ConvTranspose2d(4, 6, 2, groups=2, bias=bias), (2, 4, 3, 3)),
    "transposed2d-depthwise": (lambda bias: nn.ConvTranspose2d(3, 6, 2, groups=3, bias=bias), (2, 3, 3, 3)),
    "transposed3d-groups": (lambda bias: nn.ConvTranspose3d(6, 3, 2, groups=3, bias=bias), (1, 6, 2, 2, 2)),
}


def quantize_all(model, spec, **options):
    """Quantize every layer of a plain model in the same way."""
    return quantize_(model, Allocation.of(describe(model), {}, default=spec), **options)


def encrypted_and_scale(layer):
    parametrized = layer.parametrizations.weight
    return parametrized.original0, parametrized.original1


def randomize(layer):
    """Encrypted weights and scales as a training could leave them: all scales differ."""
    encrypted, scale = encrypted_and_scale(layer)
    with torch.no_grad():
        encrypted.normal_()
        scale.uniform_(0.5, 1.5)


@st.composite
def specs(draw, max_out=20, max_planes=3):
    """A spec of any code family."""
    family = draw(st.sampled_from(["systematic", "dense", "taps", "random", "matrix"]))
    n_planes, n_out = draw(st.integers(1, max_planes)), draw(st.integers(1, max_out))
    n_in = draw(st.integers(1, n_out))
    if family == "matrix":
        row = st.sets(st.integers(0, n_in - 1), min_size=1).map(lambda taps: tuple(sorted(taps)))
        rows = draw(st.lists(row, min_size=n_out, max_size=n_out))
        return LayerSpec.from_code(XorCode(n_in, tuple(rows)), n_planes)
    return LayerSpec(family, n_in, n_out, n_planes, draw(st.integers(1, 4)), draw(st.integers(0, 99)))


@st.composite
def encrypted_weights(draw, spec, max_slices=4):
    """Encrypted weights of a layer, with both zeros, tiny and large values among them."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    shape = (spec.n_planes, draw(st.integers(1, max_slices)), spec.n_in)
    values = torch.randn(shape, generator=generator) * draw(st.sampled_from([1e-3, 0.1, 2.0]))
    special = torch.tensor([0.0, -0.0, 1e-30, -1e-30, 50.0, -50.0])
    chosen = special[torch.randint(len(special), shape, generator=generator)]
    return torch.where(torch.rand(shape, generator=generator) < 0.2, chosen, values)


def matrices(spec):
    return torch.stack([torch.tensor(code.matrix, dtype=torch.float32) for code in spec.codes])
