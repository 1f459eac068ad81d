"""Distillation: the loss against numpy, a teacher that is trained once and kept, the same bits after a break."""

import importlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from flexor_search.errors import DataError, UsageError
from flexor_search.planning import Recipe
from flexor_search.training import Checkpoint, check_fits, teacher_for, train, train_together
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


def test_a_teacher_is_trained_once_for_a_seed_and_a_length(tmp_path, monkeypatch):
    assert teacher_for(conv_net, few_digits(), replace(RECIPE, distillation=0.0), 0, "cpu", tmp_path) is None
    teacher = teacher_for(conv_net, few_digits(), RECIPE, 3, "cpu", tmp_path)
    assert not teacher.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    trained, calls = MODULE.train, []

    def counted(*args, **options):
        calls.append(options["seed"])
        return trained(*args, **options)

    monkeypatch.setattr(MODULE, "train", counted)
    assert_same(values(teacher_for(conv_net, few_digits(), RECIPE, 3, "cpu", tmp_path)), values(teacher))
    other = replace(RECIPE, distillation=0.9)  # taught more, by the same teacher
    assert_same(values(teacher_for(conv_net, few_digits(), other, 3, "cpu", tmp_path)), values(teacher))
    assert calls == []
    for recipe, seed in ((RECIPE, 4), (replace(RECIPE, epochs=1), 3)):
        teacher_for(conv_net, few_digits(), recipe, seed, "cpu", tmp_path)
    assert calls == [4, 3]
    assert len(list(tmp_path.iterdir())) == 3


def test_a_damaged_teacher_is_trained_again_and_that_is_told(tmp_path):
    teacher = teacher_for(conv_net, few_digits(), RECIPE, 3, "cpu", tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-4])
    told = []
    again = teacher_for(conv_net, few_digits(), RECIPE, 3, "cpu", tmp_path, told.append)
    assert_same(values(again), values(teacher))
    assert len(told) == 1
    assert "this teacher is trained again" in told[0]


def test_what_is_distilled_comes_to_the_same_bits_after_a_break_and_beside_others(tmp_path):
    data = few_digits()
    teachers = [teacher_for(conv_net, data, RECIPE, seed, "cpu", tmp_path) for seed in (0, 1)]
    plain, whole = quantized(conv_net), quantized(conv_net)
    train(plain, data, replace(RECIPE, distillation=0.0), seed=0)
    result = train(whole, data, RECIPE, seed=0, teacher=teachers[0])
    assert not torch.equal(whole[0].weight, plain[0].weight)

    def again(checkpoint):
        model = quantized(conv_net)
        train(model, data, RECIPE, seed=0, teacher=teachers[0], checkpoint=checkpoint)
        return model

    path = tmp_path / "unfinished.safetensors"
    assert killed_after(4, path, again)[1] is None
    assert path.exists()
    assert_same(values(again(Checkpoint(path, 0.0, "me"))), values(whole))

    together = [quantized(conv_net), quantized(conv_net, 1)]
    results = train_together(together, data, RECIPE, seeds=[0, 1], teachers=teachers)
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
