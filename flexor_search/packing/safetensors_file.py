"""The packed file: a safetensors container of few concatenated tensors, laid out by planning.file_layout.

docs/format.md describes it byte by byte. Whatever is wrong with a file gives a FormatError that says so; memory stays a
small multiple of the file's size, and nothing in it is executed.
"""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save as safetensors_bytes

from flexor_search.codes import XorCode, plane_bytes
from flexor_search.errors import FormatError, VerificationError
from flexor_search.files import write_atomically
from flexor_search.packing.packed_model import PackedLayer, PackedModel
from flexor_search.planning import Allocation, file_layout
from flexor_search.planning.file_layout import (
    DTYPE_BYTES,
    FORMAT_VERSION,
    HASH_FIELD,
    METADATA_KEY,
    code_row_bytes,
    metadata_text,
)

MAX_WEIGHT_DIMS = 5  # of a three-dimensional convolution
_HASH_MARK = b'\\"sha256\\":\\"'  # as it stands in the JSON header, where the metadata is a string of JSON


class Metadata(BaseModel):
    """The header's JSON object; docs/format.md says what each field means."""

    model_config = ConfigDict(extra="forbid", strict=True)

    version: int
    sha256: str
    model: str
    codes: list[list[int]]
    layers: list[list[Any]]
    kept: list[list[Any]]
    exact: list[list[Any]]
    folded: list[str]


def to_bytes(packed: PackedModel, allocation: Allocation) -> bytes:
    """The file's bytes.

    Args:
        packed: what to store.
        allocation: the one it was packed with; it predicts the size.

    Raises:
        VerificationError: the size is not the predicted one.
    """
    layout = file_layout(allocation, packed.model_name)
    planes = [plane.ravel() for layer in packed.layers for plane in layer.planes]
    scales = [layer.scale.ravel() for layer in packed.layers]
    tensors = {
        "codes": _joined([_code_bytes(code) for code in layout.codes], np.uint8),
        "exact": _joined([packed.exact[tensor.name].reshape(-1).view(np.uint8) for tensor in layout.exact], np.uint8),
        "kept": _joined([packed.kept[tensor.name].ravel() for tensor in layout.kept], packed.kept_dtype),
        "payload": _joined(planes, np.uint8),
        "scales": _joined(scales, packed.kept_dtype),
    }
    present = {name: tensor for name, tensor in tensors.items() if tensor.size}
    raw = safetensors_bytes(present, metadata={METADATA_KEY: metadata_text(layout.metadata)})
    start = raw.index(_HASH_MARK) + len(_HASH_MARK)
    signed = raw[:start] + hashlib.sha256(raw).hexdigest().encode() + raw[start + len(HASH_FIELD) :]
    if len(signed) != layout.file_bytes:
        raise VerificationError(f"packing: wrote {len(signed)} bytes where {layout.file_bytes} were predicted")
    return signed


def save(packed: PackedModel, allocation: Allocation, path: Path) -> None:
    """Write a packed file, whole or not at all."""
    write_atomically(path, to_bytes(packed, allocation))


