"""A training loop and a metric of the user's own: what they are given, what is made of them, what goes wrong."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from flexor_search.errors import DataError, ModelError, TrainingError, UsageError
from flexor_search.planning import Allocation, LayerSpec, Recipe
from flexor_search.quantization import describe, flexor_weights, quantize_
from flexor_search.training import check_fits, evaluate, seeded, train, train_together
from flexor_search.workloads import Data, Own, Split, user_data

RECIPE = Recipe(epochs=4, batch_size=20, learning_rate=0.02, s_tanh_start=2.0, s_tanh=8.0, warmup=0.5)
pytestmark = pytest.mark.usefixtures("one_thread")


def plane(count, seed):
    """A linear function of three numbers, and a little noise."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 20, generator=generator)
    return inputs, inputs[:, :3].sum(1, keepdim=True) + 0.1 * torch.randn(count, 1, generator=generator)


def regression():
    return Data(
        *(Split(name, *plane(n, i)) for i, (name, n) in enumerate({"train": 200, "validation": 80, "test": 80}.items()))
    )


def classes():
    def split(name, count, seed):
        inputs, targets = plane(count, seed)
        return Split(name, inputs, (targets[:, 0] > 0).long())

    return Data(split("train", 200, 0), split("validation", 80, 1), split("test", 80, 2))


def net(outputs=1):
    return nn.Sequential(nn.Linear(20, 40), nn.ReLU(), nn.Linear(40, outputs))


def quantized(outputs=1, seed=0):
    with seeded(seed):
        model = net(outputs)
        return quantize_(model, Allocation.of(describe(model), {}, default=LayerSpec(n_in=16, n_out=20)))


def r2(outputs, targets):
    assert outputs.shape == targets.shape
    rest = (outputs - targets).square().sum() / (targets - targets.mean()).square().sum()
    return 1 - float(rest)


def plain_loop(model, train, validation, recipe, seed, report):
    """What a user would write."""
    optimizer = torch.optim.Adam(model.parameters(), recipe.learning_rate)
    for _ in range(recipe.epochs):
        for images, targets in DataLoader(train, batch_size=recipe.batch_size, shuffle=True):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(images), targets).backward()
            optimizer.step()
        if report():
            break


def test_a_metric_takes_the_place_of_accuracy_and_squares_that_of_cross_entropy():
    model, data = quantized(), regression()
    result = train(model, data, RECIPE, seed=0, own=Own(metric=r2))
    with torch.no_grad():
        outputs, targets = model(data.validation.images), data.validation.labels
    assert result.validation.accuracy == pytest.approx(r2(outputs, targets), abs=1e-6)
    assert result.validation.loss == pytest.approx(float(nn.functional.mse_loss(outputs, targets)), rel=1e-5)
    assert result.validation.accuracy > 0.5  # it has learned


def test_accuracy_as_a_metric_of_ones_own_is_accuracy():
    model, data = quantized(2), classes()
    own = Own(metric=lambda outputs, targets: float((outputs.argmax(1) == targets).float().mean()))
    assert evaluate(model, data.test, own=own).accuracy == pytest.approx(evaluate(model, data.test).accuracy)


def test_together_a_regression_is_scored_as_it_is_alone():
    alone = [train(quantized(seed=s), regression(), RECIPE, seed=s, own=Own(metric=r2)) for s in (0, 1)]
    together = train_together(
        [quantized(seed=s) for s in (0, 1)], regression(), RECIPE, seeds=(0, 1), own=Own(metric=r2)
    )
    assert [result.validation for result in together] == [result.validation for result in alone]


def test_together_a_metric_that_is_not_finite_fails_each_alone():
    worst = iter([0.5, float("nan")])
    own = Own(metric=lambda outputs, targets: next(worst))
    good, bad = train_together(
        [quantized(), quantized()], regression(), replace(RECIPE, epochs=1), seeds=(0, 1), own=own
    )
    assert good.validation.accuracy == 0.5
    assert isinstance(bad, TrainingError)
    assert "must return a finite number, got nan" in str(bad)


