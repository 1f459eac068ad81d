"""train: repeatable, polite to the caller's random numbers, honest about failure, and it learns."""

import contextlib
import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from flexor_search.errors import TrainingError
from flexor_search.planning import Allocation, LayerSpec, Recipe
from flexor_search.quantization import FlexorWeight, describe, quantize_
from flexor_search.training import evaluate, seeded, train, train_together
from flexor_search.workloads import Data, Split, workload

from .models import Untouchable, digits, few_digits, one_point, parameters, quantized, small_net

RECIPE = Recipe(epochs=2, batch_size=32)


def plain_net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 10))


def trained(seed, recipe=RECIPE, build_seed=0):
    model = quantized(small_net, build_seed)
    result = train(model, few_digits(), recipe, seed=seed)
    return model, result


def test_the_same_seed_gives_the_same_weights_bit_for_bit():
    one, first = trained(3)
    torch.rand(7)  # what the caller drew before does not matter
    other, second = trained(3)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    assert (first.validation, first.epochs) == (second.validation, second.epochs)


def largest(model):
    return max(float(p.detach().abs().max()) for name, p in model.named_parameters() if name.endswith("original0"))


@pytest.mark.parametrize("together", [False, True])
def test_clipping_keeps_encrypted_weights_within_what_the_slope_allows(together):
    recipe = replace(RECIPE, clip=2.0, s_tanh=100.0, s_tanh_start=50.0, learning_rate=0.05)
    free, clipped = quantized(plain_net), [quantized(plain_net, seed) for seed in range(2)]
    train(free, few_digits(), replace(recipe, clip=0.0), seed=0)
    if together:
        train_together(clipped, few_digits(), recipe, seeds=[0, 1])
    else:
        for seed, model in enumerate(clipped):
            train(model, few_digits(), recipe, seed=seed)
    assert largest(free) > 0.04
    for model in clipped:
        assert largest(model) == pytest.approx(0.02)


def test_another_seed_gives_other_weights_from_the_same_start():
    one, other = trained(3)[0], trained(4)[0]
    assert not torch.equal(one[6].bias, other[6].bias)


def test_the_callers_random_numbers_go_on_as_if_nothing_had_happened():
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    model = quantized(small_net)
    train(model, few_digits(), RECIPE, seed=9)
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    assert torch.equal(states[0], after[0])
    assert states[1:] == after[1:]


def test_seeded_repeats_and_restores_even_after_an_error():
    before = torch.get_rng_state()
    with seeded(5):
        first = torch.rand(3)
    with contextlib.suppress(ZeroDivisionError), seeded(5):
        again = torch.rand(3)
        raise ZeroDivisionError
    assert torch.equal(again, first)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_result_says_what_was_done():
    model, result = trained(0)
    assert (result.epochs, result.stopped) == (2, False)
    assert result.train_seconds > 0
    assert result.validation == evaluate(model, few_digits().validation)
    assert not any(module.training for module in model.modules())


def test_it_can_be_stopped_after_any_epoch_but_the_last():
    seen = []

    def on_epoch(epoch, score):
        seen.append((epoch, score))
        return epoch == 2

    model = quantized(small_net)
    result = train(model, few_digits(), replace(RECIPE, epochs=5), seed=0, on_epoch=on_epoch)
    assert (result.epochs, result.stopped) == (2, True)
    assert [epoch for epoch, _ in seen] == [1, 2]
    assert seen[-1][1] == result.validation == evaluate(model, few_digits().validation)
    seen.clear()
    result = train(quantized(small_net), few_digits(), replace(RECIPE, epochs=2), seed=0, on_epoch=on_epoch)
    assert (result.epochs, result.stopped) == (2, False)
    assert [epoch for epoch, _ in seen] == [1]


def test_watching_a_training_does_not_change_it():
    watched = quantized(small_net)
    train(watched, few_digits(), RECIPE, seed=3, on_epoch=lambda epoch, score: False)
    assert torch.equal(watched[6].bias, trained(3)[0][6].bias)


class NotANumber(nn.Linear):
    """Gives NaN in training or in evaluation."""

    def __init__(self, in_training):
        super().__init__(6, 2)
        self.in_training = in_training

    def forward(self, x):
        return super().forward(x) * (math.nan if self.training == self.in_training else 1)


@pytest.mark.parametrize(("in_training", "message"), [(True, "in epoch 1, step 1"), (False, "validation loss is nan")])
def test_a_loss_that_is_no_number_is_an_error(in_training, message):
    model = NotANumber(in_training)
    before = torch.get_rng_state()
    with pytest.raises(TrainingError, match=message):
        train(model, one_point(), RECIPE, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_training_that_diverges_is_an_error():
    model = quantized(lambda: nn.Linear(6, 2))
    recipe = Recipe(optimizer="sgd", learning_rate=1e38, schedule="constant", warmup=0, epochs=20, batch_size=2)
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) in epoch \d+, step 1"):
        train(model, one_point(), recipe, seed=0)


