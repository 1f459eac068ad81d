"""prove notices whatever differs between the trained model and the file."""

import dataclasses

import numpy as np
import pytest
import torch

from flexor_search.errors import FormatError, VerificationError
from flexor_search.packing import Checks, pack, packed_model, prove, save, to_bytes, verify_file

from .models import copied, digits_case
from .rewriting import rewritten


@pytest.fixture(scope="module")
def case():
    return digits_case(n_planes=1)


@pytest.fixture
def shipped(case, tmp_path):
    """A packed model and its file."""
    packed = pack(case.model, case.allocation)
    save(packed, case.allocation, tmp_path / "model.safetensors")
    return packed, tmp_path / "model.safetensors"


def proved(case, shipped, trained=None):
    packed, path = shipped
    return prove(trained or case.model, case.allocation, packed, path, case.build(), case.images)


def test_what_was_checked_is_told(case, shipped):
    passed = proved(case, shipped).passed
    n_weights = sum(layer.n_weights for layer in case.allocation.model.layers[:3])
    assert f"all {n_weights} weight bits of 3 layers" in passed[1]
    assert f"all {n_weights} decoded signs equal the trained ones bit for bit" in passed[2]
    assert "logits of 8 images agree within 0.01" in passed[-1]


@pytest.mark.parametrize("name", ["0", "3", "6"])
def test_any_trained_weight_that_flips_is_noticed(case, shipped, name):
    for index in range(0, case.model.get_submodule(name).parametrizations.weight.original0.numel(), 3):
        trained = copied(case)
        layer = trained.get_submodule(name)
        before = layer.weight.detach().clone()
        with torch.no_grad():
            layer.parametrizations.weight.original0.view(-1)[index] *= -1
        if torch.equal(layer.weight, before):
            proved(case, shipped, trained)  # a bit that only surplus outputs tap
        else:
            with pytest.raises(VerificationError, match=f"decoded signs of layer {name} are not the trained ones"):
                proved(case, shipped, trained)


@pytest.mark.parametrize("name", ["0", "3", "6"])
def test_a_trained_scale_that_changes_is_noticed_in_the_logits(case, shipped, name):
    trained = copied(case)
    with torch.no_grad():
        trained.get_submodule(name).parametrizations.weight.original1 *= 2
    with pytest.raises(VerificationError, match="logits of 8 images"):
        proved(case, shipped, trained)


def changed(case, packed, path, edit):
    """The shipped file with other content, and a correct hash."""
    path.write_bytes(rewritten(to_bytes(packed, case.allocation), edit))


def nudge(name, index):
    def edit(metadata, tensors):
        tensors[name][index] = np.nextafter(tensors[name][index], np.array(9, tensors[name].dtype))

    return edit


@pytest.mark.parametrize("kept_dtype", ["float16", "float32"])
def test_a_scale_in_the_file_that_is_one_step_off(kept_dtype, tmp_path):
    case, path = digits_case(kept_dtype), tmp_path / "model.safetensors"
    packed = pack(case.model, case.allocation)
    changed(case, packed, path, nudge("scales", 5))
    with pytest.raises(VerificationError, match=f"scales equal the folded float64 values rounded once to {kept_dtype}"):
        proved(case, (packed, path))


def test_a_kept_value_in_the_file_that_is_one_step_off(case, shipped):
    changed(case, *shipped, nudge("kept", -1))
    with pytest.raises(VerificationError, match="biases and kept tensors equal theirs"):
        proved(case, shipped)


def test_an_exact_value_in_the_file_that_is_off(case, shipped):
    def edit(metadata, tensors):
        tensors["exact"][0] ^= 1

    changed(case, *shipped, edit)
    with pytest.raises(VerificationError, match="biases and kept tensors equal theirs"):
        proved(case, shipped)


def test_a_stored_bit_in_the_file_that_is_off(case, shipped):
    def edit(metadata, tensors):
        tensors["payload"][0] ^= 1

    changed(case, *shipped, edit)
    with pytest.raises(VerificationError, match="decoded signs of layer 0"):
        proved(case, shipped)


def test_a_file_of_another_size(case, shipped):
    def edit(metadata, tensors):
        metadata["model"] = "a-name-that-makes-the-header-longer"

    changed(case, *shipped, edit)
    with pytest.raises(VerificationError, match=r"file holds the predicted \d+ bytes"):
        proved(case, shipped)


def test_a_file_of_the_same_size_with_another_layer(case, shipped):
    def edit(metadata, tensors):
        metadata["layers"][0][0] = "9"

    changed(case, *shipped, edit)
    with pytest.raises(VerificationError, match="layers"):
        proved(case, shipped)


def test_a_damaged_file(case, shipped):
    shipped[1].write_bytes(shipped[1].read_bytes()[:-1])
    with pytest.raises(FormatError):
        proved(case, shipped)


def test_a_trained_model_whose_logits_are_no_numbers(case, shipped):
    trained = copied(case)
    with torch.no_grad():
        trained[8].bias[0] = float("nan")
    with pytest.raises(VerificationError, match="logits"):
        proved(case, shipped, trained)


@pytest.mark.parametrize("broken", ["fast", "reference"])
def test_decoders_that_disagree(case, shipped, monkeypatch, broken):
    right = packed_model.DECODERS[broken]
    monkeypatch.setitem(packed_model.DECODERS, broken, lambda *arguments: right(*arguments) ^ 1)
    for check in (lambda: verify_file(shipped[1]), lambda: proved(case, shipped)):
        with pytest.raises(VerificationError, match="decoders disagree on layer 0"):
            check()


def test_verifying_needs_the_file_alone(shipped):
    passed = verify_file(shipped[1]).passed
    assert ["SHA-256" in passed[0], "finite" in passed[1], "decoder agree" in passed[2]] == [True] * 3


def test_another_expectation_of_the_scales(case, shipped):
    packed, path = shipped
    other = dataclasses.replace(packed.layers[0], scale=packed.layers[0].scale + np.float16(0.5))
    expected = dataclasses.replace(packed, layers=(other, *packed.layers[1:]))
    with pytest.raises(VerificationError, match="scales"):
        proved(case, (expected, path))


def test_a_check_is_noted_or_raised():
    checks = Checks()
    checks.add(True, "holds")
    with pytest.raises(VerificationError, match="failed: does not"):
        checks.add(False, "does not")
    assert checks.passed == ["holds"]
