"""A layer's weight that stays packed in memory and is decoded whenever it is used, as a torch parametrization.

The alternative, a layer class of our own for every kind, would have to repeat each forward; a parametrization keeps the
layer's class, its hooks and its name. `torch.nn.utils.parametrize.cached()` decodes once for a block of calls.
"""

import torch
from torch import Tensor, nn

from flexor_search.errors import ModelError
from flexor_search.packing.packed_model import PackedLayer
from flexor_search.packing.torch_decode import decode_signs, tap_indices
from flexor_search.planning import LayerShape
from flexor_search.quantization import spread_scale, sum_of_planes


class PackedWeight(nn.Module):
    """Decodes a weight from (payload, scale), which become the parametrized layer's originals.

    Args:
        packed: the layer as the file holds it.
        shape: the same layer of the model.
    """

    dtype_of_weight: Tensor

    def __init__(self, packed: PackedLayer, shape: LayerShape) -> None:
        super().__init__()
        self.shape, self._stored = shape, [plane.shape for plane in packed.planes]
        for plane, code in enumerate(packed.codes):
            self.register_buffer(f"taps{plane}", tap_indices(code), persistent=False)
        self.register_buffer("dtype_of_weight", torch.zeros(0), persistent=False)  # follows .half() and the like
        payload = [torch.from_numpy(plane.copy()).flatten() for plane in packed.planes]
        self._initial: tuple[Tensor, ...] = (torch.cat(payload), torch.from_numpy(packed.scale.copy()))

    def forward(self, payload: Tensor, scale: Tensor) -> Tensor:
        """The layer's weight.

        Args:
            payload: uint8, all planes' stored planes, flat.
            scale: shape (n_planes, out_channels).

        Returns:
            Sum over planes, in order, of scale * sign, added in float32, in the layer's weight shape and dtype.
        """
        planes, signs = payload.split([n_in * stride for n_in, stride in self._stored]), []
        for plane, stored in enumerate(self._stored):
            taps = getattr(self, f"taps{plane}")
            decoded = decode_signs(planes[plane].view(stored), taps, self.shape.n_weights)
            signs.append(decoded.view(self.shape.weight_shape))
        weight = sum_of_planes(signs, spread_scale(scale.float(), self.shape))
        return weight.to(self.dtype_of_weight.dtype)

    def right_inverse(self, _weight: Tensor) -> tuple[Tensor, ...]:
        """The originals; called when a layer is parametrized.

        Raises:
            ModelError: when somebody assigns to the weight later.
        """
        if not self._initial:
            raise ModelError("model: a weight that is kept packed cannot be assigned; load it without keep_packed")
        return self._initial

    def release(self) -> None:
        """Hold the originals no longer: they live in the layers now, and move with them to another device."""
        self._initial = ()

    def extra_repr(self) -> str:
        """What is shown when a model is printed."""
        return f"{self.shape.n_weights} weights in {sum(n_in * stride for n_in, stride in self._stored)} bytes"
