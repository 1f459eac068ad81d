"""A training that was killed anywhere comes to the same bits; what cannot be used is told, and is no error."""

import contextlib
import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from flexor_search.errors import RunError
from flexor_search.planning import LayerSpec, Recipe
from flexor_search.training import Checkpoint, TrainResult, train, train_together
from flexor_search.training import checkpoint as module

from .models import assert_same, conv_net, few_digits, quantized, small_net, values

RECIPE = Recipe(epochs=3, batch_size=32)
STEPS = 5  # of an epoch of 160 images
pytestmark = pytest.mark.usefixtures("one_thread")


class Killed(BaseException):
    """As SIGKILL: nothing runs after it."""


class Counted(nn.Module):
    """Keeps a buffer that no state_dict holds, and draws random numbers."""

    def __init__(self):
        super().__init__()
        self.net = small_net()
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, images):
        if self.training:
            self.seen = self.seen + 1
        return self.net(images) + self.seen * 1e-3


def killed_after(writes, path, work):
    """Do some work with a checkpoint after every step, killed as soon as so many are written; how often it was told."""
    told, write, count = [], module.write_atomically, 0

    def counted(*args):
        nonlocal count
        write(*args)
        count += 1
        if count == writes:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "write_atomically", counted)
        with contextlib.suppress(Killed):
            return told, work(Checkpoint(path, 0.0, "me", told.append))
    return told, None


@settings(max_examples=12)
@given(
    kills=st.lists(st.integers(1, 3 * STEPS - 1), min_size=1, max_size=3),
    optimizer=st.sampled_from(["adam", "sgd"]),
    memory_format=st.sampled_from(["contiguous", "channels_last"]),
    augmentation=st.sampled_from(["none", "crop-flip"]),
    watched=st.booleans(),
)
def test_killed_anywhere_it_comes_to_the_same_bits(
    tmp_path_factory, kills, optimizer, memory_format, augmentation, watched
):
    """Killed after so many steps of each attempt, until one gets through."""
    path = tmp_path_factory.mktemp("kill") / "x.safetensors"
    recipe = replace(
        RECIPE, optimizer=optimizer, memory_format=memory_format, augmentation=augmentation, learning_rate=1e-2
    )

    def attempt(checkpoint):
        seen = {}

        def on_epoch(epoch, score):
            seen[epoch] = score
            return False

        model = quantized(Counted)
        result = train(
            model, few_digits(), recipe, seed=3, on_epoch=on_epoch if watched else None, checkpoint=checkpoint
        )
        return values(model), result.validation, result.epochs, seen

    whole = attempt(None)
    left = 3 * STEPS
    for writes in kills:
        told, found = killed_after(writes, path, attempt)
        assert (found is None) == (writes <= left)
        left -= writes
        if found is not None:
            break
    else:
        told, found = killed_after(10**9, path, attempt)
        assert told == [f"{path}: its training goes on from there"]
    assert_same(whole[0], found[0])
    assert found[1:] == whole[1:]


def test_killed_between_the_last_step_and_the_end_nothing_is_trained_again(tmp_path):
    def attempt(checkpoint):
        model = quantized(small_net)
        return values(model), train(model, few_digits(), RECIPE, seed=3, checkpoint=checkpoint), values(model)

    path = tmp_path / "x.safetensors"
    assert killed_after(3 * STEPS, path, attempt)[1] is None
    before = path.read_bytes()
    _, found = killed_after(10**9, path, attempt)
    assert path.read_bytes() == before  # no step, so no other checkpoint
    assert_same(found[2], attempt(None)[2])
    assert found[1].train_seconds > 0


@settings(max_examples=8)
@given(kills=st.lists(st.integers(1, 3 * 4 * STEPS - 1), min_size=1, max_size=3), poison=st.booleans())
def test_trainings_killed_together_go_on_each_from_its_own_file(tmp_path_factory, kills, poison):
    """One of three is stopped after epoch 2, one may fail: the others go on as if there had been no kill."""
    folder = tmp_path_factory.mktemp("together")
    recipe = replace(RECIPE, epochs=4)

    def attempt(checkpoint):
        models = [quantized(conv_net, i, LayerSpec(n_in=n_in, n_out=8)) for i, n_in in enumerate((6, 7, 5))]
        if poison:
            with torch.no_grad():
                models[2][7].bias.fill_(torch.nan)
        seen = [{} for _ in models]

        def watch(index):
            def on_epoch(epoch, score):
                seen[index][epoch] = score
                return (index, epoch) == (1, 2)

            return on_epoch

        results = train_together(
            *(models, few_digits(), recipe),
            seeds=[1, 2, 3],
            on_epoch=[watch(i) for i in range(3)],
            checkpoints=checkpoint and [replace(checkpoint, path=folder / str(i), identity=i) for i in range(3)],
        )
        plain = [
            (r.validation, r.epochs, r.stopped) if isinstance(r, TrainResult) else (type(r), str(r)) for r in results
        ]
        return [values(model) for model in models], plain, seen

    whole = attempt(None)
    assert whole[1][1][1:] == (2, True)
    for writes in [*kills, 10**9]:
        there = sorted(path for path in folder.iterdir() if path.suffix == "")
        told, found = killed_after(writes, folder / "unused", attempt)
        assert told == [f"{path}: its training goes on from there" for path in there]
        if found is not None:
            break
    assert found[1:] == whole[1:]
    for one, other in zip(whole[0][: 3 - poison], found[0], strict=False):
        assert_same(one, other)


