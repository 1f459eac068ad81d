"""ONNX that decodes itself: one file with the packed weights inside and a graph that turns them into logits.

The size is that of the packed file plus the graph, never that of float weights. The quantized part is stored as in the
safetensors file, in the initializers `payload`, `scales` and `codes` and a metadata entry `flexor` of the same layer
table, so that one reader checks both. The SHA-256 covers every byte of the file, as there.

This module imports onnx; import it where it is needed, not at the top of a module.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from flexor_search.codes import XorCode
from flexor_search.errors import FormatError, ModelError
from flexor_search.files import write_atomically
from flexor_search.packing.container import json_object
from flexor_search.packing.onnx_decoder import decode_kept, decode_layers
from flexor_search.packing.onnx_export import IMAGES, LOGITS, export_with_weights_as_inputs, value_of
from flexor_search.packing.onnx_nodes import OPSET, NodeList, every_node, shrink, used_values
from flexor_search.packing.packed_model import PackedLayer, PackedModel
from flexor_search.packing.safetensors_file import assemble, named, read_bytes
from flexor_search.packing.tables import parse_tables
from flexor_search.packing.unpack import unpack_into
from flexor_search.planning.file_layout import FORMAT_VERSION as TABLES_VERSION
from flexor_search.planning.file_layout import HASH_FIELD, METADATA_KEY, metadata_text

FORMAT_VERSION = 1
IR_VERSION = 8  # the first that has opset 18
STORED = ("payload", "scales", "codes", "kept")
EXACT = "."  # begins the name of a tensor that is stored exactly; names in a model never begin so
_HASH_MARK = b'"sha256":"'


@dataclass(frozen=True)
class OnnxFile:
    """A file that was read, its hash and tables checked.

    Attributes:
        raw: its bytes.
        model: the parsed graph.
        layers: the quantized layers that it stores.
        kept: the kept tensors that it stores, one behind the other.
        exact: by name the integer tensors that it stores.
        unused: quantized layers of the packed model that the graph does not need, so that they are not stored.
        unused_kept: kept tensors of the packed model likewise.
    """

    raw: bytes
    model: ModelProto
    layers: tuple[PackedLayer, ...]
    kept: NDArray[np.floating]
    exact: dict[str, NDArray[np.generic]]
    unused: tuple[str, ...]
    unused_kept: tuple[str, ...]


def save_onnx(packed: PackedModel, model: nn.Module, example: Tensor, path: Path) -> None:
    """Write a packed model as an ONNX file, whole or not at all.

    Args:
        packed: what to store.
        model: a fresh plain instance of its architecture; it gets the decoded weights, as `unpack_into` does.
        example: a float32 batch of inputs.
        path: of the file.

    Raises:
        UsageError: the example is empty.
        ModelError: of another architecture, or the exporter cannot express the model for any batch size.
    """
    write_atomically(path, to_onnx_bytes(packed, model, example))


def to_onnx_bytes(packed: PackedModel, model: nn.Module, example: Tensor) -> bytes:
    """The bytes that `save_onnx` writes."""
    weights = {layer.name: value_of(layer.weight_name) for layer in packed.layers}
    names = [*(layer.weight_name for layer in packed.layers), *packed.kept, *packed.exact]
    exported = export_with_weights_as_inputs(unpack_into(packed, model), names, example)
    graph, used = exported.graph, used_values(exported.graph)
    layers = tuple(layer for layer in packed.layers if weights[layer.name] in used)
    codes = tuple(dict.fromkeys(code for layer in layers for code in layer.codes))
    nodes = NodeList()
    if layers:
        decode_layers(nodes, layers, codes, weights, IMAGES)
    dtypes = {value.name: value.type.tensor_type.elem_type for value in graph.input}
    kept = {value_of(name): value for name, value in packed.kept.items() if value_of(name) in used}
    if kept:
        decode_kept(nodes, kept, dtypes)
    for name, value in packed.exact.items():
        if value_of(name) in used:
            nodes.stored(value_of(name), value)
    del graph.input[1:]
    net = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes.nodes, *net])
    graph.initializer.extend(nodes.initializers.values())
    graph.name = "flexor"
    readable = {name: name for name in (IMAGES, LOGITS, *STORED)}
    readable |= {weights[layer.name]: layer.weight_name for layer in layers}
    readable |= {value_of(name): EXACT + name for name in packed.exact}
    shrink(graph, readable)
    metadata = _metadata(packed.model_name, layers, codes)
    metadata["unused"] = [layer.name for layer in packed.layers if weights[layer.name] not in used]
    metadata["unused_kept"] = [name for name in packed.kept if value_of(name) not in used]
    return _signed(graph, metadata)


def read_onnx(path: Path) -> OnnxFile:
    """Read an ONNX file of ours; nothing of its graph is run.

    Raises:
        FormatError: not readable, no ONNX, not ours, cut short, changed, or from a newer format version.
    """
    raw = read_bytes(path)
    with named(path):
        return _from_bytes(raw)


def _metadata(model_name: str, layers: tuple[PackedLayer, ...], codes: tuple[XorCode, ...]) -> dict[str, Any]:
    index = {code: position for position, code in enumerate(codes)}
    table = []
    for layer in layers:
        groups = [0, layer.transposed_groups] if layer.transposed_groups else []  # 0: no bias is stored
        table.append([layer.name, list(layer.weight_shape), [index[code] for code in layer.codes], *groups])
    return {
        "version": FORMAT_VERSION,
        "sha256": HASH_FIELD,
        "model": model_name,
        "codes": [[code.n_in, code.n_out] for code in codes],
        "layers": table,
    }


def _signed(graph: onnx.GraphProto, metadata: dict[str, Any]) -> bytes:
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="flexor-search"
    )
    helper.set_model_props(model, {METADATA_KEY: metadata_text(metadata)})
    try:
        raw = model.SerializeToString(deterministic=True)
    except ValueError as error:  # protobuf's limit of 2 GiB
        raise ModelError(f"model: is too large for one ONNX file: {error}") from error
    return _with_hash(raw, hashlib.sha256(raw).hexdigest())


def _with_hash(raw: bytes, digest: str) -> bytes:
    start = raw.rindex(_HASH_MARK) + len(_HASH_MARK)
    return raw[:start] + digest.encode() + raw[start + len(HASH_FIELD) :]


def _from_bytes(raw: bytes) -> OnnxFile:
    model = ModelProto()
    try:
        model.ParseFromString(raw)
    except DecodeError as error:
        raise FormatError("it is no ONNX file, or it is cut short or damaged") from error
    body = _read_body(model)
    digest = body["sha256"]
    if _HASH_MARK not in raw:
        raise FormatError(f"its '{METADATA_KEY}' metadata is damaged")
    if hashlib.sha256(_with_hash(raw, HASH_FIELD)).hexdigest() != digest or _with_hash(raw, digest) != raw:
        raise FormatError("its SHA-256 does not match its bytes: the file was changed or damaged; export it again")
    if any(tensor.data_location == TensorProto.EXTERNAL for tensor in _tensors(model.graph)):
        raise FormatError("it refers to tensors in other files; a packed model is one file")
    unused, unused_kept = _names(body, "unused"), _names(body, "unused_kept")
    try:
        tensors = _initializers(model.graph)
        stored = {name: tensors[name].reshape(-1) for name in STORED if name in tensors}
        # One tensor for the tables, whatever it consists of: the graph knows where it is cut.
        kept = [["kept", [stored["kept"].size]]] if "kept" in stored else []
        tables = parse_tables(body | {"version": TABLES_VERSION, "kept": kept, "exact": []})
        packed = assemble(tables, stored)
    except (ValueError, TypeError, IndexError, KeyError, OverflowError) as error:
        raise FormatError(f"its layer table does not describe its tensors: {error}") from error
    both = [layer.name for layer in packed.layers if layer.name in unused]
    if both:
        raise FormatError(f"its metadata field 'unused' lists a layer that it stores: {', '.join(both)}")
    exact = {name.removeprefix(EXACT): value for name, value in tensors.items() if name.startswith(EXACT)}
    flat = packed.kept.get("kept", np.zeros(0, packed.kept_dtype))
    return OnnxFile(raw, model, packed.layers, flat, exact, unused, unused_kept)


def _names(body: dict[str, Any], field: str) -> tuple[str, ...]:
    """Take a list of names out of the metadata."""
    names = body.pop(field, None)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise FormatError(f"its metadata field {field!r} is no list of names")
    if len(set(names)) != len(names):
        raise FormatError(f"its metadata field {field!r} lists a name twice")
    return tuple(names)


def _initializers(graph: onnx.GraphProto) -> dict[str, NDArray]:
    """The stored tensors by name: those of the format, and the exact ones."""
    ours = [tensor for tensor in graph.initializer if tensor.name in STORED or tensor.name.startswith(EXACT)]
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in ours}
    if len(found) != len(ours):
        raise FormatError("it stores a tensor twice")
    return found


def _read_body(model: ModelProto) -> dict[str, Any]:
    """The metadata entry, of a version that this program reads."""
    texts = [entry.value for entry in model.metadata_props if entry.key == METADATA_KEY]
    if not texts:
        raise FormatError(f"it is not a packed ONNX file: no '{METADATA_KEY}' metadata")
    if len(texts) > 1:
        raise FormatError(f"it has {len(texts)} '{METADATA_KEY}' metadata entries")
    (text,) = texts
    try:
        body = json_object(text)
        version, digest = body["version"], body["sha256"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FormatError(f"its '{METADATA_KEY}' metadata is damaged") from error
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise FormatError(
            f"it has format version {version}, this program reads up to {FORMAT_VERSION}; update flexor-search"
        )
    if (
        type(version) is not int
        or version != FORMAT_VERSION
        or not isinstance(digest, str)
        or len(digest) != len(HASH_FIELD)
    ):
        raise FormatError(f"its '{METADATA_KEY}' metadata is damaged")
    return body


def _tensors(graph: onnx.GraphProto) -> list[TensorProto]:
    """All tensors of a graph, those in attributes included."""
    attributes = [attribute for node in every_node(graph) for attribute in node.attribute]
    inside = [tensor for attribute in attributes for tensor in (attribute.t, *attribute.tensors)]
    bodies = [body for attribute in attributes for body in (attribute.g, *attribute.graphs)]
    return [*graph.initializer, *inside, *(tensor for body in bodies for tensor in body.initializer)]
