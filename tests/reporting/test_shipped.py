"""The parts of a shipped file, against the planning storey's own account of every byte."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from flexor_search.planning import Allocation, LayerShape, LayerSpec, ModelShape, TensorShape, file_layout
from flexor_search.planning.allocation import weight_bits
from flexor_search.planning.file_layout import METADATA_KEY, metadata_text
from flexor_search.reporting import file_parts, layer_sizes
from flexor_search.reporting.shipped import ALL_ELSE, WEIGHTS

from .made_run import entry, made_run, summary

MODEL = ModelShape(
    (
        LayerShape("first", "Conv2d", (6, 3, 3, 3), 6, True, folded_norm="norm"),
        LayerShape("body.conv", "Conv2d", (20, 6, 3, 3), 20, False),
        LayerShape("head", "Linear", (10, 20), 10, True),
    ),
    (TensorShape("norm2.weight", (20,)), TensorShape("norm2.num_batches_tracked", (), "int64")),
    5000,
)
SPECS = {"body.conv": LayerSpec("systematic", 8, 20, n_planes=2), "head": LayerSpec("taps", 12, 20)}
ALLOCATION = Allocation.of(MODEL, SPECS)


def shipped(folder, allocation=ALLOCATION):
    """A run whose summary says what its model-0.7bpw.safetensors holds."""
    layout = file_layout(allocation)
    n_kept, n_exact = (sum(tensor.elements for tensor in tensors) for tensors in (layout.kept, layout.exact))
    scale_elements = layout.scale_bytes // 2
    tensors = {
        "codes": np.zeros(layout.code_table_bytes, np.uint8),
        "exact": np.zeros(8 * n_exact, np.uint8),
        "kept": np.zeros(n_kept, np.float16),
        "payload": np.zeros(layout.payload_bits // 8, np.uint8),
        "scales": np.zeros(scale_elements, np.float16),
    }
    run = made_run(folder, [])
    path = folder / "model-0.7bpw.safetensors"
    save_file(
        {name: tensor for name, tensor in tensors.items() if tensor.size},
        path,
        {METADATA_KEY: metadata_text(layout.metadata)},
    )
    assert path.stat().st_size == layout.file_bytes
    told = entry(allocation=allocation.to_json(), file_bytes=layout.file_bytes, payload_bits=allocation.weight_bits)
    return run, summary(told), layout


def parts_of(run, body):
    return {row["part"]: row["file_bytes"] for row in file_parts(run, body).to_dict("records")}


def test_parts_are_the_layout_and_add_up_to_the_file(tmp_path):
    run, body, layout = shipped(tmp_path)
    parts = parts_of(run, body)
    assert parts == {
        "encrypted weights": layout.payload_bits // 8,
        "scales": layout.scale_bytes,
        "code table": layout.code_table_bytes,
        "kept tensors": layout.kept_bytes,
        "header": layout.container_bytes,
    }
    assert sum(parts.values()) == layout.file_bytes


def test_layer_sizes_are_the_allocations(tmp_path):
    run, body, _ = shipped(tmp_path)
    sizes = layer_sizes(run, body).set_index("layer")
    for layer in MODEL.layers:
        assert sizes.loc[layer.name, "weights"] == layer.n_weights
        assert 8 * sizes.loc[layer.name, "weight_bytes"] == weight_bits(layer, ALLOCATION.layers[layer.name], "float16")


def test_a_model_that_is_itself_the_layer(tmp_path):
    alone = ModelShape((LayerShape("", "Linear", (10, 20), 10, True),), (), 210)
    run, body, _ = shipped(tmp_path, Allocation.of(alone, {"": LayerSpec("systematic", 4, 20)}))
    assert layer_sizes(run, body)[["layer", "weights"]].to_dict("records") == [{"layer": "", "weights": 200}]


def rewritten(folder, change):
    path = folder / "model-0.7bpw.safetensors"
    content = path.read_bytes()
    path.write_bytes(change(content))


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content + b" ",
        lambda content: b"\xff" * len(content),
        lambda content: bytes(len(content)),
        lambda content: content.replace(b'"layers', b'"lawyer'),
        lambda content: content.replace(b"__metadata__", b"__nometada__"),
        lambda content: content.replace(b"data_offsets", b"data_0ffsets"),
    ],
    ids=["another size", "noise", "zeros", "no layers", "no metadata", "no offsets"],
)
def test_of_a_file_that_cannot_be_read_the_summary_tells_two_parts(tmp_path, change):
    run, body, layout = shipped(tmp_path)
    rewritten(tmp_path, change)
    weights = ALLOCATION.weight_bits // 8
    assert parts_of(run, body) == {WEIGHTS: weights, ALL_ELSE: layout.file_bytes - weights}
    assert layer_sizes(run, body).empty


def test_of_a_file_that_is_gone_too(tmp_path):
    run, body, _ = shipped(tmp_path)
    (tmp_path / "model-0.7bpw.safetensors").unlink()
    assert set(parts_of(run, body)) == {WEIGHTS, ALL_ELSE}
    assert file_parts(run, None).empty
    assert layer_sizes(run, None).empty
