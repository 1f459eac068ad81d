"""The packed file: a safetensors container of few concatenated tensors, laid out by planning.file_layout.

docs/format.md describes it byte by byte. Whatever is wrong with a file gives a FormatError that says so; memory stays a
small multiple of the file's size, and nothing in it is executed.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save as safetensors_bytes

from flexor_search.codes import XorCode, plane_bytes
from flexor_search.errors import FormatError, VerificationError
from flexor_search.files import write_atomically
from flexor_search.packing.container import shown
from flexor_search.packing.packed_model import PackedLayer, PackedModel
from flexor_search.packing.tables import LayerEntry, Tables, elements, read_tables
from flexor_search.planning import Allocation, file_layout
from flexor_search.planning.file_layout import (
    DTYPE_BYTES,
    HASH_FIELD,
    METADATA_KEY,
    code_row_bytes,
    lists_taps,
    metadata_text,
)

_HASH_MARK = b'\\"sha256\\":\\"'  # as it stands in the JSON header, where the metadata is a string of JSON


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
        "codes": _joined([_code_table_entry(code) for code in layout.codes], np.uint8),
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
    raw = read_bytes(path)
    with named(path):
        return from_bytes(raw)


def read_bytes(path: Path) -> bytes:
    """Read a file.

    Raises:
        FormatError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror or error}") from error


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Name the file in whatever is found wrong with it."""
    try:
        yield
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from error


def from_bytes(raw: bytes) -> PackedModel:
    """Read the bytes of a packed file.

    Raises:
        FormatError: as `load`.
    """
    tables = read_tables(raw)
    if _claimed_hash(raw) != tables.sha256 or _hash(raw) != tables.sha256:
        raise FormatError("its SHA-256 does not match its bytes: the file was changed or damaged; fetch it again")
    try:
        tensors = {name: _array(info) for name, info in deserialize(raw)}
    except (SafetensorError, KeyError, ValueError) as error:
        raise FormatError(f"it is not a valid safetensors container: {error}") from error
    try:
        return assemble(tables, tensors)
    except (ValueError, TypeError, IndexError, KeyError, OverflowError) as error:
        raise FormatError(f"its layer table does not describe its tensors: {error}") from error


def assemble(tables: Tables, tensors: dict[str, NDArray]) -> PackedModel:
    """Read the concatenated tensors as the tables say.

    Raises:
        FormatError: they do not fit; other errors of malformed tables are the caller's to name.
    """
    dtypes = {str(tensors[name].dtype) for name in ("kept", "scales") if name in tensors}
    if len(dtypes) > 1 or not dtypes <= {"float16", "float32"}:
        raise FormatError(f"kept tensors and scales must share one dtype, float16 or float32, got {sorted(dtypes)}")
    kept_dtype = dtypes.pop() if dtypes else "float16"
    wanted = {"codes": "uint8", "exact": "uint8", "kept": kept_dtype, "payload": "uint8", "scales": kept_dtype}
    unknown = sorted(tensors.keys() - wanted)
    if unknown:
        raise FormatError(f"it holds unknown tensors: {', '.join(map(shown, unknown[:4]))}")
    stream = {name: _Reader(name, tensors.get(name, np.zeros(0, dtype)), dtype) for name, dtype in wanted.items()}
    codes = [_read_code(stream["codes"], *entry) for entry in tables.codes]
    layers = tuple(_read_layer(stream, codes, entry) for entry in tables.layers if entry.planes)
    kept = {name: stream["kept"].take(elements(shape)).reshape(shape) for name, shape in tables.kept}
    exact = {}
    for name, shape, dtype in tables.exact:
        raw = stream["exact"].take(elements(shape) * DTYPE_BYTES[dtype])
        if dtype == "bool" and raw.max(initial=0) > 1:
            raise FormatError(f"tensor {shown(name)} is of truth values, which are stored as 0 and 1")
        exact[name] = raw.view(dtype).reshape(shape)
    for reader in stream.values():
        reader.finish()
    return PackedModel(layers, kept, exact, tables.folded, tables.model_name, kept_dtype)


class _Reader:
    """Takes consecutive pieces of a tensor and refuses to go past its end or to leave a rest."""

    def __init__(self, name: str, values: NDArray, dtype: str) -> None:
        if values.dtype != dtype:
            raise FormatError(f"tensor {name!r} must be of {dtype}, got {values.dtype}")
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


def _read_code(reader: _Reader, n_in: int, n_out: int, listed: bool) -> XorCode:
    if listed:
        taps = tuple(tuple(map(int, reader.take(int(reader.take(1)[0]) + 1))) for _ in range(n_out))
        return XorCode(n_in, taps)
    row_bytes = code_row_bytes(n_in)
    bits = np.unpackbits(reader.take(n_out * row_bytes).reshape(n_out, row_bytes), axis=1, bitorder="little")
    if bits[:, n_in:].any():
        raise FormatError("a code has a tap past its inputs")
    return XorCode.from_matrix(bits[:, :n_in])


def _read_layer(stream: dict[str, _Reader], codes: list[XorCode], entry: LayerEntry) -> PackedLayer:
    chosen, planes = tuple(codes[index] for index in entry.planes), []
    for code in chosen:
        n_slices = -(-entry.n_weights // code.n_out)
        stride = plane_bytes(n_slices)
        planes.append(stream["payload"].take(code.n_in * stride).reshape(code.n_in, stride))
        if n_slices % 8 and (planes[-1][:, -1] >> (n_slices % 8)).any():
            raise FormatError(f"layer {shown(entry.name)}: the padding bits of its payload must be zero")
    scale = stream["scales"].take(len(chosen) * entry.out_channels).reshape(len(chosen), entry.out_channels)
    largest = np.float32(0)
    with np.errstate(over="ignore"):
        for row in np.abs(scale.astype(np.float32)):
            largest = largest + row
    if not np.isfinite(largest).all():
        raise FormatError(f"layer {shown(entry.name)}: its scales add up to more than float32 holds")
    return PackedLayer(entry.name, entry.weight_shape, chosen, tuple(planes), scale, entry.transposed_groups)


def _claimed_hash(raw: bytes) -> str | None:
    """The 64 bytes where the format puts the hash, nothing if there is no such place."""
    start = raw.find(_HASH_MARK) + len(_HASH_MARK)
    return raw[start : start + len(HASH_FIELD)].decode("latin-1") if start >= len(_HASH_MARK) else None


def _hash(raw: bytes) -> str:
    """What a file that has the mark should hash to."""
    start = raw.index(_HASH_MARK) + len(_HASH_MARK)
    digest = hashlib.sha256(memoryview(raw)[:start])
    digest.update(HASH_FIELD.encode())
    digest.update(memoryview(raw)[start + len(HASH_FIELD) :])
    return digest.hexdigest()


def _code_table_entry(code: XorCode) -> NDArray[np.uint8]:
    if lists_taps(code):
        return np.array([byte for taps in code.taps for byte in (len(taps) - 1, *taps)], np.uint8)
    return np.packbits(code.matrix, axis=1, bitorder="little").ravel()


def _joined(parts: list[NDArray], dtype: Any) -> NDArray:
    return np.concatenate(parts).astype(dtype, copy=False) if parts else np.zeros(0, dtype)


def _array(info: dict[str, Any]) -> NDArray:
    dtype = {"U8": np.uint8, "F16": np.float16, "F32": np.float32}[info["dtype"]]
    values = np.frombuffer(info["data"], dtype)
    if values.shape != tuple(info["shape"]):
        raise ValueError("every tensor must be one-dimensional")
    if not values.size:
        raise ValueError("a tensor without elements must be left out")
    return values
