"""The reader written from docs/format.md alone, against this project's: they share no line, and agree on every file."""

import ast
import functools
import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from benchmarks.fuzz import STANDALONE, Finding, compare, standalone
from benchmarks.mutations import version_1
from flexor_search.errors import FormatError
from flexor_search.packing import from_bytes, pack, to_bytes
from flexor_search.packing.packed_model import DECODERS
from flexor_search.planning import KEPT, Allocation, LayerSpec
from flexor_search.quantization import describe, quantize_

from . import test_lies
from .models import as_trained, cases
from .rewriting import rewritten
from .test_golden import FILES, expected_of

Refused, read = standalone().Refused, standalone().read


@given(cases())
def test_it_reads_any_model_as_we_do(case):
    raw = to_bytes(pack(case.model, case.allocation, "digits-convnet"), case.allocation)
    for version in (raw, version_1(raw)):
        compare(from_bytes(version), read(version))
    assert read(raw).tensors().keys() == read(version_1(raw)).tensors().keys()


@st.composite
def weights(draw):
    """A module whose weight is of any shape, transposed or not."""
    dims, bias = draw(st.integers(0, 3)), draw(st.booleans())
    groups, wide, deep = draw(st.integers(1, 3)), draw(st.integers(1, 6)), draw(st.integers(1, 6))
    if not dims:
        return lambda: nn.Linear(wide * deep, groups, bias=bias)
    kernel = tuple(draw(st.lists(st.integers(1, 4), min_size=dims, max_size=dims)))
    plain, transposed = {
        1: (nn.Conv1d, nn.ConvTranspose1d),
        2: (nn.Conv2d, nn.ConvTranspose2d),
        3: (nn.Conv3d, nn.ConvTranspose3d),
    }[dims]
    make = draw(st.sampled_from([plain, transposed]))
    return lambda: make(groups * wide, groups * deep, kernel, groups=groups, bias=bias)


@st.composite
def codes(draw):
    """Any code of any family with up to 40 inputs and 64 outputs, on one to three planes."""
    n_in = draw(st.integers(1, 40))
    family, n_out = draw(st.sampled_from(["systematic", "taps", "random"])), draw(st.integers(n_in, 64))
    return LayerSpec(family, n_in, n_out, draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(0, 99)))


@settings(max_examples=300)
@given(weights(), codes(), st.sampled_from(["float16", "float32"]), st.integers(0, 2**32 - 1))
def test_it_decodes_any_code_on_any_weight_as_we_do(build, spec, kept_dtype, seed):
    allocation = Allocation.of(describe(build()), {"": spec}, kept_dtype)
    model = as_trained(quantize_(build(), allocation), seed)
    raw = to_bytes(pack(model, allocation), allocation)
    packed, other = from_bytes(raw), read(raw)
    compare(packed, other)
    assert other.layers[""].weight.tobytes() == packed.layers[0].weight("reference").tobytes()
    assert other.layers[""].codes == [(code.n_in, code.n_out) for code in packed.layers[0].codes]


@pytest.mark.parametrize("n_planes", [1, 2, 8])
def test_weights_are_summed_in_the_order_of_planes(n_planes):
    """numpy's own sum over an axis may pair its terms, and what it begins with decides about -0."""
    build = lambda: nn.Linear(1, 1, bias=False)  # noqa: E731
    spec = LayerSpec("systematic", 1, 1, n_planes)
    allocation = Allocation.of(describe(build()), {"": spec}, "float32")
    model = quantize_(build(), allocation)
    raw = to_bytes(pack(model, allocation), allocation)
    for scales in (np.geomspace(1e8, 1e-3, n_planes), np.zeros(n_planes), np.full(n_planes, -0.0)):
        for signs in range(2**n_planes):
            bits = np.array([signs >> plane & 1 for plane in range(n_planes)], np.uint8)
            changed = rewritten(
                raw,
                lambda metadata, tensors, bits=bits, scales=scales: tensors.update(
                    payload=bits, scales=scales.astype(np.float32)
                ),
            )
            terms = [scale if bit else -scale for bit, scale in zip(bits, scales.astype(np.float32), strict=True)]
            wanted = functools.reduce(np.add, terms)
            for decoder in DECODERS:
                assert from_bytes(changed).layers[0].weight(decoder).tobytes() == wanted.tobytes()
            assert read(changed).layers[""].weight.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("spec", [LayerSpec(n_in=1, n_out=2), KEPT])
@pytest.mark.parametrize("kept_dtype", ["float16", "float32"])
def test_a_tensor_without_elements_has_a_dtype_too(spec, kept_dtype):
    model = nn.Linear(2, 2, bias=False)
    model.register_buffer("nothing", torch.zeros(0, 3))
    model.register_buffer("none", torch.zeros(0, dtype=torch.int32))
    allocation = Allocation.of(describe(model), {"": spec}, kept_dtype)
    raw = to_bytes(pack(quantize_(model, allocation), allocation), allocation)
    compare(from_bytes(raw), read(raw))
    assert str(read(raw).kept["nothing"].dtype) == kept_dtype


@pytest.mark.parametrize("lie", test_lies.LIES)
def test_it_refuses_the_same_lies(lie):
    with pytest.raises(Refused, match=r"\w+"):
        read(rewritten(test_lies.RAW, test_lies.LIES[lie][0]))


