"""One training: packed, proven and written down, or failed with a reason; never done twice."""

import errno
import math
import os
import re
from dataclasses import replace

import pytest
import torch
from torch import nn

from flexor_search.errors import RunError, VerificationError
from flexor_search.packing import load_packed, verify_file
from flexor_search.planning import file_layout, full_precision
from flexor_search.runs import CONFIRM, DONE, FAILED, SEARCH, STOPPED, Run
from flexor_search.training import evaluate
from flexor_search.tuning import Candidate, measurer, proven
from flexor_search.tuning.summary import packing_warnings
from flexor_search.tuning.trial import Trial

from .models import RECIPE, measurer_in, small_net, space_of, uniform_at

SPACE = space_of()
UNIFORM = Candidate(uniform_at(SPACE, 14), "uniform", "0.7bpw")
SMALLER = Candidate(uniform_at(SPACE, 8), "uniform", "0.4bpw")


@pytest.fixture
def trainings(monkeypatch):
    """Counts real trainings."""
    calls = []

    def counted(*args, **more):
        calls.append(more["seed"])
        return train(*args, **more)

    train = measurer.train
    monkeypatch.setattr(measurer, "train", counted)
    return calls


def files_in(run):
    return sorted(path.name for path in (run.folder / "trained").iterdir())


def without_time(measurement):
    return replace(measurement, train_seconds=0.0)


def test_what_is_measured_is_packed_proven_and_written_down(tmp_path):
    measured_by = measurer_in(tmp_path)
    found = measured_by.measure(UNIFORM, SEARCH, 3)
    allocation, path = UNIFORM.allocation, measured_by.run.trained_path(0)
    assert Run.open(tmp_path).measurements == measured_by.run.measurements == (found,)
    assert (found.number, found.phase, found.kind, found.seed) == (0, SEARCH, "uniform", 3)
    assert (found.digest, found.label, found.budget) == (allocation.digest, allocation.label, "0.7bpw")
    assert (found.bits_per_weight, found.payload_bits) == (0.7, allocation.payload_bits)
    assert found.file_bytes == file_layout(allocation).file_bytes == path.stat().st_size
    assert (found.state, found.reason, found.epochs, found.images) == (DONE, "", 1, 200)
    assert 0 <= found.val_accuracy <= 1
    assert math.isfinite(found.val_loss)
    assert files_in(measured_by.run) == ["0.json", "0.safetensors"]
    verify_file(path)
    told = measured_by.run.packing(0)
    assert [step["name"] for step in told["steps"]] == ["recoding", "code table", "container", "folding", "rounding"]
    assert all(step["within"] for step in told["steps"])
    assert (told["kept_dtype"], told["kept_dtype_holds"]) == ("float16", True)
    assert told["val_accuracy_trained"] == pytest.approx(found.val_accuracy, abs=1e-6)
    loaded = load_packed(path, small_net())
    assert evaluate(loaded, measured_by.data.validation).accuracy == pytest.approx(found.val_accuracy, abs=0.02)
    assert measured_by.test_accuracy(found) == evaluate(loaded, measured_by.data.test).accuracy


def test_what_is_known_is_looked_up(tmp_path, trainings):
    measured_by = measurer_in(tmp_path)
    first = measured_by.measure(UNIFORM, SEARCH, 0)
    again = measurer_in(tmp_path)
    for one in (measured_by, again):
        assert one.measure(UNIFORM, SEARCH, 0) == first
        assert one.measure(replace(UNIFORM, kind="proposed", budget="1bpw"), SEARCH, 0) == first
    assert trainings == [0]
    assert len(Run.open(tmp_path).measurements) == 1
    again.measure(UNIFORM, SEARCH, 1)
    again.measure(SMALLER, SEARCH, 0)
    again.measure(UNIFORM, CONFIRM, 0)
    assert trainings == [0, 1, 0, 0]
    assert [m.number for m in again.run.measurements] == [0, 1, 2, 3]


def test_the_same_seed_gives_the_same_measurement_and_file(tmp_path):
    one, other = measurer_in(tmp_path / "one"), measurer_in(tmp_path / "other")
    torch.rand(5)
    first, second = (each.measure(UNIFORM, CONFIRM, 7) for each in (one, other))
    assert without_time(first) == without_time(second)
    assert one.run.trained_path(0).read_bytes() == other.run.trained_path(0).read_bytes()
    third = other.measure(UNIFORM, CONFIRM, 8)
    assert third.val_loss != first.val_loss


def test_rounding_that_costs_accuracy_is_told_and_the_file_stays_as_small(tmp_path, monkeypatch):
    """As if the packed model had lost a tenth: what is scored last is the packed one."""
    real = proven.evaluate

    def worse(model, split, **options):
        score = real(model, split, **options)
        return replace(score, accuracy=score.accuracy - 0.1)

    monkeypatch.setattr(proven, "evaluate", worse)
    measured_by = measurer_in(tmp_path)
    found = measured_by.measure(UNIFORM, SEARCH, 3)
    told = measured_by.run.packing(0)
    assert (found.state, told["kept_dtype_holds"]) == (DONE, False)
    assert found.file_bytes == measured_by.run.trained_path(0).stat().st_size
    (line,) = packing_warnings(told)
    assert line.startswith("float16 costs validation accuracy: ")
    more = told["steps"][-1]["saved_bytes"]
    assert line.endswith(f'kept_dtype = "float32" in the space file avoids it, for {more:,} bytes more')
    told["steps"][-1] |= {"within": False, "logit_difference": 0.25}
    assert "float16 moves a logit by 2.5e-01 of the largest" in packing_warnings(told)[1]
    assert packing_warnings(None) == []


