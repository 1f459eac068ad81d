"""The packed file's size and layout, known before anything is trained. Every byte of the file is counted here.

The file is a safetensors container (docs/format.md): 8 bytes of header length, a JSON header, then few concatenated
tensors, because every tensor costs about a hundred bytes of header. packing/ writes to this layout and checks that the
written size is the predicted one; there is no second size formula.
"""

import json
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from flexor_search.codes import XorCode
from flexor_search.planning.allocation import KEPT_DTYPE_BYTES, Allocation, layer_payload_bits, slices_of
from flexor_search.planning.model_shape import TensorShape

FORMAT_VERSION = 1
METADATA_KEY = "flexor"
HASH_FIELD = "0" * 64
DTYPE_CODES = {"float16": "F16", "float32": "F32", "uint8": "U8"}
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


def code_row_bytes(code: XorCode) -> int:
    """Bytes of one row of a code in the code table: a bit for each input, rounded up to whole bytes."""
    return (code.n_in + 7) // 8


def metadata_text(metadata: dict[str, Any]) -> str:
    """The canonical text of the metadata: ASCII JSON without spaces, keys in the order of the format."""
    return json.dumps(metadata, separators=(",", ":"), ensure_ascii=True)


def kept_tensors(allocation: Allocation) -> tuple[TensorShape, ...]:
    """Tensors that the file stores in the kept dtype, in file order."""
    kept: list[TensorShape] = []
    for layer, spec in zip(allocation.model.layers, allocation.specs, strict=True):
        if spec.is_kept:
            kept.append(TensorShape(layer.tensor_name("weight"), layer.weight_shape))
        if layer.stores_bias:
            kept.append(TensorShape(layer.tensor_name("bias"), (layer.out_channels,)))
    kept += [tensor for tensor in allocation.model.others if _is_float(tensor)]
    return tuple(kept)


@lru_cache(maxsize=8192)
def file_layout(allocation: Allocation, model_name: str = "") -> FileLayout:
    """Lay out the packed file of an allocation.

    Args:
        allocation: what is stored.
        model_name: the built-in workload whose model this is, "" for a user's own; it is part of the header.

    Returns:
        Every part with its size; `file_bytes` is the exact size of the file that packing writes.
    """
    model, float_bytes = allocation.model, KEPT_DTYPE_BYTES[allocation.kept_dtype]
    code_index: dict[XorCode, int] = {}
    plane_codes: dict[str, tuple[int, ...]] = {}
    table: list[list[Any]] = []
    padding_bits = scale_elements = 0
    for layer, spec in zip(model.layers, allocation.specs, strict=True):
        if spec.is_kept:
            continue
        indices = tuple(code_index.setdefault(_reduced(code), len(code_index)) for code in spec.codes)
        plane_codes[layer.name] = indices
        entry: list[Any] = [layer.name, list(layer.weight_shape), list(indices)]
        table.append([*entry, layer.transposed_groups] if layer.transposed_groups else entry)
        used_bits = sum(spec.ranks) * slices_of(layer.n_weights, spec)
        padding_bits += layer_payload_bits(layer.n_weights, spec) - used_bits
        scale_elements += spec.n_planes * layer.out_channels
    codes = tuple(code_index)
    kept = kept_tensors(allocation)
    exact = tuple(tensor for tensor in model.others if not _is_float(tensor))
    metadata = {
        "version": FORMAT_VERSION,
        "sha256": HASH_FIELD,
        "model": model_name,
        "codes": [[code.n_in, code.n_out] for code in codes],
        "layers": table,
        "kept": [[tensor.name, list(tensor.shape)] for tensor in kept],
        "exact": [[tensor.name, list(tensor.shape), tensor.dtype] for tensor in exact],
        "folded": [layer.folded_norm for layer in model.layers if layer.folded_norm],
    }
    sizes = {
        "codes": sum(code.n_out * code_row_bytes(code) for code in codes),
        "exact": sum(tensor.elements * DTYPE_BYTES[tensor.dtype] for tensor in exact),
        "kept": sum(tensor.elements for tensor in kept) * float_bytes,
        "payload": allocation.payload_bits // 8,
        "scales": scale_elements * float_bytes,
    }
    return FileLayout(
        codes=codes,
        plane_codes=plane_codes,
        kept=kept,
        exact=exact,
        metadata=metadata,
        payload_bits=allocation.payload_bits,
        padding_bits=padding_bits,
        scale_bytes=sizes["scales"],
        code_table_bytes=sizes["codes"],
        kept_bytes=sizes["kept"] + sizes["exact"],
        container_bytes=_container_bytes(sizes, allocation.kept_dtype, metadata),
    )


def _container_bytes(sizes: dict[str, int], kept_dtype: str, metadata: dict[str, Any]) -> int:
    """8 bytes of length plus the JSON header, padded with spaces to a multiple of 8, as safetensors writes it.

    safetensors orders tensors by element size, largest first, then by name; empty ones are left out by us.
    """
    dtypes = {"codes": "uint8", "exact": "uint8", "kept": kept_dtype, "payload": "uint8", "scales": kept_dtype}
    header: dict[str, Any] = {"__metadata__": {METADATA_KEY: metadata_text(metadata)}}
    offset = 0
    present = [name for name, size in sizes.items() if size]
    for name in sorted(present, key=lambda name: (-DTYPE_BYTES[dtypes[name]], name)):
        elements = sizes[name] // DTYPE_BYTES[dtypes[name]]
        end = offset + sizes[name]
        header[name] = {"dtype": DTYPE_CODES[dtypes[name]], "shape": [elements], "data_offsets": [offset, end]}
        offset = end
    length = len(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode())
    return 8 + -(-length // 8) * 8


@lru_cache(maxsize=4096)
def _reduced(code: XorCode) -> XorCode:
    """The code as it is stored. The family is dropped: equal taps are one entry of the table."""
    reduced = code.reduced().code
    return XorCode(reduced.n_in, reduced.taps)


def _is_float(tensor: TensorShape) -> bool:
    return tensor.dtype.startswith(("float", "bfloat"))
