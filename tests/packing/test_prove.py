"""prove notices whatever differs between the trained model and the file."""

import numpy as np
import pytest
import torch

from flexor_search.errors import FormatError, VerificationError
from flexor_search.packing import Checks, pack, packed_model, prove, save, to_bytes, unpack_into, verify_file
from flexor_search.planning import KEPT, Allocation, LayerSpec
from flexor_search.quantization import describe, quantize_

from .models import Tied, as_trained, copied, digits_case
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
    return prove(trained or case.model, case.allocation, shipped[1], case.build, case.images).checks


def test_what_was_checked_is_told(case, shipped):
    passed = proved(case, shipped).passed
    n_weights = sum(layer.n_weights for layer in case.allocation.model.layers[:3])
    assert f"all {n_weights} weight bits of 3 layers" in passed[1]
    assert f"all {n_weights} decoded signs equal the trained ones bit for bit" in passed[2]
    assert "logits of 8 images are those before recoding, bit for bit" in passed
    assert "logits of 8 images are those before container, bit for bit" in passed
    assert passed[-1].startswith("logits of 8 images after folding differ by ")


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
def test_a_trained_scale_that_changes_is_noticed(case, shipped, name):
    trained = copied(case)
    with torch.no_grad():
        trained.get_submodule(name).parametrizations.weight.original1 *= 2
    with pytest.raises(VerificationError, match="scales equal the folded"):
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


def test_a_trained_value_that_is_no_number(case, shipped):
    trained = copied(case)
    with torch.no_grad():
        trained[8].bias[0] = float("nan")
    with pytest.raises(VerificationError, match=r"8\.bias holds a value"):
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


def test_every_economy_says_what_it_saves_and_what_it_changes(case, shipped):
    packed, path = shipped
    proof = prove(case.model, case.allocation, path, case.build, case.images)
    steps = {step.saving.name: step for step in proof.steps}
    assert list(steps) == ["recoding", "code table", "container", "folding", "rounding"]
    assert all(step.within for step in proof.steps)
    for name in ("recoding", "code table", "container"):
        assert (steps[name].logit_difference, steps[name].tolerance) == (0, 0)
    assert 0 < steps["folding"].logit_difference < 1e-5 < steps["rounding"].logit_difference
    assert steps["recoding"].to_json()["saved_bytes"] == steps["recoding"].saving.saved_bytes > 0
    assert torch.equal(proof.loaded(case.images), unpack_into(packed, case.build())(case.images))


def test_rounding_that_changes_the_logits_is_told_and_is_no_error(tmp_path):
    """Two large values cancel, and what float16 leaves is far from what was trained; the file is as promised."""

    class Cancels(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = torch.nn.Linear(4, 2), torch.nn.Linear(4, 2, bias=False)

        def forward(self, x):
            return self.one(x) - self.other(x) - 1000.3

    torch.manual_seed(0)
    model = Cancels()
    with torch.no_grad():
        model.one.bias.fill_(1000.3)
    allocation = Allocation.of(describe(model), {"other": LayerSpec(n_in=4, n_out=8)})
    quantize_(model, allocation)
    save(pack(model, allocation), allocation, tmp_path / "model.safetensors")
    proof = prove(model, allocation, tmp_path / "model.safetensors", Cancels, torch.randn(8, 4))
    (rounding,) = (step for step in proof.steps if step.saving.name == "rounding")
    assert not rounding.within
    assert rounding.logit_difference > 0.01


def test_a_model_in_another_memory_format(case, shipped):
    trained = copied(case).to(memory_format=torch.channels_last)
    assert "logits of 8 images are those before recoding, bit for bit" in proved(case, shipped, trained).passed


def test_kept_convolutions_trained_in_another_memory_format(tmp_path):
    """Their weights lie in the file as all others do, and so they must in the packed model that it is compared with."""

    def build():
        convolutions = [torch.nn.Conv2d(a, b, 3, padding=1) for a, b in ((3, 16), (16, 32), (32, 32))]
        norms = [torch.nn.BatchNorm2d(count) for count in (16, 32, 32)]
        layers = [layer for pair in zip(convolutions, norms, strict=True) for layer in (*pair, torch.nn.ReLU())]
        return torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(32, 10))

    torch.manual_seed(0)
    model = build()
    allocation = Allocation.of(describe(model), {}, default=KEPT)
    as_trained(quantize_(model, allocation), 0)
    model.to(memory_format=torch.channels_last)
    packed = pack(model, allocation)
    assert all(value.flags.c_contiguous for value in packed.kept.values())
    save(packed, allocation, tmp_path / "model.safetensors")
    proof = prove(model, allocation, tmp_path / "model.safetensors", build, torch.randn(64, 3, 14, 14))
    assert "logits of 64 images are those before container, bit for bit" in proof.checks.passed


@pytest.mark.parametrize("spec", [KEPT, LayerSpec(n_in=3, n_out=4, n_planes=3)], ids=["kept", "quantized"])
def test_a_model_with_tied_weights(tmp_path, spec):
    torch.manual_seed(0)
    model = Tied(5)
    allocation = Allocation.of(describe(model), {}, default=spec)
    as_trained(quantize_(model, allocation), 0)
    save(pack(model, allocation), allocation, tmp_path / "model.safetensors")
    proof = prove(model, allocation, tmp_path / "model.safetensors", lambda: Tied(5), torch.randn(8, 5))
    assert "logits of 8 images are those before recoding, bit for bit" in proof.checks.passed


