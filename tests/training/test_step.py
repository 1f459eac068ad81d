"""A training step by every route: the same values, whether it is done as it stands, compiled or replayed."""

import functools
import shutil
from dataclasses import replace

import pytest
import torch
from torch import nn

from flexor_search.planning import LayerSpec, Recipe
from flexor_search.quantization import shared_s_tanh
from flexor_search.training import step, train, train_together, trainer
from flexor_search.training.images import TrainImages
from flexor_search.training.optimizer import optimizer_of, set_learning_rate
from flexor_search.training.step import Step

from .models import Tape, few_digits, parameters, quantized, small_net

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler: apt install g++")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

RECIPE = Recipe(epochs=4, batch_size=20, learning_rate=0.01)


def test_a_replayed_training_is_the_eager_one(tape):
    data, models = few_digits(), [quantized(small_net), quantized(small_net)]
    results = [
        train(model, data, RECIPE, seed=3, route=route)
        for model, route in zip(models, ("eager", "replayed"), strict=True)
    ]
    assert results[0].validation == results[1].validation
    for name, value in parameters(models[0]).items():
        assert torch.equal(value, parameters(models[1])[name]), name
    assert (tape.warmed, tape.recordings, tape.replays) == (3, 1, 4 * 8 - 3)


def test_what_makes_a_batch_is_recorded_with_the_step(tape):
    """A step is given where to look, and a replayed one looks there anew."""
    images, weight = torch.arange(40.0).reshape(20, 2), nn.Parameter(torch.zeros(2))
    take_step = Step(
        *(lambda rows, factors: (rows @ weight * factors).sum(), torch.optim.SGD([weight], lr=1.0), "replayed"),
        prepare=lambda order, factors: (images[order], factors.float()),
    )
    generator, wanted = torch.Generator().manual_seed(0), torch.zeros(2)
    for _ in range(6):
        order, factors = (torch.randint(20, (4,), generator=generator) for _ in range(2))
        loss = float(take_step(order, factors))
        assert loss == float((images[order] @ wanted * factors).sum())
        wanted -= (images[order] * factors[:, None]).sum(0)
        assert torch.equal(weight.detach(), wanted)
    assert (tape.warmed, tape.recordings, tape.replays) == (3, 1, 3)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_nothing_that_a_recorded_step_reads_moves(optimizer, monkeypatch):
    """A graph reads addresses: images, parameters, buffers (the slope is one) and the optimizer's state must stay."""
    addresses, seen, original = [[], []], [], TrainImages.of

    class Watchful(Tape):
        def __init__(self):
            super().__init__()
            self.index = len(seen) - 1

        def record(self, work):
            replay = super().record(work)
            model, made = seen[self.index]

            def watched():
                result = replay()
                state = [v for p in model.parameters() for v in made.state[p].values() if isinstance(v, torch.Tensor)]
                tensors = [*model.parameters(), *model.buffers(), *state, *placed[self.index + 1]]
                addresses[self.index].append([tensor.data_ptr() for tensor in tensors])
                return result

            return watched

    def watched_optimizer(model, recipe, device):
        seen.append((model, optimizer_of(model, recipe, device)))
        return seen[-1][1]

    placed = []

    def watched_place(*args):
        found = original(*args)
        placed.append((found.split.images, found.split.labels))
        return found

    monkeypatch.setattr(step, "CudaGraphs", Watchful)
    monkeypatch.setattr(trainer, "optimizer_of", watched_optimizer)
    monkeypatch.setattr(TrainImages, "of", watched_place)
    models = [quantized(small_net, seed) for seed in (0, 1)]
    train_together(models, few_digits(), replace(RECIPE, optimizer=optimizer), seeds=(0, 1), route="replayed")
    for found in addresses:
        assert len(found) == 4 * 8 - 3
        assert all(each == found[0] for each in found)
    assert len({pair[0].data_ptr() for pair in placed}) == 1  # placed once for all


