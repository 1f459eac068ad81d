"""The size formulas against files that are really written, by the safetensors library, from tensors really packed."""

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from flexor_search.codes import pack_planes
from flexor_search.planning import KEPT, Allocation, LayerSpec, file_layout
from flexor_search.planning.file_layout import DTYPE_BYTES, METADATA_KEY, metadata_text

from .strategies import LENET5, allocations, layer, model_of

model_names = st.sampled_from(["", "digits-convnet", 'a "ö" \\'])


def packed_planes(allocation):
    """The stored planes of every quantized layer, packed, from bits that are all one."""
    for shape, spec in zip(allocation.model.layers, allocation.specs, strict=True):
        for code in spec.codes:
            n_slices = len(range(0, shape.n_weights, spec.n_out))
            yield pack_planes(np.ones((code.rank, n_slices), np.uint8))


def stored_code(code):
    """A code as bits, or as lists where that is shorter."""
    bits = pack_planes(code.matrix).ravel()
    lists = np.concatenate([[len(taps) - 1, *taps] for taps in code.taps]).astype(np.uint8)
    return min(bits, lists, key=len)


def tensors_of(allocation, layout):
    """The five tensors of a packed file; empty ones are left out."""
    joined = lambda parts, dtype: np.concatenate([np.zeros(0, dtype), *[np.ravel(part) for part in parts]])  # noqa: E731
    planes = [(shape, code) for shape in allocation.model.layers for code in allocation.layers[shape.name].codes]
    tensors = {
        "codes": joined([stored_code(code) for code in layout.codes], np.uint8),
        "exact": joined([np.zeros(one.elements * DTYPE_BYTES[one.dtype], np.uint8) for one in layout.exact], np.uint8),
        "kept": joined([np.zeros(one.shape, allocation.kept_dtype) for one in layout.kept], allocation.kept_dtype),
        "payload": joined(packed_planes(allocation), np.uint8),
        "scales": joined(
            [np.zeros(shape.out_channels, allocation.kept_dtype) for shape, _ in planes], allocation.kept_dtype
        ),
    }
    return {name: tensor for name, tensor in tensors.items() if tensor.size}


@given(allocations(), model_names)
def test_the_predicted_size_is_that_of_the_written_file(allocation, model_name):
    layout = file_layout(allocation, model_name)
    tensors = tensors_of(allocation, layout)
    written = save(tensors, {METADATA_KEY: metadata_text(layout.metadata)})
    assert len(written) == layout.file_bytes
    assert load(written).keys() == tensors.keys()


@given(allocations())
def test_every_part_is_its_own_number(allocation):
    layout = file_layout(allocation)
    tensors = tensors_of(allocation, layout)
    size = lambda *names: sum(tensors[name].nbytes for name in names if name in tensors)  # noqa: E731
    assert layout.payload_bits == allocation.payload_bits == 8 * size("payload")
    assert layout.padding_bits == 8 * size("payload") - sum(
        int(np.unpackbits(plane).sum()) for plane in packed_planes(allocation)
    )
    assert layout.scale_bytes == size("scales")
    assert layout.code_table_bytes == size("codes")
    assert layout.kept_bytes == size("kept", "exact")
    assert layout.container_bytes % 8 == 0


@given(allocations())
def test_the_code_table_holds_each_recoded_code_once(allocation):
    layout = file_layout(allocation)
    assert len(set(layout.codes)) == len(layout.codes)
    for name, spec in allocation.layers.items():
        stored = [layout.codes[index].taps for index in layout.plane_codes.get(name, ())]
        assert stored == [code.reduced().code.taps for code in spec.codes]


@given(allocations(), model_names)
def test_the_metadata_is_ascii_and_names_every_tensor(allocation, model_name):
    metadata = file_layout(allocation, model_name).metadata
    assert metadata_text(metadata).isascii()
    body = json.loads(metadata_text(metadata))
    assert body == metadata
    kept = {name for name, _ in body["kept"]} | {name for name, _, _ in body["exact"]}
    assert kept == {tensor.name for tensor in allocation.model.others}
    assert {name: planes != [] for name, _, planes, *_ in body["layers"]} == {
        name: not spec.is_kept for name, spec in allocation.layers.items()
    }
    assert body["model"] == model_name


def test_biases_are_stored_for_layers_that_have_one_or_whose_norm_is_folded():
    model = model_of(
        layer("plain", 4, 5),
        layer("biased", 4, 5, bias=True),
        layer("normed", 4, 5, folded_norm="norm"),
        layer("", 4, 5),
    )
    layout = file_layout(Allocation.of(model, {"plain": LayerSpec(), "biased": LayerSpec()}))
    assert [tensor.name for tensor in layout.kept] == ["biased.bias", "normed.weight", "normed.bias", "weight"]
    assert layout.metadata["layers"] == [
        ["plain", [4, 5], [0]],
        ["biased", [4, 5], [0], 1],
        ["normed", [4, 5], [], "norm"],
        ["", [4, 5], []],
    ]


def test_lenet5_at_eight_of_twenty_by_hand():
    layout = file_layout(Allocation.of(LENET5, {}, default=LayerSpec(n_in=8)))
    assert layout.payload_bits == 8 * 8 * (5 + 320 + 3277 + 32)
    assert layout.padding_bits == 8 * (8 * 3277 - 26215)
    assert layout.scale_bytes == layout.kept_bytes == 2 * (32 + 64 + 512 + 10)
    assert layout.code_table_bytes == 20  # one code for all four layers, a byte a row


def test_a_model_kept_whole_has_no_codes():
    layout = file_layout(Allocation.of(LENET5, {}, default=KEPT))
    assert (layout.codes, layout.plane_codes, layout.payload_bits, layout.scale_bytes) == ((), {}, 0, 0)
    assert layout.kept_bytes == 2 * LENET5.float_elements
