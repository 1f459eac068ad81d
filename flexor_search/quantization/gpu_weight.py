"""A layer's weight on a GPU in one kernel, and its gradients in another: what `fused` is on the processor.

The pure formulas take some 25 launches a layer, and on a small model launches are what a step costs. The forward has
the same bits as theirs; gradients differ in rounding, no more. Before the kernels of a kind of layer are used for the
first time they are compared with the formulas on the device; where Triton is missing, cannot compile or is wrong, the
formulas remain.
"""

import functools
import logging
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flexor_search.planning import LayerShape, LayerSpec
from flexor_search.planning.allocation import slices_of
from flexor_search.quantization.fused import PLAIN, Reference, gradients_by
from flexor_search.quantization.surrogate import decode_signs

_LARGEST = 128
"""Inputs and outputs of a slice, at most: a tile of them is held in registers."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GpuLayer:
    """What the kernels know of a layer.

    Attributes:
        weight_shape: shape of the weight.
        n_slices, n_in, n_out, n_planes: of its codes.
        n_channels: output channels, each of as many weights in a row.
        consecutive: whether n_out weights that follow each other share a slice.
        straight_through: the "ste" ablation.
    """

    weight_shape: tuple[int, ...]
    n_slices: int
    n_in: int
    n_out: int
    n_planes: int
    n_channels: int
    consecutive: bool
    straight_through: bool

    @classmethod
    def of(cls, layer: LayerShape, spec: LayerSpec, slice_order: str, surrogate: str) -> "GpuLayer | None":
        """Lay out a layer; None: the kernels do not know such a one."""
        if layer.transposed_groups or surrogate == "analog" or max(spec.n_in, spec.n_out) > _LARGEST:
            return None
        return cls(
            *(layer.weight_shape, slices_of(layer.n_weights, spec), spec.n_in, spec.n_out, spec.n_planes),
            *(layer.out_channels, slice_order == "consecutive", surrogate == "ste"),
        )

    def kind(self, memory_format: torch.memory_format, dtype: torch.dtype) -> "_Kind":
        """What of a layer is compiled into its kernels."""
        sizes = _padded(self.n_in), _padded(self.n_out)
        return _Kind(*sizes, self.n_planes, self.consecutive, self.straight_through, memory_format, dtype)


@dataclass(frozen=True)
class _Kind:
    n_in: int
    n_out: int
    n_planes: int
    consecutive: bool
    straight_through: bool
    memory_format: torch.memory_format
    dtype: torch.dtype


def can_run(layer: GpuLayer, encrypted: Tensor, scale: Tensor, memory_format: torch.memory_format) -> bool:
    """Whether the kernels can take these tensors, here and now: else the pure formulas are to be used."""
    return (
        type(encrypted) in PLAIN
        and type(scale) in PLAIN
        and encrypted.is_cuda
        and scale.is_cuda
        and encrypted.dtype == scale.dtype == torch.float32
        and encrypted.is_contiguous()
        and scale.is_contiguous()
        and encrypted.numel() > 0
        and not torch.compiler.is_compiling()
        and not torch._C._get_tracing_state()
        and not torch._C._are_functorch_transforms_active()
        and _proven(layer.kind(memory_format, _dtype(encrypted.device)), encrypted.device)
    )


def gpu_weight(
    layer: GpuLayer,
    encrypted: Tensor,
    matrix: Tensor,
    scale: Tensor,
    s_tanh: Tensor,
    reference: Reference,
    *,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    """The layer's weight, differentiably, where `can_run` allows it.

    Args:
        layer: the layer.
        encrypted: float32, shape (n_planes, n_slices, n_in).
        matrix: the codes as 0.0 / 1.0, float32, shape (n_planes, n_out, n_in).
        scale: float32, shape (n_planes, out_channels).
        s_tanh: slope of the surrogate, a scalar tensor.
        reference: the same by the pure formulas, for gradients of gradients.
        memory_format: of the weight.

    Returns:
        Of the layer's weight shape, in float32; under autocast in its dtype, in which it would be used anyway.
    """
    dtype = _dtype(encrypted.device)
    result = _GpuWeight.apply(encrypted, matrix, scale, s_tanh, layer, reference, memory_format, dtype)
    assert isinstance(result, Tensor)
    return result


class _GpuWeight(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        encrypted: Tensor,
        matrix: Tensor,
        scale: Tensor,
        s_tanh: Tensor,
        layer: GpuLayer,
        reference: Reference,
        memory_format: torch.memory_format,
        dtype: torch.dtype,
    ) -> Tensor:
        ctx.save_for_backward(encrypted, matrix, scale, s_tanh)
        ctx.layer, ctx.reference, ctx.memory_format = layer, reference, memory_format
        weight = torch.empty(layer.weight_shape, dtype=dtype, device=encrypted.device, memory_format=memory_format)
        _launch("weight_kernel", layer, memory_format, encrypted, matrix, scale, weight)
        return weight

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        encrypted, matrix, scale, s_tanh = ctx.saved_tensors
        if torch.is_grad_enabled():  # gradients of these gradients are wanted
            by_encrypted, by_scale = gradients_by(ctx.reference, encrypted, scale, grads[0])
            return by_encrypted, None, by_scale, None, None, None, None, None
        layer: GpuLayer = ctx.layer
        grad = grads[0].contiguous(memory_format=ctx.memory_format)
        out = torch.empty_like(encrypted)
        signed = scale.new_empty(layer.n_planes, layer.n_channels, math.prod(layer.weight_shape) // layer.n_channels)
        tensors = (encrypted, matrix, scale, s_tanh, grad, out, signed)
        _launch("gradient_kernel", layer, ctx.memory_format, *tensors, STRAIGHT=layer.straight_through)
        return out, None, signed.sum(2), None, None, None, None, None


def _launch(name: str, layer: GpuLayer, memory_format: torch.memory_format, *tensors: Tensor, **more: bool) -> None:
    from flexor_search.quantization import gpu_kernels as kernels  # late: Triton need not be there

    n_weights = math.prod(layer.weight_shape)
    n_inner = layer.weight_shape[1] if len(layer.weight_shape) > 1 else 1
    getattr(kernels, name)[(math.ceil(layer.n_slices / kernels.BLOCK),)](
        *tensors,
        *(layer.n_slices, layer.n_in, layer.n_out, n_weights, layer.n_channels, n_weights // layer.n_channels),
        *(n_inner, math.prod(layer.weight_shape[2:])),
        N_PLANES=layer.n_planes,
        N_IN=_padded(layer.n_in),
        N_OUT=_padded(layer.n_out),
        BLOCK=kernels.BLOCK,
        CONSECUTIVE=layer.consecutive,
        LAST=memory_format != torch.contiguous_format,
        **more,
    )


def _padded(size: int) -> int:
    """A power of two, at least the 16 that a matrix unit takes."""
    return max(16, 1 << (size - 1).bit_length())


def _dtype(device: torch.device) -> torch.dtype:
    """Of weights: autocast's where it is on."""
    low = torch.is_autocast_enabled(device.type)
    return torch.get_autocast_dtype(device.type) if low else torch.float32