def test_a_step_that_cannot_be_recorded_goes_on_as_it_stands(monkeypatch):
    class Refuses(Tape):
        def record(self, work):
            raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(step, "CudaGraphs", Refuses)
    data, models = few_digits(), [quantized(small_net), quantized(small_net)]
    for model, route in zip(models, ("eager", "replayed"), strict=True):
        train(model, data, RECIPE, seed=3, route=route)
    for name, value in parameters(models[0]).items():
        assert torch.equal(value, parameters(models[1])[name]), name


def test_an_error_of_the_model_is_no_failure_to_record(tape):
    class Broken(nn.Module):
        def forward(self, x):
            raise ValueError("mine")

    weight = nn.Parameter(torch.ones(1))
    take_step = Step(lambda x: Broken()(x), torch.optim.SGD([weight], lr=1.0), "replayed")
    with pytest.raises(ValueError, match="mine"):
        take_step(torch.ones(1))


def test_only_known_routes():
    with pytest.raises(ValueError, match=r"route: must be one of eager, compiled, replayed, .*, got 'fast'"):
        Step(lambda x: x, torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0), "fast")


@pytest.mark.parametrize("rate", [0.5, torch.tensor(0.5)])
def test_the_learning_rate_is_set_in_place_where_it_is_a_tensor(rate):
    weight = nn.Parameter(torch.tensor([8.0]))
    optimizer = torch.optim.SGD([weight], lr=rate, fused=True)
    set_learning_rate(optimizer, 0.25)
    assert optimizer.param_groups[0]["lr"] is rate or not isinstance(rate, torch.Tensor)
    weight.grad = torch.tensor([4.0])
    optimizer.step()
    assert weight.item() == 7.0


def test_all_layers_read_one_slope():
    model = quantized(small_net)
    shared = shared_s_tanh(model)
    shared.fill_(3.0)
    slopes = [module.s_tanh for module in model.modules() if hasattr(module, "s_tanh")]
    assert len(slopes) == 2
    assert all(slope is shared and slope.item() == 3.0 for slope in slopes)
    assert shared_s_tanh(nn.Linear(2, 2)) is None


@needs_compiler
def test_compiled_gradients_are_the_eager_ones():
    """Of a layer of two planes and one of one, by the loss that training uses."""
    images, labels = few_digits().train.batch(slice(0, 16))
    found = []
    for compiled in (False, True):
        model = quantized(_smooth_net, spec=LayerSpec("taps", 5, 8, 2))
        losses = functools.partial(trainer.training_loss, model, recipe=RECIPE, device="cpu")
        if compiled:
            losses = torch.compile(losses, dynamic=False)
        losses(images, labels).backward()
        found.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert len(found[0]) == 8
    for name, eager in found[0].items():
        largest = eager.abs().max().clamp(min=1e-2)  # a bias before a batch norm has none but rounding errors
        assert ((found[1][name] - eager).abs().max() / largest) < 1e-4, name


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_compiled_weight_is_exactly_the_decoders(dtype):
    model = quantized(_smooth_net)
    weight = model[0].parametrizations.weight

    @functools.partial(torch.compile, dynamic=False)
    def compiled():
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
            return weight()

    assert torch.equal(compiled(), weight())


def _smooth_net():
    """No dropout, which draws other numbers when it is compiled, and no maximum: where +-1 ties, any may get all."""
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(36, 10))
    )


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("route", step.ROUTES)
def test_on_a_gpu_every_route_comes_to_the_same(route):
    data = few_digits()
    recipe = replace(RECIPE, epochs=2, optimizer="sgd", learning_rate=1e-3)
    models = [quantized(_smooth_net), quantized(_smooth_net)]
    train(models[0], data, recipe, seed=1, device="cuda", route="eager")
    train(models[1], data, recipe, seed=1, device="cuda", route=route)
    for name, value in parameters(models[0]).items():
        assert torch.allclose(value, parameters(models[1])[name], rtol=1e-3, atol=1e-4), name
