"""A layer's weight on the processor in one pass each way: `surrogate` and `sum_of_planes`, compiled.

The pure formulas of `surrogate` remain the reference and every other route: other dtypes, torch.compile,
torch.func, export. The forward here has the same bits as theirs; gradients differ in rounding, no more. Only the inputs
are saved for the backward pass: signs are cheaper to compute again than to write and read.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flexor_search.codes.sharing import share
from flexor_search.planning import LayerShape, LayerSpec
from flexor_search.planning.allocation import slices_of

WEIGHTS_PER_THREAD = 1 << 17  # fewer are done before another thread is awake

Reference = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class FusedLayer:
    """What the compiled loops know of a layer, in the form that they take it.

    Attributes:
        weight_shape: shape of the weight.
        n_in: stored bits a slice.
        n_slices: slices a plane.
        tap_starts: uint64, shape (n_planes, n_out + 1), where each row's taps start.
        taps: uint64, all taps one after the other.
        run_weights: weights in a row that share a scale.
        channels: uint64, the output channel of each such run.
    """

    weight_shape: tuple[int, ...]
    n_in: int
    n_slices: int
    tap_starts: NDArray[np.uint64]
    taps: NDArray[np.uint64]
    run_weights: int
    channels: NDArray[np.uint64]

    @classmethod
    def of(cls, layer: LayerShape, spec: LayerSpec) -> "FusedLayer":
        """Lay out a layer and its codes."""
        lengths = [len(row) for code in spec.codes for row in code.taps]
        ends = np.cumsum([0, *lengths])
        rows = np.arange(len(spec.codes))[:, None] * spec.n_out + np.arange(spec.n_out + 1)
        taps = np.concatenate([row for code in spec.codes for row in code.taps])
        if groups := layer.transposed_groups:
            n_inputs, per_group = layer.weight_shape[:2]
            group = np.arange(n_inputs) // (n_inputs // groups)
            channels = (group[:, None] * per_group + np.arange(per_group)).reshape(-1)
        else:
            channels = np.arange(layer.out_channels)
        return cls(
            weight_shape=layer.weight_shape,
            n_in=spec.n_in,
            n_slices=slices_of(layer.n_weights, spec),
            tap_starts=ends[rows].astype(np.uint64),
            taps=taps.astype(np.uint64),
            run_weights=layer.n_weights // max(1, channels.size),
            channels=channels.astype(np.uint64),
        )


def can_fuse(encrypted: Tensor, scale: Tensor) -> bool:
    """Whether the compiled loops can take these tensors, here and now: else the pure formulas are to be used."""
    return (
        not torch.compiler.is_compiling()
        and not torch._C._get_tracing_state()
        and type(encrypted) in PLAIN
        and type(scale) in PLAIN
        and encrypted.device.type == "cpu"
        and scale.device.type == "cpu"
        and encrypted.dtype == torch.float32
        and scale.dtype == torch.float32
        and encrypted.is_contiguous()
        and scale.is_contiguous()
        and encrypted.numel() > 0
        and not torch._C._are_functorch_transforms_active()
        and _loops() is not None
    )


def in_format(weight: Tensor, memory_format: torch.memory_format) -> Tensor:
    """A weight in a memory format, with the strides that a plain one would have.

    `contiguous` leaves a single input channel's strides as they are, and from these the convolution would conclude that
    its output is not to be in that format: measured, the pooling behind it then takes several times as long.
    """
    return weight if memory_format == torch.contiguous_format else weight.clone(memory_format=memory_format)


def fused_weight(
    layer: FusedLayer,
    encrypted: Tensor,
    scale: Tensor,
    s_tanh: Tensor,
    reference: Reference,
    *,
    straight_through: bool = False,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    """The layer's weight, differentiably, where `can_fuse` allows it.

    Args:
        layer: the layer.
        encrypted: float32, shape (n_planes, n_slices, n_in).
        scale: float32, shape (n_planes, out_channels).
        s_tanh: slope of the surrogate, a scalar tensor.
        reference: the same by the pure formulas, for gradients of gradients.
        straight_through: the "ste" ablation.
        memory_format: of the weight.

    Returns:
        float32, of the layer's weight shape.
    """
    result = _FusedWeight.apply(encrypted, scale, s_tanh, layer, reference, straight_through, memory_format)
    assert isinstance(result, Tensor)
    return result


class _FusedWeight(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        encrypted: Tensor,
        scale: Tensor,
        s_tanh: Tensor,
        layer: FusedLayer,
        reference: Reference,
        straight_through: bool,
        memory_format: torch.memory_format,
    ) -> Tensor:
        ctx.save_for_backward(encrypted, scale, s_tanh)
        ctx.layer, ctx.straight_through, ctx.reference = layer, straight_through, reference
        weight = torch.empty(layer.weight_shape, dtype=torch.float32)
        first, rest = _arguments(layer, encrypted, scale)
        flat, loops = _flat(weight), _loops()
        assert loops is not None
        _share(lambda start, stop: loops.weight_kernel(*first, start, stop, *rest, flat), layer, loops.PART_SLICES)
        return in_format(weight, memory_format)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        encrypted, scale, s_tanh = ctx.saved_tensors
        if torch.is_grad_enabled():  # gradients of these gradients are wanted
            return *gradients_by(ctx.reference, encrypted, scale, grads[0]), None, None, None, None, None
        layer, loops = ctx.layer, _loops()
        assert loops is not None
        out, grad = torch.empty_like(encrypted), _flat(grads[0].float().contiguous())
        parts = np.zeros((math.ceil(layer.n_slices / loops.PART_SLICES), *scale.shape), np.float32)
        first, rest = _arguments(layer, encrypted, scale)
        rest = (*rest, grad, s_tanh.item(), ctx.straight_through, _flat(out), parts)
        _share(lambda start, stop: loops.gradient_kernel(*first, start, stop, *rest), layer, loops.PART_SLICES)
        return out, torch.from_numpy(parts.sum(0)), None, None, None, None, None


def gradients_by(reference: Reference, encrypted: Tensor, scale: Tensor, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Those of encrypted weights and scales by the pure formulas, which can be differentiated once more."""
    needed = [tensor for tensor in (encrypted, scale) if tensor.requires_grad]
    weight = reference(encrypted, scale)
    found = iter(torch.autograd.grad(weight, needed, grad.to(weight.dtype), create_graph=True))
    return tuple(next(found) if tensor.requires_grad else None for tensor in (encrypted, scale))


PLAIN = (Tensor, torch.nn.Parameter)  # not those of tracing, which hold no numbers


@lru_cache(maxsize=1)
def _loops() -> ModuleType | None:
    try:
        from flexor_search.quantization import fused_loops  # late: numba takes a second to load
    except ImportError:  # no numba for this Python or processor
        return None
    return fused_loops


def _flat(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.detach().numpy().reshape(-1)


def _arguments(layer: FusedLayer, encrypted: Tensor, scale: Tensor) -> tuple[tuple, tuple]:
    """What both kernels take before and after the range of slices."""
    first = (_flat(encrypted), layer.n_in, layer.tap_starts, layer.taps)
    return first, (layer.n_slices, layer.run_weights, layer.channels, scale.detach().numpy())


def _share(work: Callable[[int, int], None], layer: FusedLayer, part_slices: int) -> None:
    most = math.prod(layer.weight_shape) // WEIGHTS_PER_THREAD
    share(work, layer.n_slices, max(1, min(torch.get_num_threads(), most)), multiple=part_slices)
