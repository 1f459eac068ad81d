"""A packed model: encrypted planes, scales and kept tensors as numpy arrays, independent of any file and of torch."""

from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from flexor_search.codes import XorCode, decode_packed, decode_reference, unpack_planes
from flexor_search.planning import LayerShape

Decoder = str
"""Name of a decoder in DECODERS."""


@dataclass(frozen=True)
class PackedLayer:
    """One quantized layer.

    Attributes:
        name: the layer's name in the model.
        weight_shape: as torch keeps it.
        codes: the re-coded code of each plane.
        planes: for each plane its stored planes as bytes, shape (code.n_in, plane_bytes(n_slices)).
        scale: shape (n_planes, out_channels), batch norm folded in; float16 or float32.
        transposed_groups: groups of a transposed convolution, 0 for any other layer.
    """

    name: str
    weight_shape: tuple[int, ...]
    codes: tuple[XorCode, ...]
    planes: tuple[NDArray[np.uint8], ...]
    scale: NDArray[np.floating]
    transposed_groups: int = 0

    @property
    def weight_name(self) -> str:
        """Name of its weight in the model's state."""
        return f"{self.name}.weight" if self.name else "weight"

    @property
    def n_weights(self) -> int:
        """Number of weights."""
        return int(np.prod(self.weight_shape))

    def weight_bits(self, decoder: Decoder = "fast") -> NDArray[np.uint8]:
        """Decoded sign planes: 0/1, shape (n_planes, n_weights), in weight order."""
        decode = DECODERS[decoder]
        return np.stack(
            [decode(code, plane, self.n_weights) for code, plane in zip(self.codes, self.planes, strict=True)]
        )

    def weight(self, decoder: Decoder = "fast") -> NDArray[np.float32]:
        """The layer's weight in float32: sum over planes, in order, of scale * (2 * bit - 1)."""
        if decoder == "numba":
            return self._compiled_weight()
        terms = self.weight_bits(decoder).astype(np.float32).reshape(-1, *self.weight_shape)
        terms *= 2  # in place: touching fresh memory takes longer than the arithmetic
        terms -= 1
        terms *= spread_over_weight(self.scale.astype(np.float32), self.weight_shape, self.transposed_groups)
        return reduce(np.add, terms)  # .sum() has another order for some shapes, and so other bits

    def _compiled_weight(self) -> NDArray[np.float32]:
        from flexor_search.codes.kernels import decode_weight  # late: numba takes a second to load

        spread = spread_over_weight(self.scale.astype(np.float32), self.weight_shape, self.transposed_groups)
        scale = spread.reshape(len(self.codes), -1)  # weights are row-major, so those of one scale stand in runs
        return decode_weight(self.codes, self.planes, scale, self.n_weights).reshape(self.weight_shape)


@dataclass(frozen=True)
class PackedModel:
    """Everything that is shipped.

    Attributes:
        layers: the quantized layers, in model order.
        kept: tensors stored in kept_dtype by name: kept weights, biases (folded ones too), other float tensors.
        exact: tensors stored in their own dtype by name.
        folded: names of the batch norms that went into scales and biases.
        model_name: the built-in workload whose model this is, "" for a user's own.
        kept_dtype: "float16" or "float32".
    """

    layers: tuple[PackedLayer, ...]
    kept: dict[str, NDArray[np.floating]]
    exact: dict[str, NDArray[np.generic]]
    folded: tuple[str, ...]
    model_name: str
    kept_dtype: str

    @property
    def payload_bytes(self) -> int:
        """Bytes of all stored planes."""
        return sum(plane.nbytes for layer in self.layers for plane in layer.planes)


def spread_over_weight(
    values: NDArray[np.floating], weight_shape: tuple[int, ...], transposed_groups: int
) -> NDArray[np.floating]:
    """Broadcast values per output channel over a weight.

    Args:
        values: shape (..., out_channels).
        weight_shape: output channels are axis 0, or for a transposed convolution axis 1 within each group.
        transposed_groups: as in LayerShape.

    Returns:
        An array that broadcasts against (..., *weight_shape).
    """
    lead = values.shape[:-1]
    if not transposed_groups:
        return values.reshape(*lead, -1, *(1,) * (len(weight_shape) - 1))
    grouped = values.reshape(*lead, transposed_groups, 1, weight_shape[1])
    spread = np.broadcast_to(grouped, (*lead, transposed_groups, weight_shape[0] // transposed_groups, weight_shape[1]))
    return spread.reshape(*lead, weight_shape[0], weight_shape[1], *(1,) * (len(weight_shape) - 2))


def spread_over_layer(values: NDArray[np.floating], layer: LayerShape) -> NDArray[np.floating]:
    """`spread_over_weight` for a layer's shape."""
    return spread_over_weight(values, layer.weight_shape, layer.transposed_groups)


def _reference(code: XorCode, plane: NDArray[np.uint8], n_weights: int) -> NDArray[np.uint8]:
    return decode_reference(code, unpack_planes(plane, -(-n_weights // code.n_out)), n_weights)


def _fast(code: XorCode, plane: NDArray[np.uint8], n_weights: int) -> NDArray[np.uint8]:
    return decode_packed(code, plane, -(-n_weights // code.n_out), n_weights)


def _numba(code: XorCode, plane: NDArray[np.uint8], n_weights: int) -> NDArray[np.uint8]:
    from flexor_search.codes.kernels import decode_rows  # late: numba takes a second to load

    return unpack_planes(decode_rows(code, plane), -(-n_weights // code.n_out)).reshape(-1)[:n_weights]


DECODERS = {"reference": _reference, "fast": _fast, "numba": _numba}
"""A model is loaded by "fast": numpy has ResNet-18's weights in 0.05 to 0.1 s, numba in half of that, but only after
the second that numba takes to load, and several if its kernels are not on disk yet. "numba" is for whoever decodes
again and again; `codes.kernels` also decodes into arrays that are there already."""
