"""The part of an ONNX graph that turns stored planes into weights, of standard operators only.

Stored bits come out of their bytes once for the whole payload; then each plane is a product with its code's 0/1 matrix,
taken modulo 2 (docs/format.md: bits of row r are the XOR of whole stored planes). Signs times scales are exact, and
planes are added in order, as the reference decoder does. Where a layer's codes have one shape, its planes share one
product, so that planes after the second cost the graph about 30 bytes each.

onnxruntime computes at load whatever depends on constants alone, and would keep every weight as a float. Listing the
payload as a graph input prevents it, at the price of a warning at every load. Here the shift that takes bits out of
bytes depends on the batch size instead, by a term that is always zero.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from flexor_search.codes import XorCode, plane_bytes
from flexor_search.packing.onnx_nodes import NodeList
from flexor_search.packing.packed_model import PackedLayer

Group: TypeAlias = tuple[XorCode, ...]
"""Codes of consecutive planes of a layer that decode together."""


def decode_layers(
    nodes: NodeList, layers: Sequence[PackedLayer], codes: Sequence[XorCode], names: Mapping[str, str], images: str
) -> None:
    """Add what decodes the weights of quantized layers.

    Args:
        nodes: to add to; its tensors `payload`, `scales` and `codes` are made here.
        layers: at least one.
        codes: the distinct codes of their planes.
        names: layer name -> name of its weight.
        images: a value whose first dimension is the batch size.
    """
    groups = {layer.name: _groups(layer.codes) for layer in layers}
    stacks = _stacks(nodes, codes, [group for of_layer in groups.values() for group in of_layer])
    bits = _split_bits(nodes, layers, groups, images)
    scales = _split_scales(nodes, layers, groups)
    for layer in layers:
        shape, scale_shape = _blocks(layer)
        terms: list[str] = []
        for group in groups[layer.name]:
            lead = (len(group),) if len(group) > 1 else ()
            bit = nodes.reshape(_weight_bits(nodes, next(bits), stacks[group], group, layer.n_weights), lead + shape)
            # Not Where(bit, scale, -scale): onnxruntime's Where loses the sign of a negative zero.
            sign = nodes.add("Where", [bit, *(nodes.constant(np.array(one, np.float32)) for one in (1, -1))])
            values = nodes.add("Mul", [sign, nodes.reshape(next(scales), lead + scale_shape)])
            terms += nodes.split(values, [1] * len(group)) if lead else [values]
        total = reduce(lambda total, term: nodes.add("Add", [total, term]), terms)
        if len(groups[layer.name]) < len(layer.codes) or shape != layer.weight_shape:
            nodes.reshape(total, layer.weight_shape)
        nodes.name_last(names[layer.name])


def decode_kept(nodes: NodeList, kept: Mapping[str, NDArray[np.floating]], onnx_dtypes: Mapping[str, int]) -> None:
    """Add what gives kept tensors their shape and dtype; they are stored as one tensor, `kept`.

    Args:
        nodes: to add to.
        kept: by name, at least one.
        onnx_dtypes: by name, what the graph expects.
    """
    stored = nodes.stored("kept", np.concatenate([value.ravel() for value in kept.values()]))
    flat = _as_float32(nodes, stored, next(iter(kept.values())).dtype)
    ready = [value.ndim == 1 and onnx_dtypes[name] == TensorProto.FLOAT for name, value in kept.items()]
    names = [name if is_ready else "" for name, is_ready in zip(kept, ready, strict=True)]
    pieces = nodes.split(flat, [value.size for value in kept.values()], names)
    for piece, (name, value), is_ready in zip(pieces, kept.items(), ready, strict=True):
        if is_ready:
            continue
        if onnx_dtypes[name] == TensorProto.FLOAT:
            nodes.reshape(piece, value.shape, name)
        else:
            nodes.add("Cast", [nodes.reshape(piece, value.shape)], name, {"to": onnx_dtypes[name]})


def _groups(codes: tuple[XorCode, ...]) -> list[Group]:
    """The planes that decode in one product: all of a layer if their codes are of one shape, else each alone."""
    same = len({(code.n_in, code.n_out) for code in codes}) == 1
    return [codes] if same else [(code,) for code in codes]


def _weight_bits(nodes: NodeList, bits: str, stack: str, group: Group, n_weights: int) -> str:
    """Stored bits of a group, flat and padded -> its weight bits as booleans, flat, or a row for each plane."""
    (n_in, n_out), lead = (group[0].n_in, group[0].n_out), (len(group),) if len(group) > 1 else ()
    n_slices = -(-n_weights // n_out)
    product = nodes.add("MatMulInteger", [stack, nodes.reshape(bits, (*lead, n_in, 8 * plane_bytes(n_slices)))])
    output = nodes.add("Cast", [_last_bit(nodes, product, np.int32)], attributes={"to": TensorProto.BOOL})
    if n_slices % 8:
        output = _first(nodes, output, n_slices)
    if n_slices * n_out > n_weights:
        output = _first(nodes, nodes.reshape(output, (*lead, n_slices * n_out)), n_weights)
    return output


def _blocks(layer: PackedLayer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of a weight and of its scales such that the scales broadcast; a transposed convolution has its groups."""
    shape, groups = layer.weight_shape, layer.transposed_groups
    if not groups:
        return shape, (shape[0], *(1,) * (len(shape) - 1))
    if groups == 1:
        return shape, (1, shape[1], *(1,) * (len(shape) - 2))
    taps = int(np.prod(shape[2:]))
    return (groups, shape[0] // groups, shape[1], taps), (groups, 1, shape[1], 1)


def _split_bits(
    nodes: NodeList, layers: Sequence[PackedLayer], groups: Mapping[str, list[Group]], images: str
) -> Iterator[str]:
    """The stored bits of each group, flat."""
    payload = nodes.stored("payload", _column([plane for layer in layers for plane in layer.planes]))
    sizes = []
    for layer in layers:
        planes = iter(layer.planes)
        sizes += [8 * sum(next(planes).size for _ in group) for group in groups[layer.name]]
    return iter(nodes.split(_bits(nodes, payload, _shifts(nodes, images)), sizes))


def _split_scales(nodes: NodeList, layers: Sequence[PackedLayer], groups: Mapping[str, list[Group]]) -> Iterator[str]:
    """The scales of each group in float32, flat."""
    stored = nodes.stored("scales", np.concatenate([layer.scale.ravel() for layer in layers]))
    flat = _as_float32(nodes, stored, layers[0].scale.dtype)
    sizes = [len(group) * layer.scale.shape[1] for layer in layers for group in groups[layer.name]]
    return iter(nodes.split(flat, sizes))


def _as_float32(nodes: NodeList, value: str, dtype: np.dtype) -> str:
    return value if dtype == np.float32 else nodes.add("Cast", [value], attributes={"to": TensorProto.FLOAT})


def _stacks(nodes: NodeList, codes: Sequence[XorCode], groups: Sequence[Group]) -> dict[Group, str]:
    """The 0/1 matrices of each group, uint8, shape (n_out, n_in) or for larger groups (planes, n_out, n_in)."""
    rows = [np.packbits(code.matrix, axis=1, bitorder="little") for code in codes]  # as docs/format.md says
    bits = _bits(nodes, nodes.stored("codes", _column(rows)), nodes.constant(np.arange(8, dtype=np.uint8)))
    matrices: dict[XorCode, str] = {}
    for code, row, piece in zip(codes, rows, nodes.split(bits, [8 * row.size for row in rows]), strict=True):
        matrix = nodes.reshape(piece, (1, code.n_out, 8 * row.shape[1]))
        matrices[code] = _first(nodes, matrix, code.n_in) if code.n_in % 8 else matrix
    stacks: dict[Group, str] = {}
    for group in dict.fromkeys(groups):
        parts = [matrices[code] for code in group]
        if len(parts) > 1:
            stacks[group] = nodes.add("Concat", parts, attributes={"axis": 0})
        else:
            stacks[group] = nodes.reshape(parts[0], (group[0].n_out, group[0].n_in))
    return stacks


def _shifts(nodes: NodeList, images: str) -> str:
    """The shifts 0 to 7, in a way that no optimizer computes before it sees a batch: batch sizes are not below 0."""
    batch = nodes.add("Shape", [images], attributes={"start": 0, "end": 1})
    zero = nodes.add("Min", [batch, nodes.integers([0])])
    return nodes.add("Cast", [nodes.add("Add", [zero, nodes.integers(range(8))])], attributes={"to": TensorProto.UINT8})


def _bits(nodes: NodeList, column: str, shifts: str) -> str:
    """Bytes, shape (n, 1) -> their bits, uint8, shape (8 n,), least significant first."""
    shifted = nodes.add("BitShift", [column, shifts], attributes={"direction": "RIGHT"})
    return nodes.reshape(_last_bit(nodes, shifted, np.uint8), (-1,))


def _last_bit(nodes: NodeList, value: str, dtype: type[np.generic]) -> str:
    return nodes.add("BitwiseAnd", [value, nodes.constant(np.array(1, dtype))])


def _first(nodes: NodeList, value: str, count: int) -> str:
    """The first entries along the last axis."""
    return nodes.add("Slice", [value, *(nodes.integers([number]) for number in (0, count, -1))])


def _column(parts: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    return np.concatenate([part.ravel() for part in parts]).reshape(-1, 1)