def test_an_own_loop_learns_and_is_the_same_every_time():
    results = [train(quantized(), regression(), RECIPE, seed=3, own=Own(plain_loop, r2)) for _ in range(2)]
    assert results[0].validation == results[1].validation
    assert results[0].validation.accuracy > 0.5
    assert (results[0].epochs, results[0].stopped) == (4, False)


def test_what_a_loop_is_given():
    seen = []

    def loop(model, train, validation, recipe, seed, report):
        slopes = {float(layer.s_tanh) for layer in flexor_weights(model).values()}
        assert model.training
        image, target = train[0]
        assert (image.shape, image.dtype, target.shape) == (torch.Size([20]), torch.float32, torch.Size([1]))
        seen.append((len(train), len(validation), recipe.epochs, seed, torch.initial_seed(), slopes))
        model.train()
        model[1].eval()  # a choice of the loop's own: scoring must not undo it
        while True:
            end = report()
            assert [module.training for module in model] == [True, False, True]
            seen.append({float(layer.s_tanh) for layer in flexor_weights(model).values()})
            if end:
                return

    watched = []
    result = train(
        *(quantized(), regression(), RECIPE),
        seed=5,
        own=Own(loop, r2),
        on_epoch=lambda epoch, score: bool(watched.append((epoch, score.accuracy))),
    )
    assert seen == [(200, 80, 4, 5, 5, {2.0}), {5.0}, {8.0}, {8.0}, {8.0}]
    assert [epoch for epoch, _ in watched] == [1, 2, 3]
    assert {round(accuracy, 6) for _, accuracy in watched} == {round(result.validation.accuracy, 6)}


def test_a_loop_is_told_to_end_and_one_that_does_not_listen_stays_stopped():
    calls = []

    def deaf(model, train, validation, recipe, seed, report):
        calls.extend(report() for _ in range(recipe.epochs))

    result = train(quantized(), regression(), RECIPE, seed=0, own=Own(deaf, r2), on_epoch=lambda epoch, _: epoch == 2)
    assert calls == [False, True, True, True]
    assert result.stopped


def test_a_loop_that_never_reports_is_scored_at_its_end():
    result = train(
        quantized(),
        regression(),
        RECIPE,
        seed=0,
        own=Own(lambda *_: None, r2),
        on_epoch=lambda *_: pytest.fail("asked"),
    )
    assert (result.epochs, result.stopped) == (4, False)


def raising(model, train, validation, recipe, seed, report):
    raise KeyError("the learning rate\nsecond line")


def halving(model, train, validation, recipe, seed, report):
    model.half()


def growing(model, train, validation, recipe, seed, report):
    model.append(nn.Linear(1, 1))


def ruining(model, train, validation, recipe, seed, report):
    with torch.no_grad():
        model[0].bias.fill_(torch.nan)


def asking(model, train, validation, recipe, seed, report):
    report(1)


@pytest.mark.parametrize(
    ("loop", "words"),
    [
        (raising, "train: training.test_own_loop:raising raised KeyError: 'the learning rate"),
        (halving, "halving must train the model in place; it changed what it is made of: 0.bias (40,) float16"),
        (growing, "growing must train the model in place; it changed what it is made of: 3.bias (1,) float32"),
        (ruining, "train: training.test_own_loop:ruining left a model whose validation loss is nan"),
        (asking, "asking raised TypeError: _Report.__call__() takes 1 positional argument but 2 were given"),
        (lambda *_: exit(3), "raised SystemExit: 3"),
    ],
)
def test_what_goes_wrong_in_a_loop_is_one_line(loop, words):
    with pytest.raises(TrainingError) as error:
        train(quantized(), regression(), RECIPE, seed=0, own=Own(loop, lambda *_: 0.0))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", [MemoryError, torch.OutOfMemoryError, KeyboardInterrupt])
def test_a_lack_of_memory_and_an_interruption_are_passed_on(kind):
    def loop(*_):
        raise kind

    with pytest.raises(kind):
        train(quantized(), regression(), RECIPE, seed=0, own=Own(loop, lambda *_: 0.0))


