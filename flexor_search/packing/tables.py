"""The packed file's tables: what its header says is in its tensors, read without trusting a word of it.

docs/format.md says what every field means. Version 1 listed the quantized layers, then every kept tensor by name;
version 2 lists all layers and lets biases and kept weights follow from them. Both are read into the same `Tables`.
"""

import json
import math
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from flexor_search.errors import FormatError
from flexor_search.planning.file_layout import DTYPE_BYTES, FORMAT_VERSION, METADATA_KEY, metadata_text

MAX_WEIGHT_DIMS = 5  # of a three-dimensional convolution
MAX_N_OUT = 256
Shape = tuple[int, ...]


@dataclass(frozen=True)
class LayerEntry:
    """A layer of the table.

    Attributes:
        name: as in the model.
        weight_shape: as torch keeps it.
        planes: index of the code of each plane; empty for a layer kept as it is.
        has_bias: whether `kept` holds a bias of this layer.
        folded_norm: the batch norm that went into scale and bias, "" if none.
        transposed_groups: groups of a transposed convolution, 0 for any other layer.
        header_bytes: what the entry itself takes in the header, its comma included.
    """

    name: str
    weight_shape: Shape
    planes: tuple[int, ...]
    has_bias: bool
    folded_norm: str
    transposed_groups: int
    header_bytes: int

    @property
    def out_channels(self) -> int:
        """How many scales a plane has."""
        return self.weight_shape[1] * self.transposed_groups if self.transposed_groups else self.weight_shape[0]

    @property
    def n_weights(self) -> int:
        """Number of weights."""
        return math.prod(self.weight_shape)

    def tensor_name(self, tensor: str) -> str:
        """Name of this layer's "weight" or "bias" in the model's state."""
        return f"{self.name}.{tensor}" if self.name else tensor


@dataclass(frozen=True)
class Tables:
    """What a header says.

    Attributes:
        sha256: what the file claims to hash to.
        model_name: the built-in workload, or "".
        codes: (n_in, n_out) of each code, in the order of the code table.
        layers: in the order of payload and scales.
        kept: name and shape of the tensors in `kept`, in their order.
        exact: name, shape and dtype of the tensors in `exact`, in their order.
        folded: names of the folded batch norms.
    """

    sha256: str
    model_name: str
    codes: tuple[tuple[int, int], ...]
    layers: tuple[LayerEntry, ...]
    kept: tuple[tuple[str, Shape], ...]
    exact: tuple[tuple[str, Shape, str], ...]
    folded: tuple[str, ...]


class _Metadata(BaseModel):
    """The header's JSON object in every version."""

    model_config = ConfigDict(extra="forbid", strict=True)

    version: int
    sha256: str
    model: str
    codes: list[list[int]]
    layers: list[list[Any]]
    kept: list[list[Any]]
    exact: list[list[Any]]


class _MetadataV1(_Metadata):
    folded: list[str]


_VERSIONS: dict[int, type[_Metadata]] = {1: _MetadataV1, FORMAT_VERSION: _Metadata}


def read_tables(raw: bytes) -> Tables:
    """Read the header of a packed file.

    Args:
        raw: the file, or as much of it as holds the header.

    Raises:
        FormatError: not a packed file, from a newer version, or tables that say what cannot be.
    """
    return parse_tables(_metadata_object(raw))


def parse_tables(body: dict[str, Any]) -> Tables:
    """Check a metadata object of any version.

    Raises:
        FormatError: as `read_tables`.
    """
    version = body["version"]
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise FormatError(
            f"it has format version {version}, this program reads up to {FORMAT_VERSION}; update flexor-search"
        )
    try:
        metadata = _VERSIONS.get(version if type(version) is int else 0, _Metadata).model_validate(body)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise FormatError(f"its metadata field {where!r} is wrong: {error.errors()[0]['msg'].lower()}") from error
    if metadata.version not in _VERSIONS:
        raise FormatError(f"it has format version {version}, which never existed; the file is damaged")
    try:
        return _tables(metadata)
    except (ValueError, TypeError) as error:  # too few or too many items in an entry
        raise FormatError(f"its tables are malformed: {error}") from error


def elements(shape: Shape) -> int:
    """Number of elements of a tensor of this shape."""
    return math.prod(shape)


