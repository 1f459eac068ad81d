"""The packed file's size and layout, known before anything is trained. Every byte of the file is counted here.

The file is a safetensors container (docs/format.md): 8 bytes of header length, a JSON header, then few concatenated
tensors, because every tensor costs about a hundred bytes of header. packing/ writes to this layout and checks that the
written size is the predicted one; there is no second size formula.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from flexor_search.codes import XorCode, padding_bits, plane_bytes
from flexor_search.planning.allocation import KEPT_DTYPE_BYTES, Allocation, slices_of, weight_bits
from flexor_search.planning.layer_spec import LayerSpec
from flexor_search.planning.model_shape import LayerShape, ModelShape, TensorShape

FORMAT_VERSION = 2
METADATA_KEY = "flexor"
HASH_FIELD = "0" * 64
DTYPE_CODES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
DTYPE_BYTES = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}


@dataclass(frozen=True)
class FileLayout:
    """Where everything in a packed file goes, and what each part costs.

    Attributes:
        codes: the distinct re-coded codes, in the order in which the code table stores them.
        plane_codes: for each quantized layer the indices into `codes` of its planes.
        kept: tensors stored in the kept dtype, in file order: kept weights and biases, then other float tensors.
        exact: tensors stored in their own dtype (integers and booleans), in file order.
        metadata: the JSON object of the header, hash field zeroed.
        payload_bits: stored bits, byte padding included.
        padding_bits: how many of them only fill a plane's last byte.
        scale_bytes: scales of all planes.
        code_table_bytes: the code table.
        kept_bytes: kept and exact tensors.
        container_bytes: header length, JSON header and its alignment.
    """

    codes: tuple[XorCode, ...]
    plane_codes: dict[str, tuple[int, ...]]
    kept: tuple[TensorShape, ...]
    exact: tuple[TensorShape, ...]
    metadata: dict[str, Any] = field(repr=False)
    payload_bits: int
    padding_bits: int
    scale_bytes: int
    code_table_bytes: int
    kept_bytes: int
    container_bytes: int

    @property
    def file_bytes(self) -> int:
        """The size of the file on disk."""
        return (
            self.payload_bits // 8 + self.scale_bytes + self.code_table_bytes + self.kept_bytes + self.container_bytes
        )


def code_row_bytes(n_in: int) -> int:
    """Bytes of one row of a code that is stored as bits: a bit for each input, rounded up to whole bytes."""
    return (n_in + 7) // 8


def listed_bytes(code: XorCode) -> int:
    """Bytes of a code that is stored as lists: for each row a byte that counts its taps and a byte for each of them."""
    return sum(1 + len(taps) for taps in code.taps)


def lists_taps(code: XorCode) -> bool:
    """Whether the code table stores a code as lists, because that is shorter than bits."""
    return listed_bytes(code) < code.n_out * code_row_bytes(code.n_in)


def code_bytes(code: XorCode) -> int:
    """Bytes of a code in the code table."""
    return listed_bytes(code) if lists_taps(code) else code.n_out * code_row_bytes(code.n_in)


def metadata_text(metadata: dict[str, Any] | list[Any]) -> str:
    """The canonical text of the metadata or a part: ASCII JSON without spaces, keys in the order of the format."""
    return json.dumps(metadata, separators=(",", ":"), ensure_ascii=True)


def kept_tensors(allocation: Allocation) -> tuple[TensorShape, ...]:
    """Tensors that the file stores in the kept dtype, in file order."""
    kept: list[TensorShape] = []
    for layer, spec in zip(allocation.model.layers, allocation.specs, strict=True):
        if spec.is_kept:
            kept.append(TensorShape(layer.tensor_name("weight"), layer.weight_shape))
        if layer.stores_bias:
            kept.append(TensorShape(layer.tensor_name("bias"), (layer.out_channels,)))
    return (*kept, *_other_floats(allocation.model))


def scales_of(layer: LayerShape, spec: LayerSpec) -> int:
    """Scales of a layer: one for each plane and output channel."""
    return spec.n_planes * layer.out_channels


def stored_codes(spec: LayerSpec, *, recoded: bool = True) -> list[XorCode]:
    """The codes of a layer's planes as the code table stores them."""
    return [_stored_code(code, recoded) for code in spec.codes]


def layer_bytes(layer: LayerShape, spec: LayerSpec, kept_dtype: str) -> int:
    """Bytes of a file that a layer takes by itself, whatever else the file holds: weights, scales, its header entry.

    The entry's numbers of codes count as one digit each. What the file holds beside these: `code_cost` for each
    distinct code, longer numbers, and what is the same for all allocations.
    """
    scale_bytes = KEPT_DTYPE_BYTES[kept_dtype] * scales_of(layer, spec)
    entry = metadata_text(_layer_entry(layer, (0,) * len(spec.codes)))
    return weight_bits(layer, spec, kept_dtype) // 8 + scale_bytes + len(entry)


def code_cost(code: XorCode) -> int:
    """Bytes of a file that one more stored code takes: its rows, its header entry and a comma."""
    return code_bytes(code) + len(metadata_text(_code_entry(code))) + 1


