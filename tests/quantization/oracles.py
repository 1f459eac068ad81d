"""The paper's formulas written out element by element, in Python floats, to test the fast ones against."""

import math

import numpy as np
import torch

from flexor_search.codes import decode_reference


def sign(x):
    return 1.0 if x >= 0 else -1.0


def signs_of(codes, encrypted):
    """+1 / -1 of shape (planes, n_out, n_slices), by the reference decoder."""
    stored = (encrypted.double().numpy() >= 0).astype(np.uint8)
    n_weights = codes[0].n_out * encrypted.shape[1]
    planes = [decode_reference(code, plane.T, n_weights) for code, plane in zip(codes, stored, strict=True)]
    return 2 * np.stack(planes).reshape(len(codes), codes[0].n_out, -1).astype(int) - 1


def gradient_of(codes, encrypted, grad, slope, factor):
    """sum over rows r that tap i of grad_r * slope(x_i) * (-1)^(k-1) * prod over the other taps j of factor(x_j)."""
    result = torch.zeros_like(encrypted, dtype=torch.float64)
    for plane, code in enumerate(codes):
        for s in range(encrypted.shape[1]):
            x = encrypted[plane, s].tolist()
            for row, taps in enumerate(code.taps):
                for i in taps:
                    others = math.prod(factor(x[j]) for j in taps if j != i)
                    dy_dx = slope(x[i]) * (-1) ** (len(taps) - 1) * others
                    result[plane, s, i] += grad[plane, row, s].item() * dy_dx
    return result


def traceable_signs(encrypted, matrix, s_tanh):
    """The surrogate in operations that autograd differentiates by itself: the value of y, the gradient of y * z."""
    s = torch.where(encrypted >= 0, 1.0, -1.0)
    z = torch.einsum("psi,poi->pos", s * torch.tanh(s_tanh * encrypted), matrix)
    odd = (torch.einsum("psi,poi->pos", (encrypted < 0).to(matrix), matrix) + matrix.sum(2, keepdim=True) - 1) % 2
    y = 1 - 2 * odd
    return y.detach() * (1 + (z - z.detach()))


def channel_of(index, layer):
    """The output channel that a weight at this index of its tensor belongs to; `layer` is a torch module."""
    if not getattr(layer, "transposed", False):
        return index[0]
    group = index[0] // (layer.in_channels // layer.groups)
    return group * (layer.out_channels // layer.groups) + index[1]


def decoded_weight(layer, encrypted, scale, codes):
    """A layer's weight, one element after another, from its encrypted weights and scales."""
    signs = signs_of(codes, encrypted.detach()).reshape(len(codes), -1)
    scale = scale.detach().double().numpy()
    weight = np.zeros(tuple(layer.weight.shape))
    for flat, index in enumerate(np.ndindex(*weight.shape)):
        weight[index] = sum(scale[:, channel_of(index, layer)] * signs[:, flat])
    return torch.tensor(weight, dtype=torch.float32)