def begun(path, **changes):
    """A training killed after two steps; what a second attempt is told, and whether it is as from the beginning."""

    def attempt(checkpoint):
        model = quantized(small_net)
        train(model, few_digits(), replace(RECIPE, **changes), seed=3, checkpoint=checkpoint)
        return values(model)

    return attempt


def flip(path):
    raw = bytearray(path.read_bytes())
    raw[-20] ^= 1
    path.write_bytes(raw)


def other_identity(path):
    tensors, about = module.read_checkpoint(path)
    about["identity"][2] = "somebody else"
    module.write_checkpoint(path, tensors, about)


def other_shape(path):
    tensors, about = module.read_checkpoint(path)
    tensors["model.6.bias"] = torch.zeros(11)
    module.write_checkpoint(path, tensors, about)


def one_tensor_less(path):
    tensors, about = module.read_checkpoint(path)
    del tensors["model.6.bias"]
    module.write_checkpoint(path, tensors, about)


DAMAGES = {
    "empty": (lambda path: path.write_bytes(b""), "cannot be used"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-7]), "cannot be used"),
    "cut in its header": (lambda path: path.write_bytes(path.read_bytes()[:50]), "cannot be used"),
    "no such file format": (lambda path: path.write_bytes(b"hello world" * 100), "cannot be used"),
    "a bit is flipped": (flip, "its SHA-256 does not match"),
    "a safetensors file of others": (lambda path: save_file({"x": torch.zeros(3)}, path), "SHA-256"),
    "a pickle": (lambda path: torch.save({"x": 1}, path), "cannot be used"),
    "of another training": (other_identity, "it is of another training or version"),
    "of another shape": (other_shape, r"model.6.bias is of another shape"),
    "incomplete": (one_tensor_less, r"model.6.bias is of another shape"),
}


@pytest.mark.parametrize(("damage", "words"), DAMAGES.values(), ids=DAMAGES)
def test_what_cannot_be_used_is_told_and_the_training_begins_anew(tmp_path, damage, words):
    path = tmp_path / "x.safetensors"
    attempt = begun(path)
    killed_after(7, path, attempt)
    damage(path)
    told, found = killed_after(10**9, path, attempt)
    (text,) = told
    assert text.startswith(f"{path} cannot be used (")
    assert words in text
    assert text.endswith("); its training begins anew")
    assert_same(found, attempt(None))


@pytest.mark.parametrize("change", [{"learning_rate": 1e-2}, {"epochs": 4}, {"batch_size": 16}])
def test_another_recipe_is_another_training(tmp_path, change):
    path = tmp_path / "x.safetensors"
    killed_after(7, path, begun(path))
    told, found = killed_after(10**9, path, begun(path, **change))
    assert "it is of another training" in told[0]
    assert_same(found, begun(path, **change)(None))


def test_the_file_is_safetensors_and_json(tmp_path):
    path = tmp_path / "x.safetensors"
    killed_after(7, path, begun(path))
    with safe_open(path, "np") as file:
        about = json.loads(file.metadata()["about"])
        assert "model.0.parametrizations.weight.original0" in file.keys()  # noqa: SIM118
        assert "optimizer.0.exp_avg" in file.keys()  # noqa: SIM118
    assert about["progress"]["epoch"] == 1
    assert about["progress"]["step"] == 2


def test_a_training_shorter_than_the_interval_writes_nothing(tmp_path):
    path = tmp_path / "x.safetensors"
    train(quantized(small_net), few_digits(), RECIPE, seed=3, checkpoint=Checkpoint(path, 3600))
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_cannot_be_written_ends_the_training_in_words(tmp_path):
    with pytest.raises(RunError, match="cannot write"):
        train(
            *(quantized(small_net), few_digits(), RECIPE), seed=3, checkpoint=Checkpoint(tmp_path / "absent" / "x", 0.0)
        )


def test_a_model_that_keeps_more_than_tensors_gets_no_checkpoints(tmp_path):
    class Hidden(nn.Linear):
        def get_extra_state(self):
            return {"calls": 3}

        def set_extra_state(self, state):
            pass

    told, path = [], tmp_path / "x"
    model = nn.Sequential(nn.Flatten(), Hidden(64, 10))
    train(model, few_digits(), RECIPE, seed=3, checkpoint=Checkpoint(path, 0.0, tell=told.append))
    assert told == ["no checkpoints: Hidden keeps state that is no tensor"]
    assert not path.exists()
