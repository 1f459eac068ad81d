"""The plain shapes of a model: all that planning needs to know of it, without torch."""

import math
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class TensorShape:
    """A tensor of the model's state: its name there, its shape, its dtype ("float32", "int64", ...)."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class LayerShape:
    """A layer whose weight can be quantized.

    Attributes:
        name: the module's name in the model, "" where the model itself is the layer.
        kind: its type, such as "Conv2d".
        weight_shape: as torch keeps it.
        out_channels: how many scales a plane has.
        has_bias: whether the layer has a bias of its own.
        transposed_groups: for transposed convolutions, whose output channels are axis 1 within each group, the number
            of groups; 0 for all others, whose output channels are axis 0.
        folded_norm: name of the batch norm that is folded into scale and bias at export, "" if none.
        tied_to: names of other tensors of the state that are this same weight; they are stored and counted once.
    """

    name: str
    kind: str
    weight_shape: tuple[int, ...]
    out_channels: int
    has_bias: bool
    transposed_groups: int = 0
    folded_norm: str = ""
    tied_to: tuple[str, ...] = ()

    @property
    def n_weights(self) -> int:
        """Number of weights."""
        return math.prod(self.weight_shape)

    @property
    def stores_bias(self) -> bool:
        """Whether the packed file holds a bias: the layer's own, or what folding its batch norm leaves."""
        return self.has_bias or bool(self.folded_norm)

    def tensor_name(self, tensor: str) -> str:
        """Name of this layer's "weight" or "bias" in the model's state."""
        return f"{self.name}.{tensor}" if self.name else tensor


@dataclass(frozen=True)
class ModelShape:
    """Everything that a packed file of the model has to hold.

    Attributes:
        layers: the quantizable layers, in the order in which the model holds them.
        others: every other tensor of the state that a packed file stores (folded batch norms are not among them).
        float_elements: elements of all parameters and buffers of the float model, tied ones counted once.
        folded: the tensors of the folded batch norms, which no packed file stores.
    """

    layers: tuple[LayerShape, ...]
    others: tuple[TensorShape, ...]
    float_elements: int
    folded: tuple[TensorShape, ...] = ()

    @cached_property
    def by_name(self) -> dict[str, LayerShape]:
        """The layers by name."""
        return {layer.name: layer for layer in self.layers}

    @property
    def n_weights(self) -> int:
        """Weights of all quantizable layers, kept ones included."""
        return sum(layer.n_weights for layer in self.layers)

    @property
    def float_bytes(self) -> int:
        """4 bytes for every parameter and buffer: what a `0.03x` budget is a ratio to."""
        return 4 * self.float_elements
