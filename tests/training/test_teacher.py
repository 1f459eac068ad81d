"""Distillation: the loss against numpy, a teacher that is trained once and kept, the same bits after a break."""

import importlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from flexor_search.errors import DataError, UsageError
from flexor_search.planning import Allocation, LayerSpec, Recipe
from flexor_search.quantization import describe
from flexor_search.training import Checkpoint, Teachers, check_fits, fresh_model, seeded, train, train_together
from flexor_search.training.score import training_loss
from flexor_search.workloads import Data, Split

from .models import conv_net, few_digits, quantized
from .test_checkpoint import assert_same, killed_after, values

RECIPE = Recipe(epochs=2, batch_size=32, distillation=0.25)
MODULE = importlib.import_module("flexor_search.training.teacher")
pytestmark = pytest.mark.usefixtures("one_thread")


class InPlace(nn.Linear):
    def forward(self, x):
        return super().forward(x.mul_(0.5))


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def test_the_loss_is_cross_entropy_and_divergence_from_the_teacher():
    torch.manual_seed(0)
    model, teacher = InPlace(6, 4), InPlace(6, 4)
    images, labels = torch.randn(5, 6), torch.tensor([0, 1, 2, 3, 0])
    x = images.double().numpy() / 2
    own, theirs = (
        x @ m.weight.detach().double().numpy().T + m.bias.detach().double().numpy() for m in (model, teacher)
    )
    wanted, given = log_softmax(theirs / 2), log_softmax(own / 2)
    divergence = 4 * (np.exp(wanted) * (wanted - given)).sum(1).mean()
    cross_entropy = -log_softmax(own)[np.arange(5), labels].mean()
    loss = training_loss(model, images, labels, RECIPE, "cpu", teacher)
    assert loss.item() == pytest.approx(0.75 * cross_entropy + 0.25 * divergence, rel=1e-5)
    loss.backward()
    assert teacher.weight.grad is None


def teachers(folder, **options):
    return Teachers(conv_net, folder, **options)


def test_a_teacher_is_trained_once_for_a_seed_and_a_length(tmp_path, monkeypatch):
    assert teachers(tmp_path).of(few_digits(), replace(RECIPE, distillation=0.0), 0, "cpu") is None
    teacher = teachers(tmp_path).of(few_digits(), RECIPE, 3, "cpu")
    assert not teacher.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    trained, calls = MODULE.train, []

    def counted(*args, **options):
        calls.append(options["seed"])
        return trained(*args, **options)

    monkeypatch.setattr(MODULE, "train", counted)
    assert_same(values(teachers(tmp_path).of(few_digits(), RECIPE, 3, "cpu")), values(teacher))
    for other in (replace(RECIPE, distillation=0.9), Recipe(epochs=2, batch_size=32, from_teacher=True)):
        assert_same(values(teachers(tmp_path).of(few_digits(), other, 3, "cpu")), values(teacher))
    assert calls == []
    for recipe, seed in ((RECIPE, 4), (replace(RECIPE, epochs=1), 3)):
        teachers(tmp_path).of(few_digits(), recipe, seed, "cpu")
    teachers(tmp_path, about="other data").of(few_digits(), RECIPE, 3, "cpu")
    assert calls == [4, 3, 3]
    assert len(list(tmp_path.glob("teacher-*"))) == 4
    assert not list(tmp_path.glob("unfinished-*"))
    found = teachers(tmp_path).all_of(few_digits(), RECIPE, [3, 4, 3], "cpu")
    assert list(found) == [3, 4]


def test_a_damaged_teacher_is_trained_again_and_that_is_told(tmp_path):
    teacher = teachers(tmp_path).of(few_digits(), RECIPE, 3, "cpu")
    (path,) = tmp_path.glob("teacher-*")
    path.write_bytes(path.read_bytes()[:-4])
    told = []
    again = teachers(tmp_path, tell=told.append).of(few_digits(), RECIPE, 3, "cpu")
    assert_same(values(again), values(teacher))
    assert "this teacher is trained again" in told[0]
    assert told[1:] == ["the full-precision model of seed 3 is trained first, for others to learn from"]


def test_a_teacher_that_was_broken_off_goes_on(tmp_path):
    (tmp_path / "whole").mkdir()
    expected, told = teachers(tmp_path / "whole").of(few_digits(), RECIPE, 3, "cpu"), []

    def over(_epoch, _score):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        teachers(tmp_path, every_seconds=0.0, on_epoch=over).of(few_digits(), RECIPE, 3, "cpu")
    found = teachers(tmp_path, tell=told.append).of(few_digits(), RECIPE, 3, "cpu")
    assert any("goes on from there" in text for text in told)
    assert_same(values(found), values(expected))