@pytest.mark.parametrize("lie", test_lies.CONTAINER_LIES)
def test_it_refuses_the_same_containers(lie):
    with pytest.raises(Refused, match=r"\w+"):
        read(test_lies.with_header(test_lies.CONTAINER_LIES[lie][0]))


@pytest.mark.parametrize("lie", test_lies.LARGE_LIES)
def test_it_refuses_the_same_large_lies(lie):
    with pytest.raises(Refused) as caught:
        read(rewritten(test_lies.RAW, test_lies.LARGE_LIES[lie]))
    assert len(str(caught.value)) < 1000


@settings(max_examples=300)
@given(test_lies.table_lies())
def test_it_takes_and_refuses_what_we_do(edit):
    raw = rewritten(test_lies.RAW, edit)
    try:
        packed = from_bytes(raw)
    except FormatError:
        with pytest.raises(Refused):
            read(raw)
    else:
        compare(packed, read(raw))


def test_a_difference_would_be_found():
    packed, other = from_bytes(test_lies.RAW), read(test_lies.RAW)
    compare(packed, other)
    other.layers["0"].weight[0, 0, 0, 0] *= -1
    with pytest.raises(Finding, match="other weights"):
        compare(packed, other)
    other = read(test_lies.RAW)
    other.kept["0.bias"] = other.layers["0"].bias[::-1] if other.layers["0"].bias is not None else np.zeros(1)
    with pytest.raises(Finding, match=r"tensor"):
        compare(packed, other)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_reads_the_golden_files(path):
    expected, found = expected_of(path), read(path)
    assert {"-v1": 1, "-v2": 2}[path.stem[-3:]] == found.version
    assert (found.model, found.folded) == (expected["model_name"], expected["folded"])
    digest = {
        name: hashlib.sha256(layer.weight.tobytes()).hexdigest() for name, layer in found.layers.items() if layer.bits
    }
    assert digest == expected["weight_sha256"]
    bits = {
        name: np.stack([plane.reshape(-1) for plane in layer.bits])
        for name, layer in found.layers.items()
        if layer.bits
    }
    assert {name: hashlib.sha256(plane.tobytes()).hexdigest() for name, plane in bits.items()} == expected[
        "weight_bits_sha256"
    ]
    tensors = found.tensors()
    kept = {name: hashlib.sha256(tensors[name].tobytes()).hexdigest() for name in expected["kept_sha256"]}
    assert kept == expected["kept_sha256"]
    assert {name: [str(value.dtype), value.tolist()] for name, value in found.exact.items()} == expected["exact"]
    assert len(tensors) == len(digest) + len(kept) + len(found.exact)


def test_it_needs_numpy_and_the_standard_library_alone(tmp_path):
    tree = ast.parse(STANDALONE.read_text(encoding="utf-8"))
    imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    assert {name.partition(".")[0] for name in imported} <= sys.stdlib_module_names | {"numpy"}
    code = (
        "import json, runpy, sys\n"
        f"found = runpy.run_path({str(STANDALONE)!r})['read']({str(FILES[0])!r})\n"
        "print(json.dumps([len(found.layers), sorted(sys.modules)]))\n"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    n_layers, modules = json.loads(done.stdout)
    assert n_layers == 5
    assert not {"torch", "safetensors", "pydantic", "flexor_search"} & set(modules)


def run(*arguments, cwd):
    command = [sys.executable, str(STANDALONE), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_the_command_prints_the_layers_and_writes_the_tensors(tmp_path):
    path = next(path for path in FILES if path.stem == "parts-v2")
    done = run(path, "--npz", "out.npz", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    for part in ("version 2", "'head'", "9x5", "19/20", "3 exact"):
        assert part in done.stdout
    with np.load(tmp_path / "out.npz") as found:
        wanted = read(path).tensors()
        assert set(found.files) == set(wanted)
        assert all(found[name].tobytes() == value.tobytes() for name, value in wanted.items())


def test_names_are_no_paths_and_no_terminal_codes(tmp_path):
    def edit(metadata, tensors):
        metadata["layers"][0][0], metadata["layers"][1][0], metadata["kept"][0][0] = "../../x", "\x1b[2J", "file"

    (tmp_path / "in.safetensors").write_bytes(rewritten(test_lies.RAW, edit))
    done = run("in.safetensors", "--npz", "out.npz", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    with np.load(tmp_path / "out.npz") as found:
        assert {"..%2F..%2Fx.weight", "file"} <= set(found.files)
        assert not any("/" in name for name in found.files)


def test_the_command_names_what_is_wrong(tmp_path):
    (tmp_path / "in.safetensors").write_bytes(test_lies.RAW[:-1] + b"\xff")
    done = run("in.safetensors", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "in.safetensors: sha256 does not match: the file is damaged\n"
    assert run("nothing.safetensors", cwd=tmp_path).returncode == 1


def test_a_model_of_its_tensors_is_the_loaded_model():
    """What the page says about building the model, done by hand."""
    raw, model = test_lies.RAW, test_lies.CASE.build()
    found = read(raw)
    assert found.folded == ["1"]
    model[1], model[0].bias = nn.Identity(), nn.Parameter(torch.zeros(4))
    state = {
        name: torch.from_numpy(value.astype(np.float32) if value.dtype == np.float16 else value.copy())
        for name, value in found.tensors().items()
    }
    model.load_state_dict(state)
    with torch.no_grad():
        wanted = test_lies.unpack_into(from_bytes(raw), test_lies.CASE.build())(test_lies.CASE.images)
        assert torch.equal(model.eval()(test_lies.CASE.images), wanted)
