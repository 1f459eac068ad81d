"""Models that train together: to the last bit what each comes to alone, whatever becomes of the others."""

import logging
from dataclasses import replace

import pytest
import torch
from torch import nn

from flexor_search.errors import TrainingError
from flexor_search.planning import LayerSpec, Recipe
from flexor_search.training import Checkpoint, TrainResult, evaluate, seeded, train, train_together
from flexor_search.workloads import NO_OWN, Own
from flexor_search.workloads.resnet import ResNet

from .models import assert_same, conv_net, few_digits, one_point, quantized, small_net, values

RECIPE = Recipe(epochs=2, batch_size=32, learning_rate=1e-2)
SPECS = (LayerSpec(n_in=6, n_out=8), LayerSpec(n_in=3, n_out=8), LayerSpec("taps", 8, 8), LayerSpec("random", 5, 8, 2))
pytestmark = pytest.mark.usefixtures("one_thread")


def alike():
    """One structure, four allocations."""
    return [quantized(conv_net, seed, spec) for seed, spec in enumerate(SPECS)]


def unlike():
    """Nothing in common, one of full precision, one with a bias that does not learn."""
    flat = quantized(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 10)), 1, SPECS[1])
    flat[3].bias.requires_grad_(False)
    residual = quantized(lambda: ResNet(8, in_channels=1), 3, SPECS[2])
    with seeded(2):
        return [quantized(conv_net, 0), flat, conv_net(), residual]


def never(*_):
    return False


def alone(models, recipe, *, watches=None, data=None, own=NO_OWN, route="", device="cpu"):
    """Each by itself, with its index as seed."""
    watches = watches or [None] * len(models)
    return [
        train(model, data or few_digits(), recipe, seed=seed, on_epoch=watch, own=own, route=route, device=device)
        for seed, (model, watch) in enumerate(zip(models, watches, strict=True))
    ]


def plain(results):
    """Without the time."""
    return [replace(result, train_seconds=0.0) for result in results]


@pytest.mark.parametrize("build", [alike, unlike])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "sgd", "augmentation": "crop-flip"},
        {"decay": "encrypted", "weight_decay": 0.1, "clip": 2.0},
        {"precision": "bfloat16", "memory_format": "channels_last", "label_smoothing": 0.1},
    ],
    ids=str,
)
def test_together_each_comes_to_the_bits_that_it_comes_to_alone(build, changes):
    recipe, wanted_models, models = replace(RECIPE, **changes), build(), build()
    begun = [values(model) for model in models]
    wanted = alone(wanted_models, recipe)
    found = train_together(models, few_digits(), recipe, seeds=range(4))
    assert plain(found) == plain(wanted)
    for one, other, before in zip(wanted_models, models, begun, strict=True):
        assert_same(values(one), values(other))
        assert any(not torch.equal(before[name], value) for name, value in values(other).items())
        assert not any(module.training for module in other.modules())
    for model, result in zip(models, found, strict=True):
        assert result.train_seconds > 0
        assert evaluate(model, few_digits().validation, recipe=recipe) == result.validation


def test_who_is_stopped_leaves_and_the_others_do_not_notice():
    recipe, seen, lasts = replace(RECIPE, epochs=4), [], (2, 99, 1, 99)

    def watch(index):
        def on_epoch(epoch, score):
            seen.append((index, epoch, score))
            return epoch == lasts[index]

        return on_epoch

    models, wanted_models = alike(), alike()
    wanted = alone(wanted_models, recipe, watches=[watch(0), None, watch(2), watch(3)])
    apart, seen = seen, []
    found = train_together(models, few_digits(), recipe, seeds=range(4), on_epoch=[watch(0), None, watch(2), watch(3)])
    assert [(result.epochs, result.stopped) for result in found] == [(2, True), (4, False), (1, True), (4, False)]
    assert plain(found) == plain(wanted)
    assert [each[:2] for each in seen] == [(0, 1), (2, 1), (3, 1), (0, 2), (3, 2), (3, 3)]  # in turn
    assert sorted(seen, key=lambda each: each[0]) == apart  # the same scores
    for one, other in zip(wanted_models, models, strict=True):
        assert_same(values(one), values(other))
    assert found[2].train_seconds < found[0].train_seconds < found[1].train_seconds


@pytest.mark.parametrize(
    ("when", "message"),
    [
        ("training", "the loss is nan in epoch 1, step 1"),
        ("validation", "the validation loss is nan after epoch 1"),
    ],
)
def test_a_loss_that_is_no_number_fails_alone(when, message):
    models, wanted_models = alike(), alike()
    with torch.no_grad():
        (models[1][1].bias if when == "training" else models[1][1].running_mean).fill_(torch.nan)
    before = torch.get_rng_state()
    found = train_together(models, few_digits(), RECIPE, seeds=range(4), on_epoch=[None, never, None, None])
    assert torch.equal(torch.get_rng_state(), before)
    assert isinstance(found[1], TrainingError)
    assert str(found[1]) == message
    wanted = alone(wanted_models, RECIPE)
    for index in (0, 2, 3):
        assert plain([found[index]]) == plain([wanted[index]])
        assert_same(values(wanted_models[index]), values(models[index]))
    assert not any(module.training for model in models for module in model.modules())


def test_all_may_fail():
    models = [nn.Linear(6, 2) for _ in range(2)]
    recipe = Recipe(optimizer="sgd", learning_rate=1e38, schedule="constant", warmup=0, epochs=20, batch_size=2)
    found = train_together(models, one_point(), recipe, seeds=(0, 1))
    assert [type(result) for result in found] == [TrainingError] * 2