@functools.lru_cache(maxsize=256)
def _proven(kind: _Kind, device: torch.device) -> bool:
    """Whether the kernels of a kind of layer compile here and agree with the pure formulas; tried once."""
    try:
        with torch.inference_mode(False), torch.enable_grad():
            difference = _difference(kind, device)
    except Exception as error:  # no Triton, no C compiler for it, too little shared memory for so large a tile
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        _log.info("weights are decoded by the plain formulas: %s", reason)
        return False
    if difference:
        _log.warning("weights are decoded by the plain formulas: the compiled kernels differ: %s", difference)
    return not difference


_SHAPES = {
    torch.contiguous_format: (6, 105),
    torch.channels_last: (6, 5, 3, 7),
    torch.channels_last_3d: (6, 5, 3, 7, 1),
}


def _difference(kind: _Kind, device: torch.device) -> str:
    """What the kernels make otherwise than the formulas, on one small layer; "" if nothing."""
    random = torch.Generator().manual_seed(0)
    n_in, n_out, shape = kind.n_in - 3, kind.n_out - 3, _SHAPES[kind.memory_format]
    n_slices = math.ceil(math.prod(shape) / n_out)
    encrypted = torch.randn(kind.n_planes, n_slices, n_in, generator=random).to(device).requires_grad_()
    matrix = (torch.rand(kind.n_planes, n_out, n_in, generator=random) < 0.5).float().to(device)
    scale = torch.rand(kind.n_planes, shape[0], generator=random).to(device).requires_grad_()
    grad, s_tanh = torch.randn(shape, generator=random).to(device, kind.dtype), torch.tensor(3.0, device=device)
    layer = GpuLayer(shape, n_slices, n_in, n_out, kind.n_planes, shape[0], kind.consecutive, kind.straight_through)

    def reference(encrypted: Tensor, scale: Tensor) -> Tensor:
        signs = decode_signs(encrypted, matrix, s_tanh, "ste" if kind.straight_through else "flexor")
        flat = (signs.transpose(1, 2) if kind.consecutive else signs).flatten(1)[:, : math.prod(shape)]
        scales = scale.view(kind.n_planes, shape[0], *(1,) * (len(shape) - 1))
        weight = flat.view(kind.n_planes, *shape)[0] * scales[0]
        for plane in range(1, kind.n_planes):
            weight = weight + flat.view(kind.n_planes, *shape)[plane] * scales[plane]
        return weight.to(kind.dtype)

    with torch.autocast(device.type, kind.dtype, enabled=kind.dtype != torch.float32):
        kernels = gpu_weight(layer, encrypted, matrix, scale, s_tanh, reference, memory_format=kind.memory_format)
    formulas = reference(encrypted, scale)
    if not torch.equal(formulas, kernels):
        return "other weights"
    wanted, found = (torch.autograd.grad(weight, (encrypted, scale), grad) for weight in (formulas, kernels))
    for name, a, b in zip(("encrypted weights", "scales"), wanted, found, strict=True):
        if not torch.allclose(a, b, rtol=1e-4, atol=1e-5 * float(1 + a.abs().max())):
            return f"other gradients of {name}"
    return ""