def header_object(raw: bytes) -> dict[str, Any]:
    """The JSON object of a safetensors header.

    Raises:
        FormatError: there is none.
    """
    if len(raw) < 8:
        raise FormatError(f"it holds {len(raw)} bytes, too few for a packed file")
    header_bytes = int.from_bytes(raw[:8], "little")
    if header_bytes > len(raw) - 8:
        raise FormatError("it is not a packed file, or it is cut short: its header would end past the end of the file")
    try:
        return json.loads(raw[8 : 8 + header_bytes], object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"it is not a packed file: no '{METADATA_KEY}' metadata in a safetensors header") from error


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object none of whose keys occurs twice, for json.loads: parsers differ in which of two they take.

    Raises:
        FormatError: one does.
    """
    body = dict(pairs)
    if len(body) != len(pairs):
        raise FormatError("a key occurs twice in its header")
    return body


def _metadata_object(raw: bytes) -> dict[str, Any]:
    try:
        text = header_object(raw)["__metadata__"][METADATA_KEY]
        body = json.loads(text, object_pairs_hook=unique_keys)
        body["version"]  # the one field that every version will have
        return body
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FormatError(f"it is not a packed file: no '{METADATA_KEY}' metadata in a safetensors header") from error


def _tables(metadata: _Metadata) -> Tables:
    codes = tuple(_code_size(*entry) for entry in metadata.codes)
    listed = tuple((_name(name), _shape(shape)) for name, shape in metadata.kept)
    exact = tuple((_name(name), _shape(shape), _exact_dtype(name, dtype)) for name, shape, dtype in metadata.exact)
    if isinstance(metadata, _MetadataV1):
        named = {name for name, _ in listed}
        layers = tuple(_layer_v1(entry, named) for entry in metadata.layers)
        kept, folded = listed, tuple(metadata.folded)
    else:
        layers = tuple(_layer(*entry) for entry in metadata.layers)
        kept = (*_layers_kept(layers), *listed)
        folded = tuple(layer.folded_norm for layer in layers if layer.folded_norm)
    for layer in layers:
        if not all(0 <= index < len(codes) for index in layer.planes):
            raise FormatError(f"layer {layer.name!r} names a code by what is no index of the {len(codes)} codes")
    names = [layer.tensor_name("weight") for layer in layers if layer.planes]
    names += [entry[0] for entry in (*kept, *exact)]
    if len(set(names)) != len(names) or len(set(folded)) != len(folded):
        raise FormatError("a name occurs twice in its tables")
    return Tables(metadata.sha256, metadata.model, codes, layers, kept, exact, folded)


def _layers_kept(layers: tuple[LayerEntry, ...]) -> list[tuple[str, Shape]]:
    """The tensors in `kept` that follow from the layers: weights of kept layers, and biases."""
    kept: list[tuple[str, Shape]] = []
    for layer in layers:
        if not layer.planes:
            kept.append((layer.tensor_name("weight"), layer.weight_shape))
        if layer.has_bias:
            kept.append((layer.tensor_name("bias"), (layer.out_channels,)))
    return kept


def _layer(name: Any, shape: Any, planes: Any, bias: Any = 0, *groups: Any) -> LayerEntry:
    known_bias = (type(bias) is int and bias in (0, 1)) or (isinstance(bias, str) and bias != "")
    if not known_bias or len(groups) > 1:
        raise FormatError(f"the layer table's entry of {name!r} is malformed")
    norm = bias if isinstance(bias, str) else ""
    entry = [name, shape, planes, *([bias] if bias or groups else []), *groups]
    return _checked(entry, bool(bias), norm, groups[0] if groups else 0)


def _layer_v1(entry: list[Any], kept_names: set[str]) -> LayerEntry:
    name, _, planes, *groups = entry
    if len(groups) > 1 or planes == []:
        raise FormatError(f"the layer table's entry of {name!r} is malformed")
    has_bias = (f"{name}.bias" if name else "bias") in kept_names
    return _checked(entry, has_bias, "", groups[0] if groups else 0)


def _checked(entry: list[Any], has_bias: bool, norm: str, groups: Any) -> LayerEntry:
    name, shape, planes, *_ = entry
    sizes = _shape(shape)
    indices = isinstance(planes, list) and all(type(index) is int for index in planes)
    if not isinstance(name, str) or not indices or type(groups) is not int:
        raise FormatError(f"the layer table's entry of {name!r} is malformed")
    if not 2 <= len(sizes) <= MAX_WEIGHT_DIMS or (planes and elements(sizes) < 1):
        raise FormatError(f"the layer table's entry of {name!r} is malformed: no weight has the shape {shape!r}")
    if groups < 0 or (groups and sizes[0] % groups):
        raise FormatError(f"layer {name!r}: {groups} groups do not divide {sizes[0]} channels")
    header_bytes = len(json.dumps(metadata_text(entry))) - len('""') + len(",")
    return LayerEntry(name, sizes, tuple(planes), has_bias, norm, groups, header_bytes)


def _code_size(n_in: int, n_out: int) -> tuple[int, int]:
    if not 1 <= n_in <= n_out <= MAX_N_OUT:
        raise FormatError(f"a code of {n_in} inputs and {n_out} outputs is outside 1 <= n_in <= n_out <= {MAX_N_OUT}")
    return n_in, n_out


def _name(name: Any) -> str:
    if not isinstance(name, str):
        raise FormatError(f"a name in its tables is not a string: {name!r}")
    return name


def _shape(shape: Any) -> Shape:
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise FormatError(f"a shape must be a list of sizes, got {shape!r}")
    return tuple(shape)


def _exact_dtype(name: Any, dtype: Any) -> str:
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES or dtype.startswith(("float", "bfloat")):
        raise FormatError(f"tensor {name!r} has the dtype {dtype!r}, which is not stored exactly")
    return dtype
