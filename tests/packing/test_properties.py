"""Any model, any allocation: predicted bytes are written, and what is read is what was trained, bit for bit."""

import numpy as np
import torch
from hypothesis import given, settings

from flexor_search.codes import decode_reference
from flexor_search.packing import from_bytes, load, load_packed, pack, prove, save, to_bytes, unpack_into, verify_file
from flexor_search.planning import file_layout
from flexor_search.quantization import quantize_

from .models import as_trained, cases


def trained_bits(case):
    """The trained sign planes by name, by the code as it was trained: the file holds another, re-coded one."""
    for layer, spec in zip(case.allocation.model.layers, case.allocation.specs, strict=True):
        if not spec.is_kept:
            encrypted = case.model.get_submodule(layer.name).parametrizations.weight.original0.detach().numpy()
            stored = (encrypted >= 0).astype(np.uint8)
            planes = zip(spec.codes, stored, strict=True)
            yield layer.name, np.stack([decode_reference(code, bits.T, layer.n_weights) for code, bits in planes])


def equal(one, other):
    assert (one.model_name, one.kept_dtype, one.folded) == (other.model_name, other.kept_dtype, other.folded)
    for ours, theirs in zip(one.layers, other.layers, strict=True):
        assert (ours.name, ours.weight_shape, ours.transposed_groups) == (
            *(theirs.name, theirs.weight_shape, theirs.transposed_groups),
        )
        assert [code.taps for code in ours.codes] == [code.taps for code in theirs.codes]
        assert all(np.array_equal(a, b) for a, b in zip(ours.planes, theirs.planes, strict=True))
        assert np.array_equal(ours.scale, theirs.scale)
    for ours, theirs in ((one.kept, other.kept), (one.exact, other.exact)):
        assert list(ours) == list(theirs)
        for name, value in ours.items():
            assert value.dtype == theirs[name].dtype
            assert value.shape == theirs[name].shape
            assert np.array_equal(value, theirs[name])


@given(cases())
def test_the_written_bytes_are_the_predicted_ones_and_read_back_equal(case):
    packed = pack(case.model, case.allocation, "digits-convnet")
    raw = to_bytes(packed, case.allocation)
    layout = file_layout(case.allocation, "digits-convnet")
    assert len(raw) == layout.file_bytes
    assert 8 * packed.payload_bytes == layout.payload_bits
    equal(packed, from_bytes(raw))
    assert to_bytes(from_bytes(raw), case.allocation) == raw


@given(cases())
def test_every_decoder_gives_the_trained_bits(case):
    found = from_bytes(to_bytes(pack(case.model, case.allocation), case.allocation))
    wanted = dict(trained_bits(case))
    assert [layer.name for layer in found.layers] == list(wanted)
    for layer in found.layers:
        assert np.array_equal(layer.weight_bits("reference"), wanted[layer.name])
        assert np.array_equal(layer.weight_bits("fast"), wanted[layer.name])
        assert np.array_equal(layer.weight_bits("numba"), wanted[layer.name])
        assert np.array_equal(layer.weight("numba").view(np.uint32), layer.weight("reference").view(np.uint32))


@given(cases())
def test_the_loaded_model_computes_what_the_trained_one_does(case):
    packed = pack(case.model, case.allocation)
    loaded = unpack_into(from_bytes(to_bytes(packed, case.allocation)), case.build())
    with torch.no_grad():
        wanted, found = case.model(case.images), loaded(case.images)
    tolerance = {"float16": 2e-2, "float32": 1e-4}[case.allocation.kept_dtype]
    torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance * max(1, float(wanted.abs().max())))
    assert not any(module.training for module in loaded.modules())
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    for name, value in loaded.state_dict().items():
        if not value.is_floating_point():
            assert torch.equal(value, case.model.state_dict()[name])


@settings(max_examples=40)
@given(cases())
def test_a_file_that_was_saved_is_proved(tmp_path_factory, case):
    path = tmp_path_factory.mktemp("proved") / "model.safetensors"
    packed = pack(case.model, case.allocation)
    save(packed, case.allocation, path)
    equal(packed, load(path))
    assert len(prove(case.model, case.allocation, path, case.build, case.images).checks.passed) == 8
    assert len(verify_file(path).passed) == 3
    assert not load_packed(path, case.build()).training


@settings(max_examples=40)
@given(cases())
def test_packing_depends_on_the_state_alone_and_leaves_it_as_it_was(case):
    before = {name: value.clone() for name, value in case.model.state_dict().items()}
    raw = to_bytes(pack(case.model, case.allocation), case.allocation)
    other = as_trained(quantize_(case.build(), case.allocation), 5)
    other.load_state_dict(case.model.state_dict())
    assert to_bytes(pack(other, case.allocation), case.allocation) == raw
    assert all(torch.equal(value, before[name]) for name, value in case.model.state_dict().items())