def test_a_model_that_draws_random_numbers_draws_them_alike(tmp_path):
    class Dropped(torch.nn.Linear):
        def forward(self, x):
            return torch.nn.functional.dropout(super().forward(x), 0.5, training=True)

    model = Dropped(8, 4)
    allocation = Allocation.of(describe(model), {"": LayerSpec(n_in=4, n_out=8)})
    quantize_(model, allocation)
    save(pack(model, allocation), allocation, tmp_path / "model.safetensors")
    proof = prove(model, allocation, tmp_path / "model.safetensors", lambda: Dropped(8, 4), torch.randn(8, 8))
    assert "logits of 8 images are those before recoding, bit for bit" in proof.checks.passed


def test_inputs_far_from_zero_in_front_of_a_batch_norm_are_told_and_no_error(tmp_path):
    def build():
        parts = [
            part for _ in range(8) for part in (torch.nn.Linear(16, 16), torch.nn.BatchNorm1d(16), torch.nn.ReLU())
        ]
        return torch.nn.Sequential(*parts, torch.nn.Linear(16, 4))

    torch.manual_seed(0)
    images, model = 1000 + torch.randn(256, 16), build()
    allocation = Allocation.of(describe(model), {"0": LayerSpec(n_in=8), "9": LayerSpec(n_in=8)}, "float32")
    quantize_(model, allocation).train()
    with torch.no_grad():
        for _ in range(60):
            model(images)
    save(pack(model.eval(), allocation), allocation, tmp_path / "model.safetensors")
    proof = prove(model, allocation, tmp_path / "model.safetensors", build, images[:32])
    (folding,) = (step for step in proof.steps if step.saving.name == "folding")
    assert 1e-5 < folding.logit_difference < 0.05


def test_logits_that_are_infinite_are_equal_where_they_are(tmp_path):
    class Masked(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x).masked_fill(torch.tensor([True, False, False, False]), -torch.inf)

    model = Masked(8, 4)
    allocation = Allocation.of(describe(model), {"": LayerSpec(n_in=4, n_out=8)})
    quantize_(model, allocation)
    save(pack(model, allocation), allocation, tmp_path / "model.safetensors")
    proof = prove(model, allocation, tmp_path / "model.safetensors", lambda: Masked(8, 4), torch.randn(8, 8))
    assert all(step.within for step in proof.steps)


def test_a_batch_norm_that_should_not_have_been_folded_is_an_error(tmp_path):
    """Over the positions of a sequence, not over the channels; their numbers are equal, so no shape tells."""

    def build():
        return torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.BatchNorm1d(6), torch.nn.Flatten())

    torch.manual_seed(0)
    model = build()
    allocation = Allocation.of(describe(model), {"0": LayerSpec(n_in=4, n_out=8)})
    as_trained(quantize_(model, allocation), 0)
    save(pack(model, allocation), allocation, tmp_path / "model.safetensors")
    with pytest.raises(VerificationError, match="after folding differ by"):
        prove(model, allocation, tmp_path / "model.safetensors", build, torch.randn(8, 6, 6))


def test_a_model_that_answers_differently_every_time_is_proven_by_its_weights(tmp_path):
    class Noisy(torch.nn.Linear):
        asked = 0

        def forward(self, x):
            Noisy.asked += 1
            return super().forward(x) + Noisy.asked

    model = Noisy(8, 4)
    allocation = Allocation.of(describe(model), {"": LayerSpec(n_in=4, n_out=8)}, "float32")
    quantize_(model, allocation)
    save(pack(model, allocation), allocation, tmp_path / "model.safetensors")
    passed = prove(model, allocation, tmp_path / "model.safetensors", lambda: Noisy(8, 4), torch.randn(8, 8)).checks
    assert not [text for text in passed.passed if "bit for bit" in text and "logits" in text]


def test_a_check_is_noted_or_raised():
    checks = Checks()
    checks.add(True, "holds")
    with pytest.raises(VerificationError, match="failed: does not"):
        checks.add(False, "does not")
    assert checks.passed == ["holds"]


def test_a_model_that_works_in_place_is_proven_by_its_logits_too(tmp_path):
    class Halved(torch.nn.Sequential):
        def forward(self, x):
            return super().forward(x.mul_(0.5))

    def build():
        return Halved(torch.nn.Linear(40, 20), torch.nn.ReLU(), torch.nn.Linear(20, 4))

    torch.manual_seed(0)
    allocation = Allocation.of(describe(build()), {"0": LayerSpec(n_in=8, n_out=20)})
    model, images, path = quantize_(build(), allocation).eval(), torch.randn(8, 40), tmp_path / "model.safetensors"
    before = images.clone()
    save(pack(model, allocation), allocation, path)
    passed = prove(model, allocation, path, build, images).checks.passed
    assert "logits of 8 images are those before recoding, bit for bit" in passed
    assert torch.equal(images, before)
