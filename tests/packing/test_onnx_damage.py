"""ONNX files that are damaged, foreign, or lie with a right hash: each is refused in one line, never a traceback."""

import hashlib
import json
import random

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from flexor_search.errors import FlexorError, FormatError, VerificationError
from flexor_search.packing import pack, unpack_into
from flexor_search.packing.onnx_file import save_onnx
from flexor_search.packing.onnx_verify import prove_onnx, verify_onnx
from flexor_search.planning import Allocation, LayerSpec
from flexor_search.quantization import describe, quantize_
from flexor_search.training import seeded

from .models import Counted, digits_case

HASH = "0" * 64


@pytest.fixture(scope="module")
def case():
    return digits_case("float16", 2)


@pytest.fixture(scope="module")
def raw(case, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    save_onnx(pack(case.model, case.allocation), case.build(), case.images, path)
    verify_onnx(path)
    return path.read_bytes()


def signed(model, body):
    """The file of a graph and a metadata object, with the hash that belongs to it."""
    helper.set_model_props(model, {"flexor": json.dumps(body | {"sha256": HASH}, separators=(",", ":"))})
    raw = model.SerializeToString(deterministic=True)
    return raw.replace(HASH.encode(), hashlib.sha256(raw).hexdigest().encode())


def rewritten(raw, edit):
    """The file after edit(model, metadata) changed both in place, with a correct hash."""
    model = onnx.load_from_string(raw)
    body = json.loads(model.metadata_props[0].value)
    edit(model, body)
    return signed(model, body)


def refused(tmp_path, raw, error, message):
    path = tmp_path / "model.onnx"
    path.write_bytes(raw)
    with pytest.raises(error, match=message) as caught:
        verify_onnx(path)
    assert "\n" not in str(caught.value)


def initializer(model, name):
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def change(model, name, edit):
    """Replace an initializer's values by edit(values)."""
    tensor = initializer(model, name)
    tensor.CopyFrom(numpy_helper.from_array(edit(numpy_helper.to_array(tensor).copy()), name))


def node(model, op_type):
    return next(node for node in model.graph.node if node.op_type == op_type)


def test_signing_by_definition_is_signing(raw):
    assert rewritten(raw, lambda model, body: None) == raw


def test_truncations_and_what_follows_the_end(tmp_path, raw):
    for length in [*range(0, len(raw), 37), len(raw) - 1]:
        refused(tmp_path, raw[:length], FormatError, "model.onnx: it")
    for more in (b"\x00", raw):
        refused(tmp_path, raw + more, FormatError, "model.onnx: it")


def test_changed_bytes(tmp_path, raw):
    choose = random.Random(0)
    for place in range(0, len(raw), 7):
        changed = bytearray(raw)
        changed[place] ^= choose.choice((1, 128, choose.randrange(1, 256)))
        refused(tmp_path, bytes(changed), FormatError, "model.onnx: it")


def test_what_is_no_packed_file(tmp_path):
    with pytest.raises(FormatError, match="cannot be read"):
        verify_onnx(tmp_path / "missing.onnx")
    refused(tmp_path, b"", FormatError, "no 'flexor' metadata")
    refused(tmp_path, b"PK\x03\x04 a zip file", FormatError, "no ONNX file|no 'flexor'")
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])
    graph = helper.make_graph([helper.make_node("Relu", ["images"], ["logits"])], "foreign", [images], [logits])
    foreign = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    refused(tmp_path, foreign.SerializeToString(), FormatError, "not a packed ONNX file")
    for text in ("[]", "{", "7", "{}", '{"version":1}', '{"version":1,"sha256":7}', "[" * 100_000):
        helper.set_model_props(foreign, {"flexor": text})
        refused(tmp_path, foreign.SerializeToString(), FormatError, "metadata is damaged")


def external(model, body):
    tensor = initializer(model, "payload")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def entry(name, value):
    return lambda model, body: body.update({name: value})


def opset(version):
    return lambda model, body: setattr(model.opset_import[0], "version", version)


def foreign_node(model, body):
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    node(model, "Relu").op_type, node(model, "Relu").domain = "QuickGelu", "com.microsoft"


def other_order(model, body):
    where = node(model, "Where")
    where.input[1], where.input[2] = where.input[2], where.input[1]