@lru_cache(maxsize=8192)
def file_layout(allocation: Allocation, model_name: str = "", *, recoded: bool = True) -> FileLayout:
    """Lay out the packed file of an allocation.

    Args:
        allocation: what is stored.
        model_name: the built-in workload whose model this is, "" for a user's own; it is part of the header.
        recoded: whether codes are stored at their rank. Files always are; without it one sees what that saves.

    Returns:
        Every part with its size; `file_bytes` is the exact size of the file that packing writes.
    """
    model, float_bytes = allocation.model, KEPT_DTYPE_BYTES[allocation.kept_dtype]
    code_index: dict[XorCode, int] = {}
    plane_codes: dict[str, tuple[int, ...]] = {}
    payload_bits = padding = scale_elements = 0
    for layer, spec in zip(model.layers, allocation.specs, strict=True):
        if spec.is_kept:
            continue
        stored = stored_codes(spec, recoded=recoded)
        plane_codes[layer.name] = tuple(code_index.setdefault(code, len(code_index)) for code in stored)
        n_slices, stored_planes = slices_of(layer.n_weights, spec), sum(code.n_in for code in stored)
        payload_bits += 8 * stored_planes * plane_bytes(n_slices)
        padding += stored_planes * padding_bits(n_slices)
        scale_elements += scales_of(layer, spec)
    codes, kept = tuple(code_index), kept_tensors(allocation)
    exact = tuple(tensor for tensor in model.others if not is_float(tensor))
    metadata = {
        "version": FORMAT_VERSION,
        "sha256": HASH_FIELD,
        "model": model_name,
        "codes": [_code_entry(code) for code in codes],
        "layers": [_layer_entry(layer, plane_codes.get(layer.name, ())) for layer in model.layers],
        "kept": [[tensor.name, list(tensor.shape)] for tensor in _other_floats(model)],
        "exact": [[tensor.name, list(tensor.shape), tensor.dtype] for tensor in exact],
    }
    sizes = {
        "codes": sum(map(code_bytes, codes)),
        "exact": sum(tensor.elements * DTYPE_BYTES[tensor.dtype] for tensor in exact),
        "kept": sum(tensor.elements for tensor in kept) * float_bytes,
        "payload": payload_bits // 8,
        "scales": scale_elements * float_bytes,
    }
    dtypes = {"codes": "uint8", "exact": "uint8", "kept": allocation.kept_dtype, "payload": "uint8"}
    tensors = [
        TensorShape(name, (size // DTYPE_BYTES[dtype],), dtype)
        for name, size in sizes.items()
        for dtype in (dtypes.get(name, allocation.kept_dtype),)
    ]
    return FileLayout(
        codes=codes,
        plane_codes=plane_codes,
        kept=kept,
        exact=exact,
        metadata=metadata,
        payload_bits=payload_bits,
        padding_bits=padding,
        scale_bytes=sizes["scales"],
        code_table_bytes=sizes["codes"],
        kept_bytes=sizes["kept"] + sizes["exact"],
        container_bytes=container_bytes(tensors, metadata),
    )


def container_bytes(tensors: Iterable[TensorShape], metadata: dict[str, Any]) -> int:
    """Bytes of a safetensors file that are not its tensors' own: 8 of length, the JSON header, padded to 8.

    safetensors orders tensors by element size, largest first, then by name; empty ones are left out by us.
    """
    header: dict[str, Any] = {"__metadata__": {METADATA_KEY: metadata_text(metadata)}}
    offset = 0
    present = [tensor for tensor in tensors if tensor.elements]
    for tensor in sorted(present, key=lambda tensor: (-DTYPE_BYTES[tensor.dtype], tensor.name)):
        end = offset + tensor.elements * DTYPE_BYTES[tensor.dtype]
        code = DTYPE_CODES[tensor.dtype]
        header[tensor.name] = {"dtype": code, "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    length = len(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode())
    return 8 + -(-length // 8) * 8


def _code_entry(code: XorCode) -> list[int]:
    """A code in the header's table: bits, weights, and 1 if its taps are listed."""
    return [code.n_in, code.n_out, *([1] if lists_taps(code) else [])]


def _layer_entry(layer: LayerShape, planes: tuple[int, ...]) -> list[Any]:
    """A layer in the header's table: name, shape, codes, bias, groups; what is absent at the end is left out."""
    bias: str | int = layer.folded_norm or int(layer.has_bias)
    groups = [layer.transposed_groups] if layer.transposed_groups else []
    return [layer.name, list(layer.weight_shape), list(planes), *([bias] if bias or groups else []), *groups]


@lru_cache(maxsize=4096)
def _stored_code(code: XorCode, recoded: bool) -> XorCode:
    """The code as it is stored. The family is dropped: equal taps are one entry of the table."""
    stored = code.reduced().code if recoded else code
    return XorCode(stored.n_in, stored.taps)


def _other_floats(model: ModelShape) -> tuple[TensorShape, ...]:
    return tuple(tensor for tensor in model.others if is_float(tensor))


def is_float(tensor: TensorShape) -> bool:
    """Whether files store the tensor in the kept dtype, rounded, and not exactly."""
    return tensor.dtype.startswith(("float", "bfloat"))