def test_a_training_can_begin_with_its_teachers_weights(tmp_path):
    recipe = Recipe(epochs=2, batch_size=32, from_teacher=True)
    teacher = teachers(tmp_path).of(few_digits(), recipe, 3, "cpu")
    allocation = Allocation.of(describe(conv_net()), {}, default=LayerSpec(n_in=8, n_out=8))
    model = fresh_model(conv_net, allocation, recipe, 3, teacher)
    for name in ("0", "5", "7"):
        weight, plain = model.get_submodule(name).weight, teacher.get_submodule(name).weight
        assert torch.equal(weight > 0, plain >= 0)  # at a full rate every sign can be had
    assert_same(values(model[1]), values(teacher[1]))
    assert all(parameter.requires_grad for parameter in model.parameters())
    before = values(teacher)
    plain = fresh_model(conv_net, allocation, Recipe(), 3, teacher)
    assert not torch.equal(plain.get_submodule("5").weight > 0, teacher.get_submodule("5").weight >= 0)
    train(model, few_digits(), recipe, seed=3, teacher=teacher)
    assert_same(values(teacher), before)


def test_what_is_distilled_comes_to_the_same_bits_after_a_break_and_beside_others(tmp_path):
    data = few_digits()
    taught = list(teachers(tmp_path).all_of(data, RECIPE, (0, 1), "cpu").values())
    plain, whole = quantized(conv_net), quantized(conv_net)
    train(plain, data, replace(RECIPE, distillation=0.0), seed=0)
    result = train(whole, data, RECIPE, seed=0, teacher=taught[0])
    assert not torch.equal(whole[0].weight, plain[0].weight)

    def again(checkpoint):
        model = quantized(conv_net)
        train(model, data, RECIPE, seed=0, teacher=taught[0], checkpoint=checkpoint)
        return model

    path = tmp_path / "unfinished.safetensors"
    assert killed_after(4, path, again)[1] is None
    assert path.exists()
    assert_same(values(again(Checkpoint(path, 0.0, "me"))), values(whole))

    together = [quantized(conv_net), quantized(conv_net, 1)]
    results = train_together(together, data, RECIPE, seeds=[0, 1], teachers=taught)
    assert_same(values(together[0]), values(whole))
    assert results[0].validation == result.validation


def test_distillation_is_a_share_and_is_written_down_only_where_it_is_used():
    assert "distillation" not in Recipe().to_json()
    assert Recipe.from_dict(RECIPE.to_json()) == RECIPE
    for share in (-0.1, 1.5, float("nan")):
        with pytest.raises(UsageError, match="recipe: distillation is a share of the loss, from 0 to 1"):
            Recipe(distillation=share)


def test_float_targets_have_no_classes_to_distil():
    split = Split("train", torch.rand(8, 6), torch.rand(8, 1))
    with pytest.raises(DataError, match=r"distillation = 0\.25 in the recipe is for classes"):
        check_fits(nn.Linear(6, 1), Data(split, split, split), RECIPE)


def test_what_is_frozen_stays_frozen_with_a_teachers_weights(tmp_path):
    def build():
        net = conv_net()
        net[0].requires_grad_(False)
        return net

    recipe, data = replace(RECIPE, distillation=0.0, from_teacher=True), few_digits()
    teacher = Teachers(build, tmp_path).of(data, recipe, 0, "cpu")
    with seeded(0):
        shapes = describe(build())
    allocation = Allocation.of(shapes, {}, default=LayerSpec(n_in=20, n_out=20))
    model = fresh_model(build, allocation, recipe, 0, teacher)
    assert not any(parameter.requires_grad for parameter in model[0].parameters())
    assert all(parameter.requires_grad for parameter in model[5].parameters())
    assert torch.equal(model[5].weight.sign(), teacher[5].weight.sign())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_of_a_regression_one_can_begin_with_a_teachers_weights(tmp_path):
    def build():
        return nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 3))

    def score(outputs, targets):
        return -float((outputs - targets).square().mean())

    inputs = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    split = Split("train", inputs, inputs[:, :3] * 2)
    recipe = replace(RECIPE, epochs=5, distillation=0.0, from_teacher=True)
    teacher = Teachers(build, tmp_path, metric=score).of(Data(split, split, split), recipe, 0, "cpu")
    with torch.no_grad():
        assert score(teacher(inputs), inputs[:, :3] * 2) > score(build()(inputs), inputs[:, :3] * 2)
