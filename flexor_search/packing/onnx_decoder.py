"""The part of an ONNX graph that turns stored planes into weights, of standard operators only.

Stored bits come out of their bytes once for the whole payload. The operators that decode a layer cost more bytes than
many a small layer, if each has its own; but a code does not care whose slices it decodes. So all layers with the same
codes lie side by side, with a row for each stored plane and their slices as columns, go through one product with the
0/1 matrices of their codes, taken modulo 2 (docs/format.md: bits of row r are the XOR of whole stored planes), and are
cut apart again. What is left for each layer is to give its signs their shape and to multiply them by its scales. That
is exact, and planes are added in order, as the reference decoder does.

onnxruntime computes at load whatever depends on constants alone, and would keep every weight as a float. Listing the
payload as a graph input prevents it, at the price of a warning at every load. Here the shift that takes bits out of
bytes depends on the batch size instead, by a term that is always zero.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from flexor_search.codes import XorCode, plane_bytes
from flexor_search.packing.onnx_nodes import NodeList
from flexor_search.packing.packed_model import PackedLayer

Codes: TypeAlias = tuple[XorCode, ...]
"""Codes of planes that decode in one product; they are of one size."""
Place: TypeAlias = tuple[int, int]
"""Index of a layer, and the first of its planes that is meant."""

WEIGHTS_TOGETHER = 2**21
"""What one product decodes at most, if it has several layers: its sums take four bytes a weight."""


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
    places = {(number, first): group for number, layer in enumerate(layers) for first, group in _products(layer.codes)}
    signs = dict(_signs(nodes, layers, codes, places, images))
    scales = _split_scales(nodes, layers, places)
    for number, layer in enumerate(layers):
        terms: list[str] = []
        for place, group in places.items():
            if place[0] == number:
                values = nodes.add("Mul", [signs[place], scales[place]])
                terms += nodes.split(values, [1] * len(group))
        total = reduce(lambda total, term: nodes.add("Add", [total, term]), terms)
        if (number, len(layer.codes) - 1) not in places or _blocks(layer)[0] != layer.weight_shape:
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


def _products(codes: Codes) -> list[tuple[int, Codes]]:
    """The planes of a layer that decode together, and the first of them: all if their codes are of one size."""
    same = len({(code.n_in, code.n_out) for code in codes}) == 1
    return [(0, codes)] if same else [(plane, (code,)) for plane, code in enumerate(codes)]


def _signs(
    nodes: NodeList,
    layers: Sequence[PackedLayer],
    codes: Sequence[XorCode],
    places: Mapping[Place, Codes],
    images: str,
) -> Iterator[tuple[Place, str]]:
    """The signs of each place, 1 or -1 in float32, in the shape in which scales broadcast over them."""
    matrices = _matrices(nodes, codes)
    stacks = {
        group: _stack(nodes, [matrices[code] for code in group], group[0]) for group in dict.fromkeys(places.values())
    }
    payload = nodes.stored("payload", _column([plane for layer in layers for plane in layer.planes]))
    sizes = [
        8 * sum(plane.size for plane in layers[layer].planes[first : first + len(group)])
        for (layer, first), group in places.items()
    ]
    stored = dict(zip(places, nodes.split(_bits(nodes, payload, _shifts(nodes, images)), sizes), strict=True))
    for group, members in _gathered(layers, places):
        lead = _lead(group)
        rows = [nodes.reshape(stored[place], (*lead, group[0].n_in, -1)) for place in members]
        product = nodes.add("MatMulInteger", [stacks[group], nodes.concat(rows, len(lead) + 1)])
        bit = nodes.add("Cast", [_last_bit(nodes, product, np.int32)], attributes={"to": TensorProto.BOOL})
        # Not Where(bit, scale, -scale) later: onnxruntime's Where loses the sign of a negative zero.
        sign = nodes.add("Where", [bit, *(nodes.constant(np.array(one, np.float32)) for one in (1, -1))])
        yield from _cut_apart(nodes, sign, {place: layers[place[0]] for place in members}, group)


def _gathered(layers: Sequence[PackedLayer], places: Mapping[Place, Codes]) -> Iterator[tuple[Codes, list[Place]]]:
    """The products: codes, and the places that they decode, in order and not too many at once."""
    for group in dict.fromkeys(places.values()):
        members, n_weights = [], 0
        for place in (place for place, its in places.items() if its == group):
            more = layers[place[0]].n_weights * len(group)
            if members and n_weights + more > WEIGHTS_TOGETHER:
                yield group, members
                members, n_weights = [], 0
            members, n_weights = [*members, place], n_weights + more
        yield group, members


def _cut_apart(
    nodes: NodeList, sign: str, layers: Mapping[Place, PackedLayer], group: Codes
) -> Iterator[tuple[Place, str]]:
    """Signs of one product -> those of each place. The last bits of bytes, and then surplus weights, are dropped."""
    lead, n_out = _lead(group), group[0].n_out
    n_slices = [-(-layer.n_weights // n_out) for layer in layers.values()]
    columns = _split_used(nodes, sign, [(count, 8 * plane_bytes(count)) for count in n_slices], len(lead) + 1)
    rows: dict[Place, str] = {}
    for (place, layer), count, piece in zip(layers.items(), n_slices, columns, strict=True):
        if count * n_out == layer.n_weights:
            yield place, nodes.reshape(piece, lead + _blocks(layer)[0])
        else:
            rows[place] = nodes.reshape(piece, (*lead, -1))
    if not rows:
        return
    widths = [(layers[place].n_weights, -(-layers[place].n_weights // n_out) * n_out) for place in rows]
    used = _split_used(nodes, nodes.concat(list(rows.values()), len(lead)), widths, len(lead))
    for place, piece in zip(rows, used, strict=True):
        yield place, nodes.reshape(piece, lead + _blocks(layers[place])[0])


def _split_used(nodes: NodeList, value: str, widths: Sequence[tuple[int, int]], axis: int) -> list[str]:
    """Cut a value into pieces of which only the first entries are used: (how many, of how many) for each piece."""
    sizes = [size for used, width in widths for size in (used, width - used)]
    pieces = iter(nodes.split(value, [size for size in sizes if size], axis=axis))
    found = [next(pieces) if size else "" for size in sizes]
    return found[::2]


def _lead(group: Codes) -> tuple[int, ...]:
    """The axis of planes, where more than one decode together."""
    return (len(group),) if len(group) > 1 else ()


def _split_scales(nodes: NodeList, layers: Sequence[PackedLayer], places: Mapping[Place, Codes]) -> dict[Place, str]:
    """The scales of each place in float32, in a shape that broadcasts over its signs."""
    blocks = {place: (_lead(group), _blocks(layers[place[0]])[1]) for place, group in places.items()}
    tails = Counter(shape[1:] for lead, shape in blocks.values() if not lead and set(shape[1:]) <= {1})
    common = tails.most_common(1)[0][0] if tails else ()  # what most layers need, they have from the start
    stored = np.concatenate([layer.scale.ravel() for layer in layers]).reshape(-1, *common)
    ready = _as_float32(nodes, nodes.stored("scales", stored), stored.dtype)
    pieces = nodes.split(ready, [int(np.prod(lead + shape)) for lead, shape in blocks.values()])
    found: dict[Place, str] = {}
    for (place, (lead, shape)), piece in zip(blocks.items(), pieces, strict=True):
        channels = -1 if set(shape[1:]) <= {1} else shape[0]  # so that one constant serves layers of any width
        is_ready = not lead and shape[1:] == common
        found[place] = piece if is_ready else nodes.reshape(piece, (*lead, channels, *shape[1:]))
    return found


def _blocks(layer: PackedLayer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of a weight and of its scales such that the scales broadcast; a transposed convolution has its groups."""
    shape, groups = layer.weight_shape, layer.transposed_groups
    if not groups:
        return shape, (shape[0], *(1,) * (len(shape) - 1))
    if groups == 1:
        return shape, (1, shape[1], *(1,) * (len(shape) - 2))
    taps = int(np.prod(shape[2:]))
    return (groups, shape[0] // groups, shape[1], taps), (groups, 1, shape[1], 1)


def _as_float32(nodes: NodeList, value: str, dtype: np.dtype) -> str:
    return value if dtype == np.float32 else nodes.add("Cast", [value], attributes={"to": TensorProto.FLOAT})


def _matrices(nodes: NodeList, codes: Sequence[XorCode]) -> dict[XorCode, str]:
    """The 0/1 matrix of each code, uint8, shape (1, n_out, n_in rounded up to whole bytes)."""
    rows = [np.packbits(code.matrix, axis=1, bitorder="little") for code in codes]  # as docs/format.md says
    bits = _bits(nodes, nodes.stored("codes", _column(rows)), nodes.constant(np.arange(8, dtype=np.uint8)))
    pieces = nodes.split(bits, [8 * row.size for row in rows])
    return {code: nodes.reshape(piece, (1, code.n_out, -1)) for code, piece in zip(codes, pieces, strict=True)}


def _stack(nodes: NodeList, matrices: Sequence[str], code: XorCode) -> str:
    """The matrices of a product's codes, shape (n_out, n_in) for one, (planes, n_out, n_in) for more."""
    stack = nodes.concat(matrices, 0)
    if code.n_in % 8:
        stack = nodes.add("Slice", [stack, *(nodes.integers([number]) for number in (0, code.n_in, 2))])
    return stack if len(matrices) > 1 else nodes.reshape(stack, (code.n_out, code.n_in))


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


def _column(parts: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    return np.concatenate([part.ravel() for part in parts]).reshape(-1, 1)