def boom(outputs, targets):
    raise ValueError("only one class\nsecond line")


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        (boom, "metric: training.test_own_loop:boom raised ValueError: only one class"),
        (lambda o, t: (o - t).mean(), "must return a number, got Tensor; end it with .item()"),
        (lambda o, t: None, "must return a number, got NoneType"),
        (lambda o, t: float("nan"), "must return a finite number, got nan"),
        (lambda o, t: float("inf"), "must return a finite number, got inf"),
    ],
)
def test_a_metric_that_gives_no_number_is_refused_before_the_search(metric, words):
    with pytest.raises(TrainingError) as error:
        check_fits(net(), regression(), RECIPE, Own(metric=metric))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_numbers_of_numpy_are_numbers():
    import numpy as np

    for kind in (np.float32, np.float64, np.int64, int):
        assert Own(metric=lambda o, t, kind=kind: kind(1)).score(torch.ones(1, 1), torch.ones(1, 1)) == 1.0


def two(model, train):
    """Of another signature."""


def one(outputs):
    """Of another signature."""


@pytest.mark.parametrize(
    ("own", "words"),
    [
        (
            {"train": two},
            "train: training.test_own_loop:two(model, train) must take (model, train, validation, recipe, seed",
        ),
        ({"metric": one}, "metric: training.test_own_loop:one(outputs) must take (outputs, targets), in this order"),
    ],
)
def test_functions_of_other_parameters_are_refused_at_once(own, words):
    with pytest.raises(UsageError) as error:
        Own(**own)
    assert words in str(error.value)


def test_the_check_runs_the_loop_once_on_a_copy():
    calls = []

    def loop(model, train, validation, recipe, seed, report):
        calls.append((len(train), len(validation), recipe.epochs))
        with torch.no_grad():
            model[0].weight.zero_()

    model = net()
    check_fits(model, regression(), RECIPE, Own(loop, r2))
    assert calls == [(20, 20, 1)]
    assert model[0].weight.abs().max() > 0
    with pytest.raises(TrainingError, match="raising raised KeyError"):
        check_fits(model, regression(), RECIPE, Own(raising, r2))


def test_targets_that_do_not_fit_the_model_are_refused():
    with pytest.raises(DataError, match="targets of 1 numbers an image do not fit the model, which has 2 outputs"):
        check_fits(net(2), regression(), RECIPE, Own(metric=r2))


def test_a_training_step_of_a_regression_is_checked_too():
    class Detached(nn.Linear):
        def forward(self, images):
            return super().forward(images).detach() if self.training else super().forward(images)

    with pytest.raises(ModelError, match="one training step on 8 images failed"):
        check_fits(Detached(20, 1), regression())


def test_float_targets_need_a_metric_and_become_rows():
    parts = [torch.utils.data.TensorDataset(inputs, targets[:, 0]) for inputs, targets in (plane(30, 0), plane(20, 1))]
    with pytest.raises(DataError, match=r"labels must be one integer an image, got torch.float32.* give --metric"):
        user_data(parts)
    data = user_data(parts, float_targets=True)
    assert data.train.labels.shape == (27, 1)
    assert data.n_classes == 1
    assert data.train.is_regression


def test_a_target_that_is_no_number_is_refused():
    inputs, targets = plane(30, 0)
    targets[3] = torch.nan
    parts = [torch.utils.data.TensorDataset(inputs, targets)] * 2
    with pytest.raises(DataError, match="train has a target that is NaN or infinite"):
        user_data(parts, float_targets=True)


def test_splits_of_different_targets_are_refused():
    inputs, targets = plane(30, 0)
    parts = [torch.utils.data.TensorDataset(inputs, t) for t in (targets, targets.repeat(1, 2))]
    with pytest.raises(DataError, match="targets of different shapes"):
        user_data(parts, float_targets=True)


def test_a_split_is_a_data_set():
    split = Split("train", torch.full((3, 1, 2, 2), 255, dtype=torch.uint8), torch.arange(3), 0.5, 0.25)
    image, label = split[2]
    assert (image.unique().tolist(), int(label)) == ([2.0], 2)
    assert len(list(split)) == 3
    batches = list(DataLoader(split, batch_size=2))
    assert [tuple(images.shape) for images, _ in batches] == [(2, 1, 2, 2), (1, 1, 2, 2)]