def test_it_learns_the_digits():
    chosen = workload("digits-convnet")
    with seeded(0):
        model = chosen.build()
        names = [layer.name for layer in describe(model).layers[1:-1]]
        quantize_(model, Allocation.of(describe(model), {name: LayerSpec(n_in=12) for name in names}))
    whole = digits()
    data = Data(whole.train, whole.validation, Untouchable())
    assert train(model, data, replace(chosen.recipe, epochs=8), seed=0).validation.accuracy > 0.9


@pytest.mark.parametrize(
    "changes", [{"precision": "bfloat16"}, {"memory_format": "channels_last"}, {"surrogate": "ste"}]
)
def test_other_ways_to_compute_learn_too(changes):
    recipe = replace(RECIPE, epochs=8, learning_rate=0.01, **changes)
    data = Data(digits().train.take(600), digits().validation, Untouchable())
    model = quantized(small_net, spec=LayerSpec(n_in=16))
    assert train(model, data, recipe, seed=0).validation.accuracy > 0.6


def test_a_batch_larger_than_the_data_is_the_data():
    result = train(quantized(lambda: nn.Linear(6, 2)), one_point(), replace(RECIPE, batch_size=999), seed=0)
    assert result.epochs == 2


def test_every_image_of_full_batches_is_seen_once_an_epoch_in_a_new_order():
    images = torch.arange(24).float()[:, None]
    split = Split("train", images, torch.zeros(24, dtype=torch.int64))
    seen = []

    class Spy(nn.Linear):
        def forward(self, x):
            if self.training:
                seen.append(x.flatten().int().tolist())
            return super().forward(x / 24)

    for seed in (0, 1, 0):
        train(Spy(1, 2), Data(split, split, Untouchable()), Recipe(epochs=2, batch_size=8), seed=seed)
    assert [len(batch) for batch in seen] == [8] * 18
    epochs = [[*one, *two, *three] for one, two, three in zip(seen[::3], seen[1::3], seen[2::3], strict=True)]
    assert [sorted(order) for order in epochs] == [list(range(24))] * 6
    assert epochs[4:] == epochs[:2]
    assert len({tuple(order) for order in epochs}) == 4


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine", "halve", "constant"])
def test_the_schedules_reach_the_optimizer_and_every_layer(schedule, monkeypatch):
    slopes, rates = [], []
    step = torch.optim.Adam.step

    def spy(optimizer, *args, **kwargs):
        rates.append({group["lr"] for group in optimizer.param_groups})
        slopes.append({m.s_tanh.item() for m in model.modules() if isinstance(m, FlexorWeight)})
        return step(optimizer, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", spy)
    model = quantized(small_net)
    recipe = Recipe(schedule=schedule, epochs=2, batch_size=40, halve_at=(0.5,), s_tanh=9, s_tanh_start=2, decay="none")
    train(model, few_digits(160), recipe, seed=0)
    progress = [step / 8 for step in range(8)]
    assert rates == [{recipe.learning_rate_at(at)} for at in progress]
    assert [len(found) for found in slopes] == [1] * 8
    assert [found.pop() for found in slopes] == pytest.approx([recipe.s_tanh_at(at) for at in progress])


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("decay", ["all", "encrypted", "none"])
def test_weight_decay_touches_what_the_recipe_says(decay, optimizer):
    """One step with and without: the difference is the decay's."""

    def build():
        layers = [nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)]
        model = nn.Sequential(*layers)
        for parameter in model.parameters():
            nn.init.uniform_(parameter, 0.5, 1)
        return model

    with seeded(0):
        shape = describe(build())
    found = []
    for weight_decay in (0.0, 0.5):
        with seeded(0):
            model = quantize_(build(), Allocation.of(shape, {"0": LayerSpec(n_in=6, n_out=8)}))
        before = parameters(model)
        recipe = Recipe(
            optimizer=optimizer, schedule="constant", warmup=0, epochs=1, weight_decay=weight_decay, decay=decay
        )
        train(model, one_point(), recipe, seed=0)
        found.append(parameters(model))
    moved = {name for name in before if not torch.allclose(found[0][name], found[1][name], rtol=1e-6, atol=1e-9)}
    encrypted = {"0.parametrizations.weight.original0"}
    assert moved == {"all": set(before), "encrypted": encrypted, "none": set()}[decay]
    if optimizer == "sgd":
        for name in moved:
            wanted = found[0][name] - recipe.learning_rate * 0.5 * before[name]
            torch.testing.assert_close(found[1][name], wanted, rtol=1e-5, atol=1e-7)
