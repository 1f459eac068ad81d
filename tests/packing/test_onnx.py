"""The ONNX file decodes itself: packed bits inside, standard operators, torch's logits, the reference's weights."""

from unittest import mock

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torchvision
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from torch import nn

from flexor_search.codes import make_code, plane_bytes
from flexor_search.errors import ModelError, UsageError
from flexor_search.packing import onnx_decoder, pack, unpack_into
from flexor_search.packing.onnx_file import save_onnx
from flexor_search.packing.onnx_nodes import NodeList
from flexor_search.packing.onnx_verify import prove_onnx, verify_onnx
from flexor_search.packing.packed_model import PackedLayer
from flexor_search.planning import KEPT, Allocation, LayerSpec, file_layout
from flexor_search.quantization import describe, quantize_
from flexor_search.training import seeded
from flexor_search.workloads import WORKLOADS
from flexor_search.workloads.resnet import ResNet

from .models import Case, as_trained, cases, digits_case, layer_specs

UNSHRUNK = (Phase.explicit, Phase.reuse, Phase.generate)  # every example exports a model: shrinking takes minutes


def proved(case, folder):
    """Save and prove a case; gives what was packed and the path."""
    packed, path = pack(case.model, case.allocation), folder / "model.onnx"
    save_onnx(packed, case.build(), case.images, path)
    checks = prove_onnx(path, packed, unpack_into(packed, case.build()), case.images)
    assert len(checks.passed) == 12
    return packed, path


def uniform_case(build, image_shape, spec, keep_ends):
    """A model whose layers share one spec, the first and the last kept if asked."""
    with seeded(3):
        plain = build()
        shape = describe(plain)
        ends = {shape.layers[0].name, shape.layers[-1].name} if keep_ends else set()
        chosen = {layer.name: KEPT if layer.name in ends else spec for layer in shape.layers}
        allocation = Allocation.of(shape, chosen, "float16")
        return Case(quantize_(plain, allocation).eval(), allocation, build, torch.randn(4, *image_shape))


def of_ten(name):
    """Builds one of torchvision's models with ten classes."""
    return lambda: getattr(torchvision.models, name)(num_classes=10)


@settings(max_examples=6, phases=UNSHRUNK)
@given(cases())
def test_any_model_decodes_itself(tmp_path_factory, case):
    proved(case, tmp_path_factory.mktemp("onnx"))


@settings(max_examples=3, phases=UNSHRUNK)
@given(st.integers(1, 40), st.integers(1, 40), layer_specs(), st.sampled_from(["float16", "float32"]))
def test_a_model_that_is_one_linear_layer(tmp_path_factory, n_in, n_out, spec, kept_dtype):
    with seeded(0):
        plain = nn.Linear(n_in, n_out)
        allocation = Allocation.of(describe(plain), {"": spec}, kept_dtype)
        model = as_trained(quantize_(plain, allocation), 0)
    case = Case(model, allocation, lambda: nn.Linear(n_in, n_out), torch.randn(5, n_in))
    proved(case, tmp_path_factory.mktemp("onnx"))


@st.composite
def packed_layers(draw, name, codes=()):
    """A layer of any weight shape; codes of any family, if not given, in its planes; scales that are not friendly."""
    groups = draw(st.sampled_from([0, 0, 1, 2, 3]))
    shape = draw(st.lists(st.integers(1, 6), min_size=2, max_size=5))
    shape[0] *= max(1, groups)
    seed, n_planes = draw(st.integers(0, 2**16)), len(codes) or draw(st.integers(1, 8))
    family, n_out = draw(st.sampled_from(["systematic", "taps", "random"])), draw(st.integers(1, 64))
    n_in = draw(st.integers(1, min(40, n_out)))
    made = [make_code(family, n_in, n_out, n_tap=draw(st.integers(1, 4)), seed=seed + p) for p in range(n_planes)]
    codes = codes or tuple(code.reduced().code for code in made)
    rng, n_weights = np.random.default_rng(seed), int(np.prod(shape))
    planes = []
    for code in codes:
        n_slices = -(-n_weights // code.n_out)
        bits = rng.integers(0, 2, (code.n_in, n_slices), np.uint8)
        planes.append(np.packbits(bits, axis=1, bitorder="little"))
        assert planes[-1].shape == (code.n_in, plane_bytes(n_slices))
    channels = shape[1] * groups if groups else shape[0]
    scale = rng.standard_normal((n_planes, channels)) * rng.choice([0, 1e-6, 1, 100], (n_planes, channels))
    return PackedLayer(name, tuple(shape), codes, tuple(planes), scale.astype(np.float16), groups)


def session_of(nodes, outputs):
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 1])
    graph = helper.make_graph(nodes.nodes, "decoder", [images], outputs, list(nodes.initializers.values()))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return onnxruntime.InferenceSession(model.SerializeToString())


