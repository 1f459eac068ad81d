"""The encrypted weight of one layer, as a torch parametrization.

`torch.nn.utils.parametrize` keeps the layer's own class and forward, so any layer type works, and hooks, names and
printing stay as users know them. The module below turns (encrypted, scale) into the layer's weight.
"""

import math
from collections.abc import Iterable
from functools import reduce

import torch
from torch import Tensor, nn

from flexor_search.planning import LayerShape, LayerSpec
from flexor_search.planning.allocation import slices_of
from flexor_search.quantization.fused import FusedLayer, can_fuse, fused_weight, in_format
from flexor_search.quantization.gpu_weight import GpuLayer, can_run, gpu_weight
from flexor_search.quantization.nearest_codeword import nearest_stored_bits
from flexor_search.quantization.surrogate import decode_signs, output_signs

ENCRYPTED_STD = 1e-3  # FleXOR, section 3: N(0, 0.001^2)
SCALE_WITH_NORM = 0.2  # FleXOR, section 3; without batch norm behind the layer it collapses small networks
PRETRAINED_MAGNITUDE = 1e-2


class FlexorWeight(nn.Module):
    """Decodes a layer's weight from its encrypted weights and scales.

    Args:
        layer: shape of the layer.
        spec: its codes.
        normalized: whether a batch norm follows, which sets the scales' first values.
        pretrained: start from the layer's present weights instead of from scratch.
        surrogate: "flexor", "ste" or "analog".
    """

    matrix: Tensor
    s_tanh: Tensor
    format_probe: Tensor

    def __init__(
        self,
        layer: LayerShape,
        spec: LayerSpec,
        *,
        normalized: bool,
        pretrained: bool = False,
        surrogate: str = "flexor",
    ) -> None:
        super().__init__()
        self.layer, self.spec = layer, spec
        self.normalized, self.pretrained, self.surrogate = normalized, pretrained, surrogate
        self.slice_order = "planes"  # a study may set "consecutive", the paper's; it trains, and no file holds it
        self.n_slices = slices_of(layer.n_weights, spec)
        matrices = torch.stack([torch.tensor(code.matrix, dtype=torch.float32) for code in spec.codes])
        # `model.to(memory_format=...)` changes tensors of four or five axes; encrypted weights have three.
        n_axes = len(layer.weight_shape)
        self.register_buffer("format_probe", torch.zeros((2,) * n_axes if n_axes > 3 else 0), persistent=False)
        self.fused_layer = FusedLayer.of(layer, spec)
        self.register_buffer("matrix", matrices, persistent=False)
        self.register_buffer("s_tanh", torch.tensor(10.0), persistent=False)

    def forward(self, encrypted: Tensor, scale: Tensor) -> Tensor:
        """The layer's weight.

        Args:
            encrypted: shape (n_planes, n_slices, n_in).
            scale: shape (n_planes, out_channels).

        Returns:
            sum over planes of scale * sign, in the layer's weight shape.
        """
        if self.surrogate != "analog" and self.slice_order == "planes" and can_fuse(encrypted, scale):
            return fused_weight(
                *(self.fused_layer, encrypted, scale, self.s_tanh, self.reference),
                straight_through=self.surrogate == "ste",
                memory_format=self._memory_format(),
            )
        if encrypted.is_cuda and (layer := self._gpu_layer()) is not None:
            memory_format = self._memory_format()
            if can_run(layer, encrypted, scale, memory_format):
                tensors = (encrypted, self.matrix, scale, self.s_tanh)
                return gpu_weight(layer, *tensors, self.reference, memory_format=memory_format)
        weight = self.reference(encrypted, scale)
        if torch._C._are_functorch_transforms_active():  # they know one format
            return weight
        return in_format(weight, self._memory_format())

    def reference(self, encrypted: Tensor, scale: Tensor) -> Tensor:
        """The same by the pure formulas, in any dtype, on any device."""
        signs = self._in_shape(decode_signs(encrypted, self.matrix, self.s_tanh, self.surrogate))
        return sum_of_planes(signs, spread_scale(scale, self.layer))

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """First values of (encrypted, scale); called once, when the layer is quantized."""
        shape = (self.spec.n_planes, self.n_slices, self.spec.n_in)
        if self.pretrained:
            return self._near(weight.detach())
        encrypted = torch.randn(shape, dtype=weight.dtype, device=weight.device) * ENCRYPTED_STD
        base = SCALE_WITH_NORM if self.normalized else math.sqrt(2 / self._fan_in())
        halves = 0.5 ** torch.arange(self.spec.n_planes, dtype=weight.dtype, device=weight.device)
        return encrypted, (base * halves)[:, None].repeat(1, self.layer.out_channels)

    @torch.no_grad()
    def stored_bits(self, encrypted: Tensor) -> Tensor:
        """What is stored before re-coding: 0/1 as uint8, shape (n_planes, n_in, n_slices)."""
        return (encrypted >= 0).to(torch.uint8).transpose(1, 2).contiguous()

    @torch.no_grad()
    def weight_bits(self, encrypted: Tensor) -> Tensor:
        """The trained sign planes: 0/1 as uint8, shape (n_planes, n_weights), in weight order."""
        return (self._flat(output_signs(encrypted, self.matrix)) > 0).to(torch.uint8)

    def extra_repr(self) -> str:
        """The spec, shown when a model is printed."""
        return f"{self.spec.label}, {self.layer.n_weights} weights"

    def _gpu_layer(self) -> GpuLayer | None:
        return GpuLayer.of(self.layer, self.spec, self.slice_order, self.surrogate)

    def _memory_format(self) -> torch.memory_format:
        """The one that the layer's plain weight would have now."""
        probe = self.format_probe
        if probe.dim() == 4 and probe.is_contiguous(memory_format=torch.channels_last):
            return torch.channels_last
        if probe.dim() == 5 and probe.is_contiguous(memory_format=torch.channels_last_3d):
            return torch.channels_last_3d
        return torch.contiguous_format

    def _flat(self, signs: Tensor) -> Tensor:
        return in_weight_order(signs, self.slice_order)[:, : self.layer.n_weights]

    def _in_shape(self, signs: Tensor) -> Tensor:
        return self._flat(signs).view(-1, *self.layer.weight_shape)

    def _fan_in(self) -> int:
        return max(1, self.layer.n_weights // self.layer.out_channels)

    def _near(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Stored bits whose decoded signs are nearest to the weights', plane after plane on what is left over."""
        residual, bits, scales = weight, [], []
        for plane in range(self.spec.n_planes):
            matrix = self.matrix[plane]
            target = torch.zeros(self.spec.n_out * self.n_slices, dtype=weight.dtype, device=weight.device)
            target[: self.layer.n_weights] = residual.reshape(-1)
            stored = nearest_stored_bits(matrix, target.view(self.spec.n_out, self.n_slices))
            signs = self._in_shape(output_signs(stored.to(weight.dtype)[None] - 0.5, matrix[None]))[0]
            scale = channel_mean(residual * signs, self.layer)
            residual = residual - signs * spread_scale(scale[None], self.layer)[0]
            bits.append(stored)
            scales.append(scale)
        encrypted = (torch.stack(bits).to(weight.dtype) * 2 - 1) * PRETRAINED_MAGNITUDE
        return encrypted, torch.stack(scales)


def in_weight_order(signs: Tensor, slice_order: str) -> Tensor:
    """Signs of slices as the weights they belong to, one row a plane; the surplus is at the end.

    Args:
        signs: shape (n_planes, n_out, n_slices).
        slice_order: "planes": weight r * n_slices + s is output r of slice s, as in the file; "consecutive": n_out
            weights that follow each other share a slice.
    """
    return (signs if slice_order == "planes" else signs.transpose(1, 2)).flatten(1)


def sum_of_planes(signs: Iterable[Tensor], scales: Iterable[Tensor]) -> Tensor:
    """The sum over planes, in order, of scale * sign; `Tensor.sum` has other orders, and so other last bits."""
    return reduce(torch.add, map(torch.mul, signs, scales))


def spread_scale(scale: Tensor, layer: LayerShape) -> Tensor:
    """Broadcast scales over the weight.

    Args:
        scale: shape (n_planes, out_channels).
        layer: whose output channels are axis 0, or for a transposed convolution axis 1 within each group.

    Returns:
        A tensor that broadcasts against (n_planes, *weight_shape).
    """
    planes, tail = scale.shape[0], (1,) * (len(layer.weight_shape) - 2)
    groups = layer.transposed_groups
    if not groups:
        return scale.view(planes, -1, *(1,) * (len(layer.weight_shape) - 1))
    per_group = scale.view(planes, groups, 1, -1).expand(-1, -1, layer.weight_shape[0] // groups, -1)
    return per_group.reshape(planes, layer.weight_shape[0], layer.weight_shape[1], *tail)


def channel_mean(weight: Tensor, layer: LayerShape) -> Tensor:
    """Mean over all weights of each output channel, shape (out_channels,)."""
    if not layer.transposed_groups:
        return weight.flatten(1).mean(1)
    grouped = weight.reshape(layer.transposed_groups, -1, layer.weight_shape[1], *layer.weight_shape[2:])
    return grouped.transpose(1, 2).flatten(2).mean(2).flatten()