def test_search_trials_are_shorter_and_of_fewer_images(tmp_path):
    measured_by = measurer_in(tmp_path, recipe=replace(RECIPE, epochs=2, search_epochs=1, search_images=96))
    short, full = (measured_by.measure(UNIFORM, phase, 0) for phase in (SEARCH, CONFIRM))
    assert (short.epochs, short.images) == (1, 96)
    assert (full.epochs, full.images) == (2, 200)


def test_a_lost_file_is_trained_again_once(tmp_path, trainings):
    measured_by = measurer_in(tmp_path)
    first = measured_by.measure(UNIFORM, SEARCH, 0)
    content = measured_by.run.trained_path(0).read_bytes()
    measured_by.run.trained_path(0).unlink()
    for opened in (lambda: measured_by, lambda: measurer_in(tmp_path)):
        again = opened().measure(UNIFORM, SEARCH, 0)
        assert again.number == 1
        assert without_time(again) == replace(without_time(first), number=1)
    assert trainings == [0, 0]
    assert measured_by.run.trained_path(1).read_bytes() == content
    assert files_in(measured_by.run) == ["0.json", "1.json", "1.safetensors"]


class NotANumber(nn.Module):
    """Gives NaN while it trains, or while it is evaluated, or both."""

    def __init__(self, training):
        super().__init__()
        self.net, self.when = small_net(), training

    def forward(self, images):
        logits = self.net(images)
        return logits * torch.nan if self.training == self.when else logits


FAILURES = {
    "learning rate": (small_net, replace(RECIPE, learning_rate=1e38), r"the (validation )?loss is (nan|inf)"),
    "NaN in training": (lambda: NotANumber(True), RECIPE, r"the loss is nan in epoch 1, step 1"),
    "NaN in evaluation": (lambda: NotANumber(False), RECIPE, r"the validation loss is nan after epoch 1"),
}


@pytest.mark.parametrize(("build", "recipe", "reason"), FAILURES.values(), ids=FAILURES)
def test_a_loss_that_is_no_number_fails_with_a_reason_and_nothing_else(tmp_path, trainings, build, recipe, reason):
    space = space_of(build)
    measured_by = measurer_in(tmp_path, build, recipe)
    found = measured_by.measure(Candidate(uniform_at(space, 14), "uniform", "0.7bpw"), SEARCH, 0)
    assert found.state == FAILED
    assert math.isnan(found.val_accuracy)
    assert math.isnan(found.val_loss)
    assert files_in(measured_by.run) == []
    assert re.search(reason, found.reason)
    assert repr(Run.open(tmp_path).measurements) == repr((found,))
    other = Candidate(uniform_at(space, 8), "uniform", "0.4bpw")
    assert measured_by.measure(other, SEARCH, 0).number == 1  # the run goes on
    assert repr(measured_by.measure(Candidate(uniform_at(space, 14), "uniform"), SEARCH, 0)) == repr(found)
    assert trainings == [0, 0]


def test_after_a_failure_others_still_finish(tmp_path):
    def build():
        """NaN for layers of few stored bits."""

        class Choosy(nn.Module):
            def __init__(self):
                super().__init__()
                self.net = small_net()

            def forward(self, images):
                layer = self.net[3]
                few = hasattr(layer, "parametrizations") and layer.parametrizations.weight.original0.numel() < 640
                return self.net(images) * (torch.nan if few and self.training else 1.0)

        return Choosy()

    space, measured_by = space_of(build), measurer_in(tmp_path, build)
    states = [measured_by.measure(Candidate(uniform_at(space, n), "uniform"), SEARCH, 0).state for n in (14, 4, 16)]
    assert states == [DONE, FAILED, DONE]
    assert files_in(measured_by.run) == ["0.json", "0.safetensors", "2.json", "2.safetensors"]


def test_a_value_that_the_kept_dtype_cannot_hold_fails_with_the_remedy(tmp_path):
    def build():
        net = small_net()
        nn.init.constant_(net[9].bias, 1e6)
        return net

    found = measurer_in(tmp_path, build).measure(UNIFORM, SEARCH, 0)
    assert found.state == FAILED
    assert "9.bias holds a value that float16 cannot; set kept_dtype to float32 in the space" in found.reason
    assert files_in(Run.open(tmp_path)) == []
    wide = space_of(build, kept_dtype="float32")
    again = measurer_in(tmp_path / "wide", build).measure(Candidate(uniform_at(wide, 14), "uniform"), SEARCH, 0)
    assert again.state == DONE


