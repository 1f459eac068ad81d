"""A list of ONNX nodes that grows: fresh value names, each constant once, and no name longer than it must be."""

import itertools
import string
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, defs, helper, numpy_helper

OPSET = 18
WEIGHTED = {"Conv", "ConvTranspose"}
WINDOWED = WEIGHTED | {"MaxPool", "AveragePool"}
WINDOW_DEFAULTS = {"strides": 1, "dilations": 1, "pads": 0, "output_padding": 0}
"""Attributes with one number for each axis; their defaults stand in the text of the standard, not in its schemas."""


class NodeList:
    """Nodes and initializers of a graph under construction; every value has a name that no other value has.

    Attributes:
        nodes: in an order in which they can run.
        initializers: constants and stored tensors by name.
    """

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.initializers: dict[str, TensorProto] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._fresh = (f"flexor:{count}" for count in itertools.count())

    def add(self, op: str, inputs: Sequence[str], name: str = "", attributes: dict[str, Any] | None = None) -> str:
        """Append a node with one output.

        Args:
            op: operator of the standard domain.
            inputs: names of its inputs.
            name: of its output, a fresh one if empty.
            attributes: of the node.

        Returns:
            The output's name.
        """
        output = name or next(self._fresh)
        self.nodes.append(helper.make_node(op, list(inputs), [output], **(attributes or {})))
        return output

    def split(self, value: str, sizes: Sequence[int], names: Sequence[str] = (), axis: int = 0) -> list[str]:
        """Cut a value, and return the names of the pieces; one piece without a name is the value itself.

        Args:
            value: to cut.
            sizes: of the pieces; they add up to the length of the axis.
            names: of the pieces, fresh ones if empty or not given.
            axis: along which.
        """
        if len(sizes) == 1 and not any(names):
            return [value]
        outputs = [name or next(self._fresh) for name in names or [""] * len(sizes)]
        self.nodes.append(helper.make_node("Split", [value, self.integers(sizes)], outputs, axis=axis))
        return outputs

    def concat(self, values: Sequence[str], axis: int) -> str:
        """Put values one behind the other; one value is itself."""
        return self.add("Concat", values, attributes={"axis": axis}) if len(values) > 1 else values[0]

    def reshape(self, value: str, shape: Sequence[int], name: str = "") -> str:
        """Reshape a value; 0 is a size like any other, and -1 stands for what is left."""
        return self.add("Reshape", [value, self.integers(shape)], name, {"allowzero": 1} if 0 in shape else None)

    def name_last(self, name: str) -> None:
        """Rename the output of the newest node, which nothing reads yet."""
        self.nodes[-1].output[0] = name

    def integers(self, values: Sequence[int]) -> str:
        """The name of a constant int64 vector."""
        return self.constant(np.array(values, np.int64))

    def constant(self, values: NDArray) -> str:
        """The name of a constant, equal ones stored once."""
        key = (values.dtype.str, values.shape, values.tobytes())
        if key not in self._constants:
            self._constants[key] = self.stored(next(self._fresh), values)
        return self._constants[key]

    def stored(self, name: str, values: NDArray) -> str:
        """Add a tensor under its own name, and return the name."""
        self.initializers[name] = numpy_helper.from_array(values, name)
        return name


def rename(graph: GraphProto, renamed: Callable[[str], str]) -> None:
    """Give every value of a graph another name; an empty name says that there is no value, and stays."""
    for value in (*graph.initializer, *graph.input, *graph.output):
        value.name = renamed(value.name)
    for node in graph.node:
        node.input[:] = [renamed(name) if name else name for name in node.input]
        node.output[:] = [renamed(name) if name else name for name in node.output]
        for body in subgraphs(node):
            rename(body, renamed)


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """The bodies of a control-flow node."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def every_node(graph: GraphProto) -> Iterator[NodeProto]:
    """All nodes of a graph and of the bodies in it."""
    for node in graph.node:
        yield node
        for body in subgraphs(node):
            yield from every_node(body)


def used_values(graph: GraphProto) -> set[str]:
    """Names that some node reads, or that are outputs of the graph."""
    read = {name for node in every_node(graph) for name in node.input}
    bodies = (body for node in every_node(graph) for body in subgraphs(node))
    return read | {output.name for body in (graph, *bodies) for output in body.output}


def shrink(graph: GraphProto, readable: Mapping[str, str]) -> None:
    """Take away everything that is only size: names, documentation, inferred shapes, equal constants.

    Args:
        graph: changed in place.
        readable: value -> the name that it gets; all others get short ones, those read most the shortest.
    """
    _strip(graph)
    _shorten_integers(graph)
    same = _drop_equal_initializers(graph, readable)
    seen: Counter[str] = Counter()

    def counted(name: str) -> str:
        name = same.get(name, name)
        seen[name] += 1
        return name

    rename(graph, counted)
    taken = set(readable.values())
    names = (name for name in _short_names() if name not in taken)
    short = {name: next(names) for name, _ in seen.most_common() if name not in readable}
    rename(graph, lambda name: readable.get(name) or short[name])


def _strip(graph: GraphProto) -> None:
    del graph.value_info[:]
    del graph.quantization_annotation[:]
    del graph.metadata_props[:]
    graph.doc_string = ""
    for value in (*graph.initializer, *graph.input, *graph.output):
        value.doc_string = ""
        del value.metadata_props[:]
    for node in graph.node:
        for field in ("name", "doc_string", "overload"):
            node.ClearField(field)
        del node.metadata_props[:]
        told = [attribute for attribute in node.attribute if not _is_default(node, attribute)]
        del node.attribute[:]
        node.attribute.extend(told)
        for attribute in node.attribute:
            attribute.ClearField("doc_string")
        for body in subgraphs(node):
            _strip(body)


def _shorten_integers(graph: GraphProto) -> None:
    """Store int64 constants as varints where that is shorter: a small size takes one byte instead of eight."""
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.INT64 and tensor.raw_data:
            short = TensorProto()
            short.CopyFrom(tensor)
            short.ClearField("raw_data")
            short.int64_data.extend(numpy_helper.to_array(tensor).ravel().tolist())
            if short.ByteSize() < tensor.ByteSize():
                tensor.CopyFrom(short)


def _is_default(node: NodeProto, attribute: AttributeProto) -> bool:
    """Whether an attribute says what holds without it."""
    default = defs.get_schema(node.op_type, OPSET, "").attributes[attribute.name].default_value
    if default.name:
        return helper.get_attribute_value(attribute) == helper.get_attribute_value(default)
    if node.op_type in WEIGHTED and attribute.name == "kernel_shape":
        return True  # the weight says it
    along_axes = node.op_type in WINDOWED and attribute.name in WINDOW_DEFAULTS
    return along_axes and set(attribute.ints) == {WINDOW_DEFAULTS[attribute.name]}


def _drop_equal_initializers(graph: GraphProto, readable: Mapping[str, str]) -> dict[str, str]:
    """Remove unused initializers and those equal to an earlier one; says which name stands for which."""
    used = used_values(graph)
    first: dict[bytes, str] = {}
    same, kept = {}, []
    for tensor in (tensor for tensor in graph.initializer if tensor.name in used):
        nameless = TensorProto()
        nameless.CopyFrom(tensor)
        nameless.ClearField("name")
        original = first.setdefault(nameless.SerializeToString(), tensor.name)
        if original != tensor.name and tensor.name not in readable:
            same[tensor.name] = original
        else:
            kept.append(tensor)
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return same


def _short_names() -> Iterator[str]:
    for length in itertools.count(1):
        yield from ("".join(name) for name in itertools.product(string.ascii_letters, repeat=length))