def load(path: Path) -> PackedModel:
    """Read a packed file.

    Raises:
        FormatError: not a packed file, cut short, changed, or from a newer format version.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror or error}") from error
    try:
        return from_bytes(raw)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from error


def from_bytes(raw: bytes) -> PackedModel:
    """Read the bytes of a packed file.

    Raises:
        FormatError: as `load`.
    """
    metadata = _read_metadata(raw)
    start = raw.find(_HASH_MARK) + len(_HASH_MARK)
    zeroed = raw[:start] + HASH_FIELD.encode() + raw[start + len(HASH_FIELD) :]
    if raw[start : start + len(HASH_FIELD)] != metadata.sha256.encode() or (
        hashlib.sha256(zeroed).hexdigest() != metadata.sha256
    ):
        raise FormatError("its SHA-256 does not match its bytes: the file was changed or damaged; fetch it again")
    try:
        tensors = {name: _array(info) for name, info in deserialize(raw)}
    except (SafetensorError, KeyError, ValueError) as error:
        raise FormatError(f"it is not a valid safetensors container: {error}") from error
    try:
        return assemble(metadata, tensors)
    except (ValueError, TypeError, IndexError, KeyError, OverflowError) as error:
        raise FormatError(f"its layer table does not describe its tensors: {error}") from error


def _read_metadata(raw: bytes) -> Metadata:
    if len(raw) < 8:
        raise FormatError(f"it holds {len(raw)} bytes, too few for a packed file")
    header_bytes = int.from_bytes(raw[:8], "little")
    if header_bytes > len(raw) - 8:
        raise FormatError("it is not a packed file, or it is cut short: its header would end past the end of the file")
    try:
        header = json.loads(raw[8 : 8 + header_bytes])
        text = header["__metadata__"][METADATA_KEY]
        body = json.loads(text)
        version = body["version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FormatError(f"it is not a packed file: no '{METADATA_KEY}' metadata in a safetensors header") from error
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise FormatError(
            f"it has format version {version}, this program reads up to {FORMAT_VERSION}; update flexor-search"
        )
    try:
        metadata = Metadata.model_validate(body)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise FormatError(f"its metadata field {where!r} is wrong: {error.errors()[0]['msg'].lower()}") from error
    if metadata.version != FORMAT_VERSION:
        raise FormatError(f"it has format version {version}, which never existed; the file is damaged")
    return metadata


def assemble(metadata: Metadata, tensors: dict[str, NDArray]) -> PackedModel:
    """Read the concatenated tensors as the tables say.

    Raises:
        FormatError: they do not fit; other errors of malformed tables are the caller's to name.
    """
    dtypes = {str(tensors[name].dtype) for name in ("kept", "scales") if name in tensors}
    if len(dtypes) > 1 or not dtypes <= {"float16", "float32"}:
        raise FormatError(f"kept tensors and scales must share one dtype, float16 or float32, got {sorted(dtypes)}")
    kept_dtype = dtypes.pop() if dtypes else "float16"
    stream = {
        name: _Reader(name, tensors.pop(name, np.zeros(0, dtype)))
        for name, dtype in (
            ("codes", np.uint8),
            ("exact", np.uint8),
            ("kept", kept_dtype),
            ("payload", np.uint8),
            ("scales", kept_dtype),
        )
    }
    if tensors:
        raise FormatError(f"it holds unknown tensors: {', '.join(sorted(tensors))}")
    codes = [_read_code(stream["codes"], n_in, n_out) for n_in, n_out in metadata.codes]
    layers = tuple(_read_layer(stream, codes, entry) for entry in metadata.layers)
    kept = {name: stream["kept"].take(_elements(shape)).reshape(shape) for name, shape in metadata.kept}
    exact = {}
    for name, shape, dtype in metadata.exact:
        if dtype not in DTYPE_BYTES or dtype.startswith(("float", "bfloat")):
            raise FormatError(f"tensor {name!r} has the dtype {dtype!r}, which is not stored exactly")
        exact[name] = stream["exact"].take(_elements(shape) * DTYPE_BYTES[dtype]).view(dtype).reshape(shape)
    names = [f"{layer.name}.weight".lstrip(".") for layer in layers]
    names += [entry[0] for entry in metadata.kept + metadata.exact]
    if not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        raise FormatError("a name occurs twice in its tables, or is not a string")
    for reader in stream.values():
        reader.finish()
    return PackedModel(layers, kept, exact, tuple(metadata.folded), metadata.model, kept_dtype)


class _Reader:
    """Takes consecutive pieces of a tensor and refuses to go past its end or to leave a rest."""

    def __init__(self, name: str, values: NDArray) -> None:
        self.name, self.values, self.position = name, values, 0

    def take(self, count: int) -> NDArray:
        if count > len(self.values) - self.position:
            raise FormatError(f"tensor {self.name!r} is too short for the tables")
        piece = self.values[self.position : self.position + count]
        self.position += count
        if piece.dtype.kind == "f" and not np.isfinite(piece).all():
            raise FormatError(f"tensor {self.name!r} holds a value that is not finite")
        return piece

    def finish(self) -> None:
        if self.position != len(self.values):
            raise FormatError(f"tensor {self.name!r} is longer than the tables say")


def _read_code(reader: _Reader, n_in: int, n_out: int) -> XorCode:
    if not 1 <= n_in <= n_out <= 256:
        raise FormatError(f"a code of {n_in} inputs and {n_out} outputs is outside 1 <= n_in <= n_out <= 256")
    row_bytes = (n_in + 7) // 8
    bits = np.unpackbits(reader.take(n_out * row_bytes).reshape(n_out, row_bytes), axis=1, bitorder="little")
    if bits[:, n_in:].any():
        raise FormatError("a code has a tap past its inputs")
    return XorCode.from_matrix(bits[:, :n_in])


def _read_layer(stream: dict[str, _Reader], codes: list[XorCode], entry: list[Any]) -> PackedLayer:
    name, shape, planes, *groups = entry
    n_weights = _elements(shape)
    well_typed = isinstance(name, str) and isinstance(planes, list) and all(type(g) is int for g in groups)
    if not well_typed or not planes or n_weights < 1 or len(groups) > 1 or not 2 <= len(shape) <= MAX_WEIGHT_DIMS:
        raise FormatError(f"the layer table's entry {entry!r} is malformed")
    transposed_groups = groups[0] if groups else 0
    if transposed_groups < 0 or (transposed_groups and shape[0] % transposed_groups):
        raise FormatError(f"layer {name!r}: {transposed_groups} groups do not divide {shape[0]} channels")
    chosen = tuple(codes[index] for index in planes if type(index) is int and index >= 0)
    if len(chosen) != len(planes):
        raise FormatError(f"layer {name!r} names a code by what is no index")
    packed = []
    for code in chosen:
        n_slices = -(-n_weights // code.n_out)
        stride = plane_bytes(n_slices)
        packed.append(stream["payload"].take(code.n_in * stride).reshape(code.n_in, stride))
        if n_slices % 8 and (packed[-1][:, -1] >> (n_slices % 8)).any():
            raise FormatError(f"layer {name!r}: the padding bits of its payload must be zero")
    channels = shape[1] * transposed_groups if transposed_groups else shape[0]
    scale = stream["scales"].take(len(planes) * channels).reshape(len(planes), channels)
    return PackedLayer(name, tuple(shape), chosen, tuple(packed), scale, transposed_groups)


def _elements(shape: Any) -> int:
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise FormatError(f"a shape must be a list of sizes, got {shape!r}")
    return math.prod(shape)


def _code_bytes(code: XorCode) -> NDArray[np.uint8]:
    packed = np.packbits(code.matrix, axis=1, bitorder="little")
    assert packed.shape[1] == code_row_bytes(code)
    return packed.ravel()


def _joined(parts: list[NDArray], dtype: Any) -> NDArray:
    return np.concatenate(parts).astype(dtype, copy=False) if parts else np.zeros(0, dtype)


def _array(info: dict[str, Any]) -> NDArray:
    dtype = {"U8": np.uint8, "F16": np.float16, "F32": np.float32}[info["dtype"]]
    values = np.frombuffer(info["data"], dtype)
    if values.shape != tuple(info["shape"]):
        raise ValueError("every tensor must be one-dimensional")
    return values