def test_nobody_and_one():
    assert train_together([], few_digits(), RECIPE, seeds=()) == []
    models = [quantized(small_net) for _ in range(2)]  # with dropout: one that trains by itself draws as in `train`
    (result,) = train_together(models[:1], few_digits(), RECIPE, seeds=(5,))
    assert plain([result]) == plain([train(models[1], few_digits(), RECIPE, seed=5)])
    assert_same(values(models[0]), values(models[1]))


def test_dropout_differs_from_model_to_model_and_is_the_same_every_time():
    def trained():
        models = [quantized(small_net) for _ in range(2)]
        train_together(models, few_digits(), RECIPE, seeds=(1, 1))
        return [values(model) for model in models]

    first, second = trained(), trained()
    assert not torch.equal(first[0]["6.bias"], first[1]["6.bias"])
    for one, other in zip(first, second, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize(
    ("changes", "counts"),
    [
        ({"seeds": (0,)}, "1, 2, 2 and 2"),
        ({"on_epoch": [never] * 3}, "2, 3, 2 and 2"),
        ({"checkpoints": []}, "2, 2, 0 and 2"),
        ({"teachers": [None]}, "2, 2, 2 and 1"),
    ],
)
def test_seeds_watches_and_checkpoints_are_one_a_model(changes, counts):
    given = {"seeds": (0, 1)} | changes
    with pytest.raises(
        ValueError, match=f"seeds, on_epoch, checkpoints, teachers: give one a model, got {counts} for 2 models"
    ):
        train_together([nn.Linear(6, 2) for _ in range(2)], one_point(), RECIPE, **given)


def test_a_loop_of_ones_own_is_refused():
    def loop(model, train, validation, recipe, seed, report):
        """Never called."""

    with pytest.raises(ValueError, match="own: a loop of one's own trains one model at a time"):
        train_together([nn.Linear(6, 2)], one_point(), RECIPE, seeds=(0,), own=Own(train=loop))


def test_an_error_of_the_model_ends_all():
    class Broken(nn.Linear):
        def forward(self, images):
            raise IndexError("mine")

    with pytest.raises(IndexError, match="mine"):
        train_together([nn.Linear(6, 2), Broken(6, 2)], one_point(), RECIPE, seeds=(0, 1))


@pytest.mark.parametrize("augmentation", ["none", "crop-flip"])
def test_replayed_steps_come_to_the_same(tape, augmentation):
    """Each records its own, also where another is stopped at half of the way."""
    recipe, stop = replace(RECIPE, epochs=4, augmentation=augmentation), lambda epoch, score: epoch == 2
    eager, replayed = alike(), alike()
    wanted = alone(eager, recipe, watches=[None, stop, None, None], route="eager")
    found = train_together(
        replayed, few_digits(), recipe, seeds=range(4), on_epoch=[None, stop, None, None], route="replayed"
    )
    assert plain(found) == plain(wanted)
    for one, other in zip(eager, replayed, strict=True):
        assert_same(values(one), values(other))
    assert (tape.warmed, tape.recordings, tape.replays) == (4 * 3, 4, 3 * (4 * 5 - 3) + 2 * 5 - 3)


def test_each_goes_on_from_its_own_checkpoint(tmp_path):
    """One has none, one is of another training: these begin anew, the other goes on, and all come to the same."""
    told = []

    def at(index, identity):
        return Checkpoint(tmp_path / str(index), 0.0, identity, told.append)

    whole, again = alike()[:3], alike()[:3]
    wanted = train_together(whole, few_digits(), RECIPE, seeds=range(3), checkpoints=[at(0, "a"), None, at(2, "b")])
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["0", "2"]
    assert told == []
    found = train_together(
        again, few_digits(), RECIPE, seeds=range(3), checkpoints=[at(0, "a"), at(1, "c"), at(2, "other")]
    )
    assert len(told) == 2
    assert told[0] == f"{tmp_path / '0'}: its training goes on from there"
    assert told[1].startswith(f"{tmp_path / '2'} cannot be used (it is of another training")
    assert plain(found) == plain(wanted)
    for one, other in zip(whole, again, strict=True):
        assert_same(values(one), values(other))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_on_a_gpu_four_on_streams_come_to_what_each_comes_to_alone(precision, caplog, monkeypatch):
    """Of ResNet-8 in four allocations, every step recorded with augmentation and optimizer: how far the two ends lie
    apart, in parts of the way that training went. Two graphs that got into each other would end far away."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    data = few_digits(640)
    recipe = replace(RECIPE, optimizer="sgd", epochs=3, augmentation="crop-flip")
    recipe = replace(recipe, precision=precision, memory_format="channels_last")

    def build():
        return [quantized(lambda: ResNet(8, in_channels=1), seed, spec) for seed, spec in enumerate(SPECS)]

    begun, by_themselves, together = build(), build(), build()
    with caplog.at_level(logging.INFO, logger="flexor_search.training.step"):
        wanted = alone(by_themselves, recipe, data=data, route="replayed", device="cuda")
        found = train_together(together, data, recipe, seeds=range(4), device="cuda")
    assert not caplog.records  # "cannot be recorded"
    for index in range(4):
        assert isinstance(found[index], TrainResult)
        assert found[index].epochs == wanted[index].epochs == 3
        assert found[index].validation.loss == pytest.approx(wanted[index].validation.loss, abs=0.1)
        before, one, other = (
            torch.cat([parameter.detach().cpu().flatten() for parameter in models[index].parameters()])
            for models in (begun, by_themselves, together)
        )
        assert float((other - one).norm() / (one - before).norm()) < 0.1
