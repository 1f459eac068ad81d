"""An allocation: every layer of a model with what it is stored as."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from flexor_search.codes import plane_bytes
from flexor_search.errors import UsageError, nearest
from flexor_search.planning.layer_spec import KEPT, LayerSpec
from flexor_search.planning.model_shape import LayerShape, ModelShape

KEPT_DTYPE_BYTES = {"float16": 2, "float32": 4}


def slices_of(n_weights: int, spec: LayerSpec) -> int:
    """Slices of a layer: its weights over n_out, rounded up to whole slices."""
    return -(-n_weights // spec.n_out)


def layer_payload_bits(n_weights: int, spec: LayerSpec) -> int:
    """Stored bits of a quantized layer in the file: every stored plane padded to whole bytes."""
    return sum(spec.ranks) * 8 * plane_bytes(slices_of(n_weights, spec)) if spec.codes else 0


def weight_bits(layer: LayerShape, spec: LayerSpec, kept_dtype: str) -> int:
    """Stored bits of a layer's weights, encrypted or kept."""
    if spec.is_kept:
        return 8 * KEPT_DTYPE_BYTES[kept_dtype] * layer.n_weights
    return layer_payload_bits(layer.n_weights, spec)


@dataclass(frozen=True)
class Allocation:
    """Every layer of a model with its LayerSpec.

    Attributes:
        model: the shapes the sizes are computed from.
        specs: what each layer of `model.layers` is stored as, in that order.
        searched: which layers take part in the search, in that order; the others are kept by decision of the space and
            are not counted in bits per weight.
        kept_dtype: "float16" or "float32", for scales and everything that is not encrypted.

    Raises:
        UsageError: the lengths differ, an unknown dtype, or a layer outside the search that is not kept.
    """

    model: ModelShape = field(repr=False)
    specs: tuple[LayerSpec, ...]
    searched: tuple[bool, ...]
    kept_dtype: str = "float16"

    def __post_init__(self) -> None:
        if not len(self.specs) == len(self.searched) == len(self.model.layers):
            raise UsageError(f"allocation: needs one spec for each of {len(self.model.layers)} layers")
        if self.kept_dtype not in KEPT_DTYPE_BYTES:
            raise UsageError(f"kept_dtype: must be float16 or float32, got {self.kept_dtype!r}")
        for layer, spec, here in zip(self.model.layers, self.specs, self.searched, strict=True):
            if not here and not spec.is_kept:
                raise UsageError(
                    f"allocation: layer {layer.name!r} is not searched, so it must be kept, not {spec.label}"
                )

    @classmethod
    def of(
        cls, model: ModelShape, specs: Mapping[str, LayerSpec], kept_dtype: str = "float16", default: LayerSpec = KEPT
    ) -> "Allocation":
        """An allocation from layer names; layers not named get `default`, and kept ones are not counted as searched.

        Raises:
            UsageError: a name that is no layer of the model.
        """
        for name in specs:
            if name not in model.by_name:
                raise UsageError(f"layer: {name!r} is not a quantizable layer; {nearest(name, model.by_name)}")
        chosen = tuple(specs.get(layer.name, default) for layer in model.layers)
        return cls(model, chosen, tuple(not spec.is_kept for spec in chosen), kept_dtype)

    @cached_property
    def layers(self) -> dict[str, LayerSpec]:
        """Layer name -> spec."""
        return {layer.name: spec for layer, spec in zip(self.model.layers, self.specs, strict=True)}

    @property
    def n_searched_weights(self) -> int:
        """Weights of the searched layers: the denominator of bits per weight."""
        return sum(layer.n_weights for layer, _ in self._searched())

    @cached_property
    def payload_bits(self) -> int:
        """Stored bits of all quantized layers, byte padding of their planes included."""
        return sum(
            layer_payload_bits(layer.n_weights, spec) for layer, spec in zip(self.model.layers, self.specs, strict=True)
        )

    @property
    def weight_bits(self) -> int:
        """Stored weight bits of the searched layers: their payload, and the kept dtype's bits for those kept."""
        return sum(weight_bits(layer, spec, self.kept_dtype) for layer, spec in self._searched())

    @property
    def bits_per_weight(self) -> float:
        """Stored weight bits over the weights of the searched layers, at each code's rank, rounded to 1e-3."""
        return round(self.weight_bits / max(self.n_searched_weights, 1), 3)

    @property
    def nominal_bits_per_weight(self) -> float:
        """The paper's count, n_planes * n_in / n_out averaged over the weights of the searched layers."""
        kept_bits = 8 * KEPT_DTYPE_BYTES[self.kept_dtype]
        total = sum(
            (kept_bits if spec.is_kept else spec.nominal_rate) * layer.n_weights for layer, spec in self._searched()
        )
        return total / max(self.n_searched_weights, 1)

    @cached_property
    def digest(self) -> str:
        """A stable name of this allocation: 16 hexadecimal digits of the SHA-256 of its JSON and the shapes."""
        shapes = [(layer.name, layer.weight_shape) for layer in self.model.layers]
        text = json.dumps([self.to_json(), shapes], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def label(self) -> str:
        """The specs' labels in layer order, "kept" shown as "-"."""
        return " ".join("-" if spec.is_kept else spec.label for spec in self.specs)

    def to_json(self) -> dict[str, Any]:
        """A JSON object: kept_dtype, and for each layer its spec and whether it was searched."""
        entries = zip(self.model.layers, self.specs, self.searched, strict=True)
        return {
            "kept_dtype": self.kept_dtype,
            "layers": {layer.name: spec.to_json() for layer, spec, _ in entries},
            "not_searched": [
                layer.name for layer, here in zip(self.model.layers, self.searched, strict=True) if not here
            ],
        }

    @classmethod
    def from_json(cls, model: ModelShape, body: Any) -> "Allocation":
        """Undo `to_json` for the same model.

        Raises:
            UsageError: not such an object, or for another model.
        """
        if not isinstance(body, dict) or not isinstance(body.get("layers"), dict):
            raise UsageError("allocation: must be a JSON object with 'kept_dtype' and 'layers'")
        if list(body["layers"]) != [layer.name for layer in model.layers]:
            raise UsageError(
                f"allocation: its layers {list(body['layers'])} are not the model's {list(model.by_name)}; "
                "use it with the model it was made for"
            )
        specs = tuple(LayerSpec.from_json(entry) for entry in body["layers"].values())
        outside = set(body.get("not_searched", ()))
        return cls(model, specs, tuple(name not in outside for name in body["layers"]), body.get("kept_dtype", ""))

    def _searched(self) -> list[tuple[LayerShape, LayerSpec]]:
        entries = zip(self.model.layers, self.specs, self.searched, strict=True)
        return [(layer, spec) for layer, spec, here in entries if here]


def full_precision(model: ModelShape) -> Allocation:
    """Every layer kept in float32: the model that all others are compared with."""
    n_layers = len(model.layers)
    return Allocation(model, (KEPT,) * n_layers, (True,) * n_layers, "float32")
