"""The packed file's tables: what its header says is in its tensors, read without trusting a word of it.

docs/format.md says what every field means. Version 1 listed the quantized layers, then every kept tensor by name;
version 2 lists all layers and lets biases and kept weights follow from them. Both are read into the same `Tables`.
"""

import json
import math
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, FailFast, ValidationError

from flexor_search.errors import FormatError
from flexor_search.packing.container import NOT_PACKED, header_object, json_object, shown
from flexor_search.planning.file_layout import DTYPE_BYTES, FORMAT_VERSION, METADATA_KEY, metadata_text
from flexor_search.planning.layer_spec import MAX_N_OUT

MAX_WEIGHT_DIMS = 5  # of a three-dimensional convolution
MAX_DIMS = 32  # what every numpy can hold
MAX_ELEMENTS = 2**60  # of a shape without its zeros, for the same reason
Shape = tuple[int, ...]
T = TypeVar("T")
_List = Annotated[list[T], FailFast()]  # a million wrong entries are one error, not a million


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
        codes: of each code n_in, n_out and whether its taps are listed, in the order of the code table.
        layers: in the order of payload and scales.
        kept: name and shape of the tensors in `kept`, in their order.
        exact: name, shape and dtype of the tensors in `exact`, in their order.
        folded: names of the folded batch norms.
    """

    sha256: str
    model_name: str
    codes: tuple[tuple[int, int, bool], ...]
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
    codes: _List[_List[int]]
    layers: _List[_List[Any]]
    kept: _List[_List[Any]]
    exact: _List[_List[Any]]


class _MetadataV1(_Metadata):
    folded: _List[str]


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
    if type(version) is int and version > FORMAT_VERSION:
        raise FormatError(
            f"it has format version {shown(version)}, this program reads up to {FORMAT_VERSION}; update flexor-search"
        )
    form = _VERSIONS.get(version if type(version) is int else 0, _Metadata)
    for key in body.keys() - form.model_fields.keys():
        raise FormatError(f"its metadata field {shown(key)} is wrong: version {shown(version)} has no such field")
    try:
        metadata = form.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise FormatError(f"its metadata field {where!r} is wrong: {first['msg'].lower()}") from error
    if metadata.version not in _VERSIONS:
        raise FormatError(f"it has format version {shown(version)}, which never existed; the file is damaged")
    return _tables(metadata)


def elements(shape: Shape) -> int:
    """Number of elements of a tensor of this shape."""
    return math.prod(shape)


def _metadata_object(raw: bytes) -> dict[str, Any]:
    try:
        body = json_object(header_object(raw)["__metadata__"][METADATA_KEY])
        body["version"]  # the one field that every version will have
        return body
    except KeyError as error:
        raise FormatError(f"{NOT_PACKED} (no {error} in it)") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise FormatError(f"{NOT_PACKED} ({error})") from error


def _tables(metadata: _Metadata) -> Tables:
    for key, entries, n_parts in (
        ("kept", metadata.kept, 2),
        ("exact", metadata.exact, 3),
    ):
        for entry in entries:
            if len(entry) != n_parts:
                raise FormatError(f"its tables are malformed: {shown(entry)} in {key!r} should have {n_parts} parts")
    codes = tuple(_code(entry, may_list=not isinstance(metadata, _MetadataV1)) for entry in metadata.codes)
    listed = tuple((_name(name), _shape(shape)) for name, shape in metadata.kept)
    exact = tuple((_name(name), _shape(shape), _exact_dtype(name, dtype)) for name, shape, dtype in metadata.exact)
    if isinstance(metadata, _MetadataV1):
        named = {name for name, _ in listed}
        layers = tuple(_layer_v1(entry, named) for entry in metadata.layers)
        kept, folded = listed, tuple(metadata.folded)
    else:
        layers = tuple(_layer(entry) for entry in metadata.layers)
        kept = (*_layers_kept(layers), *listed)
        folded = tuple(layer.folded_norm for layer in layers if layer.folded_norm)
    for layer in layers:
        if not all(0 <= index < len(codes) for index in layer.planes):
            raise FormatError(f"layer {shown(layer.name)} names a code by what is no index of the {len(codes)} codes")
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


def _layer(entry: list[Any]) -> LayerEntry:
    if not 3 <= len(entry) <= 5:
        raise FormatError(f"the layer table's entry {shown(entry)} is malformed: it has {len(entry)} parts")
    bias = entry[3] if len(entry) > 3 else 0
    if not ((type(bias) is int and bias in (0, 1)) or (isinstance(bias, str) and bias != "")):
        raise FormatError(f"the layer table's entry of {shown(entry[0])} is malformed: its bias is {shown(bias)}")
    return _checked(entry, bool(bias), bias if isinstance(bias, str) else "", entry[4] if len(entry) > 4 else 0)


def _layer_v1(entry: list[Any], kept_names: set[str]) -> LayerEntry:
    if not 3 <= len(entry) <= 4 or entry[2] == []:
        raise FormatError(f"the layer table's entry {shown(entry)} is malformed")
    has_bias = (f"{entry[0]}.bias" if entry[0] else "bias") in kept_names
    return _checked(entry, has_bias, "", entry[3] if len(entry) > 3 else 0)


def _checked(entry: list[Any], has_bias: bool, norm: str, groups: Any) -> LayerEntry:
    name, shape, planes, *_ = entry
    sizes = _shape(shape)
    indices = isinstance(planes, list) and all(type(index) is int for index in planes)
    if not isinstance(name, str) or not indices or type(groups) is not int:
        raise FormatError(f"the layer table's entry of {shown(name)} is malformed")
    if not 2 <= len(sizes) <= MAX_WEIGHT_DIMS or (planes and elements(sizes) < 1):
        raise FormatError(
            f"the layer table's entry of {shown(name)} is malformed: no weight has the shape {shown(shape)}"
        )
    if groups < 0 or (groups and sizes[0] % groups):
        raise FormatError(f"layer {shown(name)}: {shown(groups)} groups do not divide {sizes[0]} channels")
    header_bytes = len(json.dumps(metadata_text(entry))) - len('""') + len(",")
    return LayerEntry(name, sizes, tuple(planes), has_bias, norm, groups, header_bytes)


def _code(entry: list[int], *, may_list: bool) -> tuple[int, int, bool]:
    if not (len(entry) == 2 or (may_list and len(entry) == 3 and entry[2] in (0, 1))):
        raise FormatError(f"its tables are malformed: {shown(entry)} in 'codes' should be n_in, n_out and 0 or 1")
    n_in, n_out, listed = (*entry, 0)[:3]
    if not 1 <= n_in <= n_out <= MAX_N_OUT:
        raise FormatError(
            f"a code of {shown(n_in)} inputs and {shown(n_out)} outputs is outside 1 <= n_in <= n_out <= {MAX_N_OUT}"
        )
    return n_in, n_out, bool(listed)


def _name(name: Any) -> str:
    if not isinstance(name, str):
        raise FormatError(f"a name in its tables is not a string: {shown(name)}")
    return name


def _shape(shape: Any) -> Shape:
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise FormatError(f"a shape must be a list of sizes, got {shown(shape)}")
    if len(shape) > MAX_DIMS or elements(tuple(size or 1 for size in shape)) >= MAX_ELEMENTS:
        raise FormatError(f"no tensor has the shape {shown(shape)}: too many axes or elements")
    return tuple(shape)


def _exact_dtype(name: Any, dtype: Any) -> str:
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES or dtype.startswith(("float", "bfloat")):
        raise FormatError(f"tensor {shown(name)} has the dtype {shown(dtype)}, which is not stored exactly")
    return dtype