@settings(max_examples=60)
@given(st.data(), st.sampled_from([1, onnx_decoder.WEIGHTS_TOGETHER]))
def test_any_layers_decode_to_the_reference_bit_for_bit(data, together):
    one, two = data.draw(packed_layers("one")), data.draw(packed_layers("two"))
    layers = (one, two, data.draw(packed_layers("like one", one.codes)), data.draw(packed_layers("too", one.codes)))
    nodes, codes = NodeList(), list(dict.fromkeys(code for layer in layers for code in layer.codes))
    with mock.patch.object(onnx_decoder, "WEIGHTS_TOGETHER", together):
        onnx_decoder.decode_layers(nodes, layers, codes, {layer.name: layer.name for layer in layers}, "images")
    assert sum(node.op_type == "MatMulInteger" for node in nodes.nodes) >= (len(layers) if together == 1 else 1)
    outputs = [helper.make_tensor_value_info(layer.name, TensorProto.FLOAT, layer.weight_shape) for layer in layers]
    session = session_of(nodes, outputs)
    for batch in (0, 1, 300):
        found = session.run(None, {"images": np.zeros((batch, 1), np.float32)})
        for value, layer in zip(found, layers, strict=True):
            assert np.array_equal(value.view(np.uint32), layer.weight("reference").view(np.uint32))


@pytest.mark.parametrize(
    ("build", "image_shape", "spec", "keep_ends"),
    [
        pytest.param(WORKLOADS["digits-convnet"].build, (1, 8, 8), LayerSpec(n_in=8, n_out=20), True, id="digits"),
        pytest.param(
            WORKLOADS["lenet5-fashion-mnist"].build, (1, 28, 28), LayerSpec(n_in=8, n_out=20), False, id="lenet5"
        ),
        pytest.param(ResNet, (3, 32, 32), LayerSpec(n_in=8, n_out=20), True, id="resnet20"),
        pytest.param(ResNet, (3, 32, 32), LayerSpec("taps", 3, 20, 8), False, id="resnet20, 8 planes"),
        pytest.param(torchvision.models.resnet18, (3, 64, 64), LayerSpec(n_in=8, n_out=20), True, id="resnet18"),
        pytest.param(of_ten("mobilenet_v3_small"), (3, 64, 64), LayerSpec(n_in=8, n_out=20), False, id="mobilenet_v3"),
        pytest.param(of_ten("efficientnet_b0"), (3, 64, 64), LayerSpec(n_in=4, n_out=20), False, id="efficientnet_b0"),
    ],
)
def test_the_size_is_the_packed_size_and_a_small_graph(tmp_path, build, image_shape, spec, keep_ends):
    case = uniform_case(build, image_shape, spec, keep_ends)
    _, path = proved(case, tmp_path)
    packed_bytes = file_layout(case.allocation).file_bytes
    assert path.stat().st_size <= 1.02 * packed_bytes + 20 * 1024


def test_onnxruntime_keeps_it_packed_and_says_nothing(tmp_path, capfd):
    workload, spec = WORKLOADS["lenet5-fashion-mnist"], LayerSpec(n_in=8, n_out=20, n_planes=2)
    packed, path = proved(uniform_case(workload.build, (1, 28, 28), spec, False), tmp_path)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3  # it warns about writing the optimized model
    onnxruntime.InferenceSession(str(path), options)
    stored = onnx.load(tmp_path / "optimized.onnx").graph.initializer
    payload = b"".join(plane.tobytes() for layer in packed.layers for plane in layer.planes)
    assert [tensor.raw_data for tensor in stored if tensor.name == "payload"] == [payload]
    assert sum(tensor.ByteSize() for tensor in stored) < 1.2 * len(payload)
    capfd.readouterr()
    session = onnxruntime.InferenceSession(str(path))
    session.run(None, {"images": np.zeros((2, 1, 28, 28), np.float32)})
    assert capfd.readouterr() == ("", "")
    assert [(value.name, value.shape) for value in session.get_inputs()] == [("images", ["batch", 1, 28, 28])]
    assert [(value.name, value.shape) for value in session.get_outputs()] == [("logits", ["batch", 10])]