@pytest.mark.parametrize(
    ("edit", "error", "message"),
    [
        (entry("version", 2), FormatError, "version 2.*update flexor-search"),
        (entry("version", 0), FormatError, "damaged"),
        (entry("version", True), FormatError, "damaged"),
        (entry("surprise", 1), FormatError, "'surprise' is wrong"),
        (entry("unused", [1]), FormatError, "'unused'"),
        (entry("unused", 1), FormatError, "'unused'"),
        (entry("unused", ["x", "x"]), FormatError, "'unused' lists a name twice"),
        (entry("unused", ["3"]), FormatError, "'unused' lists a layer that it stores: 3"),
        (entry("unused_kept", {}), FormatError, "'unused_kept' is no list"),
        (lambda model, body: body.pop("unused"), FormatError, "'unused' is no list"),
        (entry("codes", [[6, 8]]), FormatError, "by what is no index of the 1 codes"),
        (entry("layers", []), FormatError, "longer"),
        (entry("layers", [["other", [4, 9], [0]]]), FormatError, "longer"),
        (
            lambda model, body: body["layers"][0].__setitem__(0, "renamed"),
            FormatError,
            "does not decode renamed.weight",
        ),
        (lambda model, body: body["layers"][0].__setitem__(1, [3, 12]), FlexorError, "."),
        (lambda model, body: change(model, "payload", lambda values: values[:-1]), FormatError, "too short"),
        (lambda model, body: change(model, "payload", lambda values: values.astype(np.int8)), FlexorError, "."),
        (lambda model, body: change(model, "scales", lambda values: values * np.inf), FormatError, "not finite"),
        (lambda model, body: change(model, "codes", lambda values: values ^ 128), FormatError, "tap past its inputs"),
        (lambda model, body: initializer(model, "payload").dims.append(3), FormatError, "."),
        (lambda model, body: setattr(initializer(model, "payload"), "data_type", 99), FormatError, "."),
        (external, FormatError, "other files"),
        (opset(19), VerificationError, "standard ones of opset 18"),
        (opset(17), VerificationError, "checker"),
        (foreign_node, VerificationError, "checker|standard"),
        (other_order, VerificationError, "other weights of layer"),
        (lambda model, body: setattr(node(model, "Relu"), "op_type", "NoSuch"), VerificationError, "checker"),
        (lambda model, body: model.graph.ClearField("node"), VerificationError, "checker"),
        (lambda model, body: setattr(model.graph.input[0], "name", "pictures"), VerificationError, "checker"),
        (
            lambda model, body: change(model, "kept", lambda values: values * np.nan),
            FormatError,
            "'kept' holds a value",
        ),
        (lambda model, body: change(model, "kept", lambda values: values.astype(np.int8)), FormatError, "one dtype"),
        (lambda model, body: change(model, "kept", lambda values: values * np.float32(1)), FormatError, "one dtype"),
        (
            lambda model, body: model.graph.initializer.append(initializer(model, "kept")),
            FormatError,
            "stores a tensor twice",
        ),
    ],
)
def test_lies_with_a_right_hash(tmp_path, raw, edit, error, message):
    refused(tmp_path, rewritten(raw, edit), error, message)


def test_a_key_that_occurs_twice(tmp_path, raw):
    model = onnx.load_from_string(raw)
    entry = model.metadata_props[0]
    entry.value = entry.value.replace('"version":1', '"version":1,"version":1')
    body = json.loads(entry.value)
    entry.value = entry.value.replace(body["sha256"], HASH)
    unsigned = model.SerializeToString(deterministic=True)
    twice = unsigned.replace(HASH.encode(), hashlib.sha256(unsigned).hexdigest().encode())
    refused(tmp_path, twice, FormatError, "a key occurs twice")
    entry.value = entry.value.replace('"version":1,"version":1', '"version":1')
    model.metadata_props.append(entry)
    refused(tmp_path, model.SerializeToString(deterministic=True), FormatError, "2 'flexor' metadata entries")


def one_ulp(values, place):
    values.reshape(-1)[place] = np.nextafter(values.reshape(-1)[place], values.dtype.type(np.inf))
    return values


def test_another_model_is_not_this_one(tmp_path, raw, case):
    path, packed = tmp_path / "model.onnx", pack(case.model, case.allocation)
    loaded = unpack_into(packed, case.build())

    def verified_but_not_proved(edit, message):
        path.write_bytes(rewritten(raw, edit))
        verify_onnx(path)
        with pytest.raises(VerificationError, match=message):
            prove_onnx(path, packed, loaded, case.images)

    def changed(name, edit):
        return lambda model, body: change(model, name, edit)

    verified_but_not_proved(changed("payload", lambda values: values ^ 1), "weights of 3 layers.* bit for bit")
    for place in range(0, sum(value.size for value in packed.kept.values()), 101):
        verified_but_not_proved(changed("kept", lambda values, place=place: one_ulp(values, place)), "biases and kept")
    verified_but_not_proved(lambda model, body: body["unused"].append("none"), "left out: none")
    verified_but_not_proved(lambda model, body: body["unused_kept"].append("none"), "left out: none")
    verified_but_not_proved(lambda model, body: body["unused_kept"].append("0.bias"), "left out: 0.bias")

    def graph_alone(model, body):
        gemm = node(model, "Gemm")
        gemm.attribute.append(helper.make_attribute("alpha", 2.0))

    verified_but_not_proved(graph_alone, "logits of 1 images")


def test_integers_are_proved_too(tmp_path):
    def build():
        return nn.Sequential(Counted(6), nn.Linear(6, 3))

    with seeded(0):
        plain = build()
        allocation = Allocation.of(describe(plain), {"1": LayerSpec(n_in=3, n_out=5)}, "float16")
        packed, images = pack(quantize_(plain, allocation).eval(), allocation), torch.randn(3, 6)
    path, loaded = tmp_path / "model.onnx", unpack_into(packed, build())
    save_onnx(packed, build(), images, path)
    assert "2 integer tensors equal those of the packed model" in prove_onnx(path, packed, loaded, images).passed
    raw = path.read_bytes()
    for name, edit in ((".0.order", lambda values: values[::-1]), (".0.mask", lambda values: ~values)):
        path.write_bytes(rewritten(raw, lambda model, body, name=name, edit=edit: change(model, name, edit)))
        verify_onnx(path)
        with pytest.raises(VerificationError, match="integer tensors"):
            prove_onnx(path, packed, loaded, images)
