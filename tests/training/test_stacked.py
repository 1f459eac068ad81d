"""Many models trained as one: the same values, gradients and ends as each alone."""

import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from flexor_search.errors import TrainingError
from flexor_search.planning import Allocation, LayerSpec, Recipe
from flexor_search.quantization import describe, flexor_weights, quantize_, set_s_tanh
from flexor_search.training import TrainResult, evaluate, seeded, stackable_groups, train, train_stacked
from flexor_search.training.stack import Stack, originals
from flexor_search.training.stackable import why_not_stackable
from flexor_search.training.stacked import stacked_losses
from flexor_search.workloads import Data, workload

from .models import Untouchable, digits, few_digits, one_point

RECIPE = Recipe(epochs=2, batch_size=32)
pytestmark = pytest.mark.usefixtures("one_thread")


def conv_net():
    """No dropout: it draws other numbers alone and stacked."""
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(36, 12), nn.ReLU(), nn.Linear(12, 10)),
    )


class Tied(nn.Module):
    """Two layers share a weight, and one module has two names."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(12, 12), nn.Linear(12, 12, bias=False)
        self.second.weight = self.first.weight
        self.head = self.again = nn.Linear(12, 12)

    def forward(self, images):
        hidden = images.flatten(1)[:, :12]
        return self.again(torch.relu(self.head(torch.relu(self.second(torch.relu(self.first(hidden)))))))


def unusual():
    return nn.Sequential(
        *(nn.ConvTranspose2d(1, 6, 2, stride=2), nn.GroupNorm(2, 6), nn.GELU()),
        *(nn.Conv2d(6, 6, 3, groups=3, bias=False), nn.InstanceNorm2d(6, affine=True, track_running_stats=True)),
        *(nn.AvgPool2d(2), nn.Flatten(1), nn.LazyLinear(20), nn.LayerNorm(20), nn.Linear(20, 10)),
    )


def made_unusual():
    net = unusual()
    net(torch.zeros(2, 1, 8, 8))
    return net


def comparable(seed):
    """No parameter without effect, such as a scale before a batch norm: Adam moves it by rounding errors alone."""
    return model_of(conv_net, seed, kept=("0",))


BUILDS = {
    "small": (conv_net, 8),
    "digits": (workload("digits-convnet").build, 8),
    "lenet5": (workload("lenet5-fashion-mnist").build, 28),
    "unusual": (made_unusual, 8),
    "tied": (Tied, 8),
}


def model_of(build, seed, n_in=None, *, n_planes=1, family="systematic", surrogate="flexor", kept=()):
    """A quantized model; by default its codes depend on the seed."""
    with seeded(seed):
        model = build()
        shapes = describe(model)
        specs = {
            layer.name: LayerSpec(family, n_in or 3 + (2 * seed + i) % 5, 8, n_planes)
            for i, layer in enumerate(shapes.layers)
            if layer.name not in kept
        }
        quantize_(model, Allocation.of(shapes, specs), surrogate=surrogate)
    with torch.no_grad():
        for weight in flexor_weights(model).values():
            encrypted, scale = originals(model, weight)
            encrypted.normal_(0, 0.1, generator=torch.Generator().manual_seed(seed))
            scale.uniform_(0.1, 0.3, generator=torch.Generator().manual_seed(seed))
    return model


def batches(count, size, images=6):
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(count, images, 1, size, size, generator=generator),
        torch.randint(10, (count, images), generator=generator),
    )


def check_equal(models, images, labels):
    """Losses, gradients and running statistics, stacked and alone."""
    stack = Stack(models)
    stack.train(True)
    losses = stacked_losses(stack, images, labels, RECIPE, "cpu")
    losses.sum().backward()
    found = stack.parameters()
    for index, model in enumerate(models):
        model.train()
        loss = functional.cross_entropy(model(images[index]), labels[index])
        loss.backward()
        torch.testing.assert_close(losses[index].detach(), loss.detach(), rtol=1e-5, atol=1e-5)
        wanted = dict(model.named_parameters())
        largest = max(1.0, *(parameter.grad.abs().max().item() for parameter in wanted.values()))
        tolerance = {"rtol": 1e-5, "atol": 1e-5 * largest}
        for name, weight in flexor_weights(model).items():
            encrypted, scale = originals(model, weight)
            wanted = {key: value for key, value in wanted.items() if value is not encrypted and value is not scale}
            gradient = found[f"{name}.encrypted"].grad[index]
            n_in = weight.spec.n_in
            torch.testing.assert_close(gradient[..., :n_in], encrypted.grad, **tolerance)
            assert not gradient[..., n_in:].any()  # padding learns nothing, exactly
            torch.testing.assert_close(found[f"{name}.scale"].grad[index], scale.grad, **tolerance)
        for name, parameter in wanted.items():
            torch.testing.assert_close(found[name].grad[index], parameter.grad, **tolerance)
    stats = [{name: buffer.clone() for name, buffer in model.named_buffers()} for model in models]
    for model in models:
        for name, buffer in model.named_buffers():
            if "running" in name:
                buffer.zero_()
    stack.write_back()
    for model, wanted in zip(models, stats, strict=True):
        for name, buffer in model.named_buffers():
            torch.testing.assert_close(buffer, wanted[name], rtol=1e-5, atol=1e-5)


PAIRS = [(name, surrogate) for name in BUILDS for surrogate in ("flexor", "ste", "analog")]
PAIRS.remove(
    ("lenet5", "analog")
)  # products of two million hyperbolic tangents, and no code that the others do not run


@pytest.mark.parametrize(("name", "surrogate"), PAIRS)
def test_values_and_gradients_are_those_of_each_alone(name, surrogate):
    build, size = BUILDS[name]
    models = [model_of(build, seed, n_planes=2 if name == "unusual" else 1, surrogate=surrogate) for seed in range(3)]
    check_equal(models, *batches(3, size))


@given(
    n_ins=st.lists(st.integers(1, 8), min_size=1, max_size=4),
    n_planes=st.integers(1, 3),
    family=st.sampled_from(["systematic", "taps", "random"]),
)
@settings(max_examples=20)
def test_codes_of_any_number_of_inputs_share_a_stack(n_ins, n_planes, family):
    models = [model_of(conv_net, seed, n, n_planes=n_planes, family=family) for seed, n in enumerate(n_ins)]
    assert stackable_groups(models) == [list(range(len(n_ins)))]
    check_equal(models, *batches(len(n_ins), 8, images=4))


def test_models_of_other_layers_planes_outputs_or_surrogates_do_not_share_one():
    models = [
        model_of(conv_net, 0),
        model_of(conv_net, 1, kept=("0",)),
        model_of(conv_net, 2),
        model_of(conv_net, 3, n_planes=2),
        model_of(conv_net, 4, surrogate="ste"),
        conv_net(),
        conv_net(),
        model_of(conv_net, 5, kept=("0",)),
    ]
    assert stackable_groups(models) == [[0, 2], [1, 7], [3], [4], [5, 6]]


@pytest.mark.parametrize(
    "changes",
    [{}, {"optimizer": "sgd"}, {"decay": "encrypted", "weight_decay": 0.1}, {"label_smoothing": 0.1}],
    ids=str,
)
def test_a_training_is_the_one_of_each_alone(changes):
    """Signs that flip on a last bit would part them in the long run; in the short they go together."""
    recipe = replace(RECIPE, **changes)
    alone = [comparable(seed) for seed in range(3)]
    stacked = [comparable(seed) for seed in range(3)]
    wanted = [train(model, few_digits(), recipe, seed=seed) for seed, model in enumerate(alone)]
    found = train_stacked(stacked, few_digits(), recipe, seeds=range(3))
    for one, other, first, second in zip(alone, stacked, wanted, found, strict=True):
        assert (second.epochs, second.stopped) == (first.epochs, first.stopped)
        assert second.train_seconds > 0
        assert second.validation.loss == pytest.approx(first.validation.loss, abs=1e-4)
        assert second.validation.loss == pytest.approx(evaluate(other, few_digits().validation).loss, abs=1e-5)
        assert not any(module.training for module in other.modules())
        assert other.state_dict().keys() == one.state_dict().keys()
        for name, tensor in one.state_dict().items():
            torch.testing.assert_close(other.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)
        slopes = [{weight.s_tanh.item() for weight in flexor_weights(model).values()} for model in (one, other)]
        assert slopes == [{10.0}] * 2


def test_full_precision_models_stack_too():
    with seeded(0):
        models = [conv_net() for _ in range(2)]
    found = train_stacked(models, few_digits(), RECIPE, seeds=(5, 6))
    with seeded(0):
        alone = conv_net()
    assert found[0].validation.loss == pytest.approx(
        train(alone, few_digits(), RECIPE, seed=5).validation.loss, abs=1e-4
    )


def test_who_is_stopped_leaves_and_the_others_do_not_notice():
    recipe, seen = replace(RECIPE, epochs=4), []

    def watch(index, last):
        def on_epoch(epoch, score):
            seen.append((index, epoch))
            return epoch == last

        return on_epoch

    models = [comparable(seed) for seed in range(4)]
    watches = [watch(0, 2), None, watch(2, 1), watch(3, 99)]
    found = train_stacked(models, few_digits(), recipe, seeds=range(4), on_epoch=watches)
    assert [(r.epochs, r.stopped) for r in found] == [(2, True), (4, False), (1, True), (4, False)]
    assert seen == [(0, 1), (2, 1), (3, 1), (0, 2), (3, 2), (3, 3)]
    for index in range(4):
        alone, last = comparable(index), found[index].epochs
        wanted = train(alone, few_digits(), recipe, seed=index, on_epoch=lambda epoch, _, last=last: epoch == last)
        assert found[index].validation.loss == pytest.approx(wanted.validation.loss, abs=1e-3)
        assert found[index].validation.loss == pytest.approx(
            evaluate(models[index], few_digits().validation).loss, abs=1e-5
        )
    assert found[2].train_seconds < found[0].train_seconds < found[1].train_seconds


@pytest.mark.parametrize("when", ["training", "validation"])
def test_a_loss_that_is_no_number_fails_alone(when):
    models = [comparable(seed) for seed in range(3)]
    with torch.no_grad():
        if when == "training":
            models[1][1].bias.fill_(torch.nan)
        else:
            models[1][1].running_mean.fill_(torch.nan)
    before = torch.get_rng_state()
    found = train_stacked(models, few_digits(), RECIPE, seeds=range(3), on_epoch=[None, lambda *_: False, None])
    assert torch.equal(torch.get_rng_state(), before)
    assert isinstance(found[1], TrainingError)
    message = {
        "training": "the loss is nan in epoch 1, step 1",
        "validation": "the validation loss is nan after epoch 1",
    }
    assert str(found[1]) == message[when]
    for index in (0, 2):
        assert isinstance(found[index], TrainResult)
        alone = train(comparable(index), few_digits(), RECIPE, seed=index)
        assert found[index].validation.loss == pytest.approx(alone.validation.loss, abs=1e-4)


def test_all_may_fail():
    models = [nn.Linear(6, 2) for _ in range(2)]
    recipe = Recipe(optimizer="sgd", learning_rate=1e38, schedule="constant", warmup=0, epochs=20, batch_size=2)
    found = train_stacked(models, one_point(), recipe, seeds=(0, 1))
    assert [type(result) for result in found] == [TrainingError] * 2


def test_frozen_parameters_stay_and_dropout_differs():
    def build():
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Dropout(0.5), nn.ReLU(), nn.Linear(16, 10))
        net[1].bias.requires_grad_(False)
        return net

    models = [model_of(build, 0, 4) for _ in range(2)]
    bias = models[0][1].bias.clone()
    train_stacked(models, few_digits(), RECIPE, seeds=(1, 1))
    assert torch.equal(models[0][1].bias, bias)
    assert not torch.equal(models[0][4].bias, models[1][4].bias)


def test_it_learns_in_bfloat16():
    data = Data(digits().train.take(600), digits().validation, Untouchable())
    models = [model_of(conv_net, seed, 7) for seed in range(2)]
    recipe = replace(RECIPE, epochs=8, learning_rate=0.01, precision="bfloat16", memory_format="channels_last")
    for result in train_stacked(models, data, recipe, seeds=(0, 1)):
        assert result.validation.accuracy > 0.6


class Refused(nn.Module):
    """Does something in its forward that cannot be done for many models at once."""

    def __init__(self, what):
        super().__init__()
        self.net, self.what, self.calls = conv_net(), what, 0

    def forward(self, images):
        logits = self.net(images)
        if self.what == "item":
            return logits * (1 if logits.sum().item() > 0 else 2)
        if self.what == "branch":
            return logits if logits.sum() > 0 else logits * 2
        if self.what == "nonzero":
            return logits + logits.nonzero().sum()
        self.calls += 1
        return logits * self.calls  # not a function of its inputs


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("item", r"torch\.Tensor\.item: "),
        ("branch", r"torch\.Tensor\.__bool__: "),
        ("nonzero", r"nonzero: "),
        ("state", r"its logits change by .* when it is stacked"),
    ],
)
def test_what_cannot_be_stacked_says_why(what, reason):
    model = model_of(lambda: Refused(what), 0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images, _ = digits().train.batch(slice(0, 8))
    assert re.search(reason, why_not_stackable(model, images))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("name", BUILDS)
def test_what_can_be_stacked_has_no_reason_against_it(name):
    build, size = BUILDS[name]
    model = model_of(build, 0)
    set_s_tanh(model, 3.0)
    assert why_not_stackable(model, batches(1, size)[0][0]) == ""
    assert why_not_stackable(model, batches(1, size)[0][0][:1]) == ""


def test_one_seed_for_each_model():
    with pytest.raises(ValueError, match="one a model, got 1 and 2 for 2"):
        train_stacked([nn.Linear(6, 2) for _ in range(2)], one_point(), RECIPE, seeds=(0,))


def test_slices_of_consecutive_weights_stack_with_their_like_and_answer_the_same():
    models = []
    for seed in range(3):
        with seeded(seed):
            model = conv_net()
            quantize_(model, Allocation.of(describe(model), {}, default=LayerSpec(n_in=6, n_out=8)))
        models.append(model.eval())
    for weight in [w for model in models[:2] for w in flexor_weights(model).values()]:
        weight.slice_order = "consecutive"
    assert stackable_groups(models) == [[0, 1], [2]]
    images, _ = digits().train.batch(slice(0, 8))
    stack = Stack(models[:2])
    stack.train(False)
    with torch.no_grad():
        together, alone = stack.logits(images, shared=True), torch.stack([model(images) for model in models[:2]])
    assert torch.allclose(together, alone, atol=1e-5)