def test_saving_is_silent_and_repeatable(tmp_path, capfd):
    case = allocated(lambda: nn.Linear(8, 3))
    packed = pack(case.model, case.allocation)
    for name in ("one.onnx", "two.onnx"):
        save_onnx(packed, case.build(), case.images, tmp_path / name)
    assert capfd.readouterr() == ("", "")
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.onnx", "two.onnx"]
    assert len(verify_onnx(tmp_path / "one.onnx").passed) == 7


def allocated(build, image_shape=(8,)):
    """Everything quantized with one small code."""
    return uniform_case(build, image_shape, LayerSpec(n_in=3, n_out=5), False)


class Net(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.linear, self.other = nn.Linear(8, 8), nn.Linear(8, 3)
        self._forward = forward

    def forward(self, x):
        return self._forward(self, x)


def test_a_layer_that_no_logit_needs_is_left_out_and_said_so(tmp_path):
    case = allocated(lambda: Net(lambda net, x: net.linear(x)))
    _, path = proved(case, tmp_path)
    packed = pack(case.model, case.allocation)
    checks = prove_onnx(path, packed, unpack_into(packed, case.build()), case.images)
    assert any("left out: other" in text for text in checks.passed)


class Six(nn.Module):
    """Tensors of its own, of every kind, that are called as the file's own."""

    def __init__(self, names):
        super().__init__()
        self.linear, self.names = nn.Linear(8, 8), names
        for place, name in enumerate(names):
            if place % 2:
                self.register_buffer(name, torch.arange(8) + place)
            else:
                setattr(self, name, nn.Parameter(torch.randn(8)))

    def forward(self, x):
        for name in self.names:
            x = self.linear(x) * getattr(self, name)
        return x


RESERVED = ["images", "logits", "payload", "scales", "codes", "kept"]


@pytest.mark.parametrize("names", [RESERVED, RESERVED[1:], *([name] for name in RESERVED), ["a", "flexor:1"]], ids=str)
def test_a_model_may_call_its_tensors_as_the_file_does(tmp_path, names):
    _, path = proved(allocated(lambda: Six(names)), tmp_path)
    initializers = {tensor.name for tensor in onnx.load(path).graph.initializer}
    assert {f".{name}" for name in names[1::2]} <= initializers


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda net, x: net.other(x) if x.sum() > 0 else net.linear(x), "cannot be exported"),
        (lambda net, x: net.linear(x).reshape(3, 8), "batch"),
        (lambda net, x: net.linear(x).mean(0), "batch"),
        (lambda net, x: (net.linear(x), net.other(x)), "one tensor|cannot be exported"),
        (lambda net, x: torch.fft.fft(net.linear(x)).abs() + torch.linalg.det(x[:, :1, None]), "cannot be exported"),
    ],
    ids=["branch", "batch of three", "mean over the batch", "two outputs", "no such operator"],
)
def test_a_model_that_onnx_cannot_express(tmp_path, forward, message):
    case = allocated(lambda: Net(forward))
    packed = pack(case.model, case.allocation)
    with pytest.raises(ModelError, match=message) as caught:
        save_onnx(packed, case.build(), case.images, tmp_path / "model.onnx")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_what_does_not_fit_is_refused(tmp_path):
    case = digits_case()
    packed = pack(case.model, case.allocation)
    with pytest.raises(ModelError, match=r"its tensors are not those|batch norms"):
        save_onnx(packed, ResNet(), case.images, tmp_path / "model.onnx")
    with pytest.raises(UsageError, match="example"):
        save_onnx(packed, case.build(), case.images[:0], tmp_path / "model.onnx")


def test_a_model_that_takes_the_logarithm_of_its_inputs(tmp_path):
    case = allocated(lambda: Net(lambda net, x: net.linear((x + 1e-6).log())))
    packed, path, images = pack(case.model, case.allocation), tmp_path / "model.onnx", torch.rand(4, 8)
    save_onnx(packed, case.build(), images, path)
    assert prove_onnx(path, packed, unpack_into(packed, case.build()), images).passed
