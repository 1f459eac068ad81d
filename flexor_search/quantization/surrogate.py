"""The XOR network as a trainable function: exact signs forward, a surrogate gradient backward.

Three storeys in one file, each tested alone: pure formulas for forward and backward, the autograd Function over them,
and the table of surrogates. Shapes: P planes, S slices, n_in encrypted weights and n_out output signs per slice.

In terms of signs, XOR of k bits is (-1)^(k-1) times the product of the signs. With c = (x < 0), the complement of the
stored bit, the output sign of a row with k taps is 1 - 2 * ((sum of c over its taps + k - 1) mod 2), which is one small
matrix product and a parity: exactly +-1 in every dtype, and linear over GF(2) like every decoder of the project.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def output_signs(encrypted: Tensor, matrix: Tensor) -> Tensor:
    """Signs that stored bits decode to.

    Args:
        encrypted: real, shape (P, S, n_in); stored bit = (encrypted >= 0).
        matrix: the codes as 0.0 / 1.0 in float32, shape (P, n_out, n_in).

    Returns:
        +1 or -1 exactly, in the dtype of `encrypted`, shape (P, n_out, S).
    """
    complement = (encrypted < 0).to(matrix.dtype).transpose(1, 2)
    taps_less_one = matrix.sum(2, keepdim=True) - 1
    count = torch.baddbmm(taps_less_one, matrix, complement)
    # Counts are small integers, exact in float32; halving and floor is several times cheaper than remainder.
    # The result is a tensor of its own: of one that was changed in place, or that `to` gave back as it was, torch 2.11
    # compiles a gradient of zero (pytorch/pytorch#180642).
    signs = count.sub_(torch.floor(count * 0.5).mul_(2)).mul_(-2) + 1
    return signs if signs.dtype == encrypted.dtype else signs.to(encrypted.dtype)


def flexor_gradient(encrypted: Tensor, matrix: Tensor, signs: Tensor, grad: Tensor, s_tanh: Tensor) -> Tensor:
    """Gradient with respect to the encrypted weights.

    dy/dx_i = s_tanh * (1 - tanh^2(s_tanh x_i)) * (-1)^(k-1) * prod_{j != i} sign(x_j), which for all i at once is
    s_tanh * sech^2(s_tanh x) * sign(x) * (M^T (grad * y)).

    Args:
        encrypted: shape (P, S, n_in).
        matrix: shape (P, n_out, n_in).
        signs: the forward's output, shape (P, n_out, S).
        grad: gradient of the loss with respect to `signs`, same shape.
        s_tanh: slope of the surrogate, a scalar tensor.

    Returns:
        Shape (P, S, n_in).

    Source: FleXOR (Lee et al., NeurIPS 2020), eq. 6.
    """
    tanh = torch.tanh(encrypted * s_tanh)  # nothing in place: under vmap only one factor may be batched
    slope = (1 - tanh * tanh) * s_tanh
    return slope * ste_gradient(encrypted, matrix, signs, grad)


def ste_gradient(encrypted: Tensor, matrix: Tensor, signs: Tensor, grad: Tensor) -> Tensor:
    """The same with the derivative of sign taken as 1 (straight-through), the paper's "STE" ablation."""
    through = torch.bmm((grad * signs).to(matrix.dtype).transpose(1, 2), matrix).to(encrypted.dtype)
    return torch.where(encrypted < 0, -through, through)


class _XorSigns(torch.autograd.Function):
    """`output_signs` forward; `flexor_gradient` or `ste_gradient` backward."""

    generate_vmap_rule = True  # forward and backward are torch operations without in-place ones on their inputs

    @staticmethod
    def forward(encrypted: Tensor, matrix: Tensor, s_tanh: Tensor, straight_through: bool) -> Tensor:
        with torch.autocast(encrypted.device.type, enabled=False):
            return output_signs(encrypted, matrix)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, bool], output: Tensor) -> None:
        encrypted, matrix, s_tanh, straight_through = inputs
        ctx.save_for_backward(encrypted, matrix, output, s_tanh)
        ctx.straight_through = straight_through

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        encrypted, matrix, signs, s_tanh = ctx.saved_tensors
        with torch.autocast(encrypted.device.type, enabled=False):
            if ctx.straight_through:
                gradient = ste_gradient(encrypted, matrix, signs, grads[0])
            else:
                gradient = flexor_gradient(encrypted, matrix, signs, grads[0], s_tanh)
        return gradient, None, None, None


def _flexor(encrypted: Tensor, matrix: Tensor, s_tanh: Tensor) -> Tensor:
    result = _XorSigns.apply(encrypted, matrix, s_tanh, False)
    assert isinstance(result, Tensor)
    return result


def _ste(encrypted: Tensor, matrix: Tensor, s_tanh: Tensor) -> Tensor:
    result = _XorSigns.apply(encrypted, matrix, s_tanh, True)
    assert isinstance(result, Tensor)
    return result


def _analog(encrypted: Tensor, matrix: Tensor, s_tanh: Tensor) -> Tensor:
    """Signs forward, the gradient of a product of tanh backward, the paper's "Analog" ablation.

    There eq. 3 describes the gate both ways, and its real outputs are quantized straight-through: sign(tanh(x)) is
    sign(x), so these are the signs that the bits decode to. (With the real outputs as weights, other weights would be
    trained than are shipped: that ends at chance, docs/log.md.) Second-hand, from a re-implementation that quotes it.
    """
    tanh = torch.tanh(encrypted * s_tanh).transpose(1, 2).unsqueeze(1)  # (P, 1, n_in, S)
    tapped = torch.where(matrix.unsqueeze(3) > 0, tanh, torch.ones_like(tanh))
    parity = 1 - 2 * ((matrix.sum(2, keepdim=True) - 1) % 2)
    product = tapped.prod(2) * parity.to(tanh.dtype)
    return output_signs(encrypted, matrix) + (product - product.detach())


SURROGATES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "flexor": _flexor,
    "ste": _ste,
    "analog": _analog,
}


def decode_signs(encrypted: Tensor, matrix: Tensor, s_tanh: Tensor, surrogate: str = "flexor") -> Tensor:
    """Decode encrypted weights to signs, differentiably.

    Args:
        encrypted: shape (P, S, n_in).
        matrix: the codes as 0.0 / 1.0 in float32, shape (P, n_out, n_in).
        s_tanh: slope of the surrogate, a scalar tensor.
        surrogate: "flexor", "ste" or "analog".

    Returns:
        Shape (P, n_out, S): row r of slice s belongs to weight r * S + s.
    """
    return SURROGATES[surrogate](encrypted, matrix, s_tanh)
