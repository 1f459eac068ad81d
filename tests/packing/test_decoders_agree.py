"""Five decoders, one answer: numpy's reference, numba, ONNX Runtime, Icarus Verilog and the standalone script.

Each is tested against the reference by itself elsewhere; here the same random layers, and models really exported, go
through all of them at once.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from codes.strategies import codes, rngs
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import nn

from benchmarks.fuzz import standalone
from flexor_search.codes import unpack_planes
from flexor_search.packing import from_bytes, pack, save_verilog, to_bytes
from flexor_search.packing.onnx_file import read_onnx, save_onnx
from flexor_search.packing.onnx_verify import decoded_weights
from flexor_search.planning import Allocation, LayerSpec
from flexor_search.quantization import describe, quantize_
from flexor_search.workloads import workload

from .models import as_trained
from .test_verilog import IVERILOG, distinct, module_names, outputs_of

GOLDEN = Path(__file__).parents[1] / "golden" / "packed"
STANDALONE = standalone()


def simulated_bits(folder, packed):
    """The weight bits of every layer as the simulated hardware gives them, slice by slice."""
    modules, _ = save_verilog(packed, folder / "decoder.v")
    names = dict(zip([code.taps for code in distinct(packed)], module_names(modules), strict=True))
    inputs = [
        (code, names[code.taps], unpack_planes(plane, -(-layer.n_weights // code.n_out)))
        for layer in packed.layers
        for code, plane in zip(layer.codes, layer.planes, strict=True)
    ]
    rows = iter(outputs_of(folder, modules, inputs))
    return {
        layer.name: np.stack([next(rows).reshape(-1)[: layer.n_weights] for _ in layer.codes])
        for layer in packed.layers
    }


def agree(folder, raw, build, example, *, hardware=True):
    """Every decoder gives the reference's bits, and those that make weights the reference's weights."""
    packed = from_bytes(raw)
    wanted = {layer.name: layer.weight_bits("reference") for layer in packed.layers}
    weights = {layer.name: layer.weight("reference").tobytes() for layer in packed.layers}
    for decoder in ("fast", "numba"):
        assert all(np.array_equal(layer.weight_bits(decoder), wanted[layer.name]) for layer in packed.layers), decoder
        assert {layer.name: layer.weight(decoder).tobytes() for layer in packed.layers} == weights, decoder
    save_onnx(packed, build(), example, folder / "model.onnx")
    found = decoded_weights(read_onnx(folder / "model.onnx"))
    assert {name: weight.tobytes() for name, weight in found.items()} == weights
    for name, bits in (simulated_bits(folder, packed) if hardware else {}).items():
        assert np.array_equal(bits, wanted[name]), "hardware"
    script = STANDALONE.read(raw)
    for name, bits in wanted.items():
        assert np.array_equal([plane.ravel() for plane in script.layers[name].bits], bits), "standalone"
        assert script.layers[name].weight.tobytes() == weights[name], "standalone"


@st.composite
def layers(draw):
    """A function that makes a layer of any shape, the shape of its input, and what it is stored as."""
    kind, groups = draw(st.sampled_from(["linear", "conv", "transposed"])), draw(st.integers(1, 2))
    wide, deep, kernel = draw(st.integers(1, 12)), draw(st.integers(1, 12)), draw(st.integers(1, 3))
    make, shape = {
        "linear": (lambda: nn.Linear(wide * groups, deep), (wide * groups,)),
        "conv": (lambda: nn.Conv2d(wide * groups, deep * groups, kernel, groups=groups), (wide * groups, 4, 4)),
        "transposed": (
            lambda: nn.ConvTranspose2d(wide * groups, deep * groups, kernel, groups=groups),
            (wide * groups, 4, 4),
        ),
    }[kind]
    n_planes = draw(st.integers(1, 3))
    if draw(st.booleans()):
        return make, shape, LayerSpec.from_code(draw(codes()), n_planes)
    n_in = draw(st.integers(1, 40))
    family, n_out = draw(st.sampled_from(["systematic", "taps", "random"])), draw(st.integers(n_in, 64))
    return make, shape, LayerSpec(family, n_in, n_out, n_planes, draw(st.integers(1, 3)), draw(st.integers(0, 99)))


@IVERILOG
@pytest.mark.hardware
@settings(max_examples=15, phases=(Phase.explicit, Phase.reuse, Phase.generate))  # to shrink exports takes minutes
@given(layers(), st.sampled_from(["float16", "float32"]), rngs())
def test_on_any_layer(tmp_path_factory, layer, kept_dtype, rng):
    make, shape, spec = layer

    def build():
        return nn.Sequential(make(), nn.Flatten())

    model = build()
    allocation = Allocation.of(describe(model), {}, kept_dtype, default=spec)
    as_trained(quantize_(model, allocation), int(rng.integers(2**31)))
    raw = to_bytes(pack(model, allocation), allocation)
    agree(tmp_path_factory.mktemp("agree"), raw, build, torch.zeros(2, *shape))


@IVERILOG
@pytest.mark.hardware
@pytest.mark.parametrize("name", ["digits-v1", "digits-v2"])
def test_on_trained_models(tmp_path, name):
    raw = (GOLDEN / f"{name}.safetensors").read_bytes()
    agree(tmp_path, raw, workload("digits-convnet").build, torch.zeros(2, 1, 8, 8))


def test_on_lenet5(tmp_path):
    """Its 1.6 million weights would take a simulator long; the bench of the export draws 256 of their slices."""
    torch.manual_seed(0)
    build = workload("lenet5-fashion-mnist").build
    model = build()
    allocation = Allocation.of(describe(model), {"conv2": LayerSpec(n_in=12), "fc1": LayerSpec("taps", 8)})
    as_trained(quantize_(model, allocation), 0)
    raw = to_bytes(pack(model, allocation), allocation)
    agree(tmp_path, raw, build, torch.zeros(2, 1, 28, 28), hardware=False)
