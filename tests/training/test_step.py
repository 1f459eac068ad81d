"""A training step by every route: the same values, whether it is done as it stands, compiled or replayed."""

import functools
import shutil
from dataclasses import replace

import pytest
import torch
from torch import nn

from flexor_search.planning import LayerSpec, Recipe
from flexor_search.quantization import shared_s_tanh
from flexor_search.training import step, train, train_stacked, trainer
from flexor_search.training.optimizer import make_optimizer, set_learning_rate
from flexor_search.training.step import Step

from .models import few_digits, parameters, quantized, small_net

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler: apt install g++")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

RECIPE = Recipe(epochs=4, batch_size=20, learning_rate=0.01)
SPECS = (LayerSpec(n_in=6, n_out=8), LayerSpec(n_in=3, n_out=8), LayerSpec("taps", 8, 8))


class Tape:
    """Stands for CUDA graphs on a processor: "replay" does the work again, on what it finds where it was recorded."""

    def __init__(self):
        self.warmed, self.recordings, self.replays = 0, 0, 0

    def warm_up(self, work):
        self.warmed += 1
        return work()

    def record(self, work):
        self.recordings += 1
        results = []

        def replay():
            self.replays += 1
            found = work()
            if not results:
                results.append(found.clone())
            return results[0].copy_(found)

        return replay


@pytest.fixture
def tape(monkeypatch):
    found = Tape()
    monkeypatch.setattr(step, "CudaGraphs", lambda: found)
    return found


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


def test_a_replayed_stack_is_the_eager_one_and_records_anew_when_models_leave(tape):
    data, sizes = few_digits(), []

    def stop_second(epoch, score):
        return epoch == 2

    def trained(route):
        models = [quantized(small_net, seed, spec) for seed, spec in enumerate(SPECS)]
        watches = [None, stop_second, None]
        found = train_stacked(models, data, RECIPE, seeds=(1, 2, 3), on_epoch=watches, route=route)
        return models, [(result.validation, result.epochs, result.stopped) for result in found]

    (eager, scores), (replayed, same) = trained("eager"), trained("replayed")
    assert scores == same
    assert [epochs for _, epochs, _ in scores] == [4, 2, 4], sizes
    for one, other in zip(eager, replayed, strict=True):
        for name, value in parameters(one).items():
            assert torch.equal(value, parameters(other)[name]), name
        for name, buffer in one.named_buffers():
            assert torch.equal(buffer, other.get_buffer(name)), name
    assert tape.recordings == 2
    assert tape.replays == 4 * 8 - 2 * 3


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_nothing_that_a_recorded_step_reads_moves(optimizer, monkeypatch):
    """A graph reads addresses: every parameter, buffer, gradient, rate and slope must stay where it was recorded."""
    addresses = []

    class Watchful(Tape):
        def record(self, work):
            replay = super().record(work)

            def watched():
                result = replay()
                tensors = [p for group in seen[0].param_groups for p in group["params"]]
                state = [v for p in tensors for v in seen[0].state[p].values() if isinstance(v, torch.Tensor)]
                addresses.append([t.data_ptr() for t in [*tensors, *state, *stacks[0]._buffers.values()]])
                return result

            return watched

    seen, stacks = [], []
    monkeypatch.setattr(step, "CudaGraphs", Watchful)
    original = make_optimizer

    def watched_optimizer(*arguments):
        seen.append(original(*arguments))
        return seen[-1]

    from flexor_search.training import stack

    monkeypatch.setattr(stack, "make_optimizer", watched_optimizer)
    begin = stack.Stack.__init__
    monkeypatch.setattr(stack.Stack, "__init__", lambda self, models: (begin(self, models), stacks.append(self))[0])
    models = [quantized(small_net, seed) for seed in (0, 1)]
    train_stacked(models, few_digits(), replace(RECIPE, optimizer=optimizer), seeds=(0, 1), route="replayed")
    assert len(addresses) == 4 * 8 - 3
    assert all(found == addresses[0] for found in addresses)


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


def test_a_stack_is_not_compiled():
    with pytest.raises(ValueError, match="route: a stack cannot be compiled, got 'compiled'"):
        train_stacked([quantized(small_net)], few_digits(), RECIPE, seeds=(0,), route="compiled")


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