@pytest.mark.parametrize(
    "error", [VerificationError("verify: failed: a bit\nand more"), MemoryError(), torch.OutOfMemoryError("no")]
)
def test_what_cannot_be_proven_or_held_in_memory_fails_and_leaves_no_file(tmp_path, monkeypatch, error):
    def refuse(*_args):
        raise error

    monkeypatch.setattr(proven, "prove", refuse)
    measured_by = measurer_in(tmp_path)
    found = measured_by.measure(UNIFORM, SEARCH, 0)
    assert found.state == FAILED
    assert found.reason == {"VerificationError": "verify: failed: a bit", "OutOfMemoryError": "no"}.get(
        type(error).__name__, "MemoryError"
    )
    assert files_in(measured_by.run) == []


def test_a_weak_trial_is_stopped_and_leaves_no_file(tmp_path):
    recipe, asked = replace(RECIPE, epochs=5, search_epochs=5), []

    def weak(epoch, score):
        asked.append((epoch, score.accuracy))
        return epoch == 3

    measured_by = measurer_in(tmp_path, recipe=recipe)
    found = measured_by.measure(UNIFORM, SEARCH, 0, weak)
    assert (found.state, found.epochs, found.reason) == (STOPPED, 3, "weak after epoch 3")
    assert found.rung_accuracies == dict(asked)  # every digit, for they are compared
    assert list(found.rung_accuracies) == [1, 2, 3]
    assert found.val_accuracy == asked[-1][1]
    assert files_in(measured_by.run) == []
    assert measured_by.measure(UNIFORM, SEARCH, 0, weak) == found
    whole = measured_by.measure(UNIFORM, SEARCH, 0)  # a rule of thumb that was a proposal before
    assert (whole.state, whole.epochs, whole.number) == (DONE, 5, 1)
    assert measured_by.measure(UNIFORM, SEARCH, 0, weak) == whole


def test_confirmations_are_never_stopped(tmp_path):
    found = measurer_in(tmp_path).measure(UNIFORM, CONFIRM, 0, lambda *_: True)
    assert (found.state, found.epochs, found.rungs) == (DONE, 2, "")


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_leaves_neither_a_line_nor_a_file(tmp_path, monkeypatch, error):
    def interrupted(*_args):
        raise error

    monkeypatch.setattr(proven, "prove", interrupted)
    measured_by = measurer_in(tmp_path)
    with pytest.raises(error):
        measured_by.measure(UNIFORM, SEARCH, 0)
    assert files_in(measured_by.run) == []
    assert Run.open(tmp_path).measurements == ()


def test_a_full_disk_ends_the_run_in_words_and_leaves_no_half_model(tmp_path, monkeypatch):
    measured_by = measurer_in(tmp_path)

    def full(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"cannot write .*: No space left on device"):
        measured_by.measure(UNIFORM, SEARCH, 0)
    assert files_in(measured_by.run) == []
    assert measured_by.run.measurements == ()


def test_full_precision_is_measured_like_any_other(tmp_path):
    measured_by = measurer_in(tmp_path)
    allocation = full_precision(SPACE.model)
    found = measured_by.measure(Candidate(allocation, "full precision"), CONFIRM, 0)
    assert (found.state, found.bits_per_weight, found.payload_bits) == (DONE, 32.0, 0)
    assert found.file_bytes == measured_by.run.trained_path(0).stat().st_size


def test_trainings_of_one_seed_and_length_learn_from_one_teacher(tmp_path):
    taught = measurer_in(tmp_path / "run", recipe=replace(RECIPE, distillation=0.5))
    plain = measurer_in(tmp_path / "plain")
    found = [taught.measure(candidate, SEARCH, 0) for candidate in (UNIFORM, SMALLER)]
    assert all(m.state == DONE for m in found)
    assert found[0].val_loss != plain.measure(UNIFORM, SEARCH, 0).val_loss
    assert len(list((taught.run.folder / "trained").glob("teacher-*"))) == 1
    full = Candidate(full_precision(SPACE.model), "full precision")
    assert taught.measure(full, CONFIRM, 7).val_loss == plain.measure(full, CONFIRM, 7).val_loss
    taught.measure(UNIFORM, CONFIRM, 7)
    assert len(list((taught.run.folder / "trained").glob("teacher-*"))) == 2
    trials = [Trial(UNIFORM, SEARCH, seed) for seed in (0, 1)]
    together = taught.attempt_together(trials, [8, 9])
    assert together[0].val_loss == found[0].val_loss
    assert not list((taught.run.folder / "trained").glob("unfinished-*"))


def test_a_teacher_that_diverges_fails_what_was_to_learn_from_it(tmp_path):
    recipe = replace(RECIPE, distillation=0.5, learning_rate=1e30, schedule="constant", warmup=0.0)
    measurer = measurer_in(tmp_path / "run", recipe=recipe)
    found = [measurer.measure(UNIFORM, SEARCH, 0)]
    found += measurer.attempt_together([Trial(UNIFORM, SEARCH, seed) for seed in (0, 1)], [8, 9])
    assert [m.state for m in found] == [FAILED] * 3
    assert all("loss is" in m.reason for m in found)
