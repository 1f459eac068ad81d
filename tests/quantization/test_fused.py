"""The compiled weight and its gradients against the pure formulas, on every kind of layer and every route past them."""

import copy
import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, grad, vmap

from flexor_search.codes import XorCode
from flexor_search.planning import LayerSpec
from flexor_search.quantization import flexor_weight, flexor_weights, fused, set_s_tanh, sum_of_planes

from .models import LAYERS, encrypted_and_scale, quantize_all, randomize, specs

SPEC = LayerSpec("systematic", 12, 20, n_planes=2)


@st.composite
def wide_specs(draw):
    """Codes up to 40 of 64, of every family."""
    family = draw(st.sampled_from(["systematic", "taps", "random", "matrix"]))
    n_in, n_planes = draw(st.integers(1, 40)), draw(st.integers(1, 3))
    n_out = draw(st.integers(n_in, 64))
    if family == "matrix":
        draw_row = st.sets(st.integers(0, n_in - 1), min_size=1, max_size=6).map(lambda taps: tuple(sorted(taps)))
        return LayerSpec.from_code(XorCode(n_in, tuple(draw(draw_row) for _ in range(n_out))), n_planes)
    return LayerSpec(family, n_in, n_out, n_planes, draw(st.integers(1, 4)), draw(st.integers(0, 99)))


def weight_and_gradients(layer, compiled):
    """The layer's weight, the gradients of both its originals for a random gradient of it."""
    weight = flexor_weights(layer)[""]
    leaves = [tensor.detach().clone().requires_grad_() for tensor in encrypted_and_scale(layer)]
    assert fused.can_fuse(*leaves) == (leaves[0].numel() > 0)
    result = weight(*leaves) if compiled else weight.reference(*leaves)
    generator = torch.Generator().manual_seed(0)
    result.backward(torch.randn(result.shape, generator=generator))
    return result.detach(), *(leaf.grad for leaf in leaves)


def assert_equal_to_the_pure_formulas(layer):
    fast, pure = weight_and_gradients(layer, True), weight_and_gradients(layer, False)
    assert torch.equal(fast[0], pure[0])
    slope = float(flexor_weights(layer)[""].s_tanh)
    size = 1e-6 * (1 + pure[1].abs().max().item()) * max(1, slope)
    torch.testing.assert_close(fast[1], pure[1], rtol=1e-5, atol=size)
    torch.testing.assert_close(fast[2], pure[2], rtol=1e-5, atol=1e-6 * (1 + fast[0].numel()) ** 0.5)


@settings(max_examples=80)
@given(st.sampled_from(sorted(LAYERS)), st.one_of(specs(), wide_specs()), st.sampled_from([0.5, 5.0, 100.0]))
def test_bits_and_gradients_are_those_of_the_pure_formulas(name, spec, s_tanh):
    layer = quantize_all(LAYERS[name][0](False), spec)
    randomize(layer)
    encrypted, _ = encrypted_and_scale(layer)
    with torch.no_grad():
        encrypted.mul_(torch.where(torch.rand_like(encrypted) < 0.5, 1e-3, 1.0))
        encrypted.flatten()[0] = -0.0
    set_s_tanh(layer, s_tanh)
    assert_equal_to_the_pure_formulas(layer)


@pytest.mark.parametrize("surrogate", ["flexor", "ste"])
@pytest.mark.parametrize("n_slices", [511, 512, 513, 4096, 9001])
def test_layers_of_many_blocks_and_parts(surrogate, n_slices):
    layer = quantize_all(nn.Linear(20 * n_slices // 7, 7), SPEC, surrogate=surrogate)
    randomize(layer)
    assert_equal_to_the_pure_formulas(layer)


def test_the_number_of_threads_changes_no_bit(monkeypatch):
    monkeypatch.setattr(fused, "WEIGHTS_PER_THREAD", 1)
    layer = quantize_all(nn.Linear(2000, 150), SPEC)
    randomize(layer)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(weight_and_gradients(layer, True))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for result in results[1:] for a, b in zip(results[0], result, strict=True))


def test_a_scale_of_zero_and_gradients_that_are_not_contiguous():
    layer = quantize_all(nn.Linear(30, 8), SPEC)
    randomize(layer)
    encrypted, scale = encrypted_and_scale(layer)
    with torch.no_grad():
        scale[:, 3] = 0
    layer.weight.t().sum().backward()  # the same number everywhere, with strides of 0
    weight = flexor_weights(layer)[""]
    wanted = torch.autograd.grad(weight.reference(encrypted, scale).sum(), (encrypted, scale))
    torch.testing.assert_close((encrypted.grad, scale.grad), wanted, rtol=1e-5, atol=1e-5)


def test_gradients_of_gradients_are_those_of_the_pure_formulas():
    layer = quantize_all(nn.Linear(30, 8), SPEC)
    randomize(layer)
    both = encrypted_and_scale(layer)
    weight, found = flexor_weights(layer)[""], []
    for function in (weight, weight.reference):
        first = torch.autograd.grad(function(*both).pow(3).sum(), both, create_graph=True)
        found.append(torch.autograd.grad(sum(g.square().sum() for g in first), both))
    for fast, pure in zip(*found, strict=True):
        torch.testing.assert_close(fast, pure, rtol=1e-4, atol=1e-6 * pure.abs().max().item())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_take_the_pure_formulas_and_are_exact(dtype):
    layer = quantize_all(nn.Linear(30, 8), LayerSpec(n_in=12)).to(dtype)
    encrypted, scale = encrypted_and_scale(layer)
    with torch.no_grad():
        scale.fill_(1)
    assert not fused.can_fuse(encrypted, scale)
    assert layer.weight.dtype == dtype
    assert set(layer.weight.flatten().tolist()) == {-1.0, 1.0}
    layer.weight.sum().backward()
    assert encrypted.grad.dtype == dtype


def test_without_numba_the_pure_formulas_are_taken(monkeypatch):
    monkeypatch.setattr(fused, "_loops", lambda: None)
    layer = quantize_all(nn.Linear(30, 8), SPEC)
    weight = flexor_weights(layer)[""]
    assert not fused.can_fuse(*encrypted_and_scale(layer))
    assert torch.equal(layer.weight, weight.reference(*encrypted_and_scale(layer)))


@pytest.mark.parametrize("name", ["conv2d", "conv2d-depthwise", "conv3d-groups", "linear"])
@pytest.mark.parametrize("compiled", [True, False])
def test_the_weight_has_the_strides_of_a_plain_one(name, compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(flexor_weight, "can_fuse", lambda *_: False)
    formats = [torch.contiguous_format]
    formats += {"conv3d-groups": [torch.channels_last_3d], "linear": []}.get(name, [torch.channels_last])
    for memory_format in formats:
        plain = LAYERS[name][0](False).to(memory_format=memory_format)
        layer = quantize_all(LAYERS[name][0](False), SPEC).to(memory_format=memory_format)
        assert layer.weight.stride() == plain.weight.stride()
        layer.weight.square().sum().backward()
        assert encrypted_and_scale(layer)[0].grad.abs().sum() > 0
        assert copy.deepcopy(layer).weight.stride() == plain.weight.stride()


def test_copies_and_saved_states_are_the_same_layer():
    layer = quantize_all(nn.Conv2d(3, 8, 3), SPEC)
    randomize(layer)
    assert sorted(layer.state_dict()) == [
        "bias",
        "parametrizations.weight.original0",
        "parametrizations.weight.original1",
    ]
    other = quantize_all(nn.Conv2d(3, 8, 3), SPEC)
    other.load_state_dict(layer.state_dict())
    twin = copy.deepcopy(layer)
    assert torch.equal(other.weight, layer.weight)
    assert torch.equal(twin.weight, layer.weight)
    (twin.weight * twin.weight.detach()).sum().backward()  # used twice
    assert encrypted_and_scale(layer)[0].grad is None


def losses(monkeypatch, pure):
    if pure:
        monkeypatch.setattr(flexor_weight, "can_fuse", lambda *_: False)
    torch.manual_seed(0)
    net = quantize_all(nn.Sequential(nn.Linear(20, 40), nn.ReLU(), nn.Linear(40, 4)), SPEC)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    inputs, labels, found = torch.randn(64, 20), torch.randint(4, (64,)), []
    for _ in range(20):
        loss = nn.functional.cross_entropy(net(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


def test_a_short_training_goes_the_same_way(monkeypatch):
    fast = losses(monkeypatch, pure=False)
    assert fast[0] > fast[-1]
    assert fast == pytest.approx(losses(monkeypatch, pure=True), rel=1e-3)


def test_many_threads_at_once():
    layers = [quantize_all(nn.Linear(300, 50), SPEC) for _ in range(4)]
    for layer in layers:
        randomize(layer)
    wanted = [weight_and_gradients(layer, True) for layer in layers]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            found = list(pool.map(lambda layer: weight_and_gradients(layer, True), layers))
            assert all(torch.equal(a, b) for x, y in zip(wanted, found, strict=True) for a, b in zip(x, y, strict=True))


COMPILER = pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler, Debian's g++")


def _in_another_process(_):
    torch.manual_seed(0)
    layer = quantize_all(nn.Linear(300, 50), SPEC)
    layer.weight.sum().backward()
    return layer.weight.sum().item()


def _here_and_in(method):
    here = _in_another_process(0)
    with multiprocessing.get_context(method).Pool(1) as pool:
        return here, pool.map(_in_another_process, [0])[0]


@pytest.mark.parametrize("method", sorted({"fork", "spawn"}.intersection(multiprocessing.get_all_start_methods())))
def test_in_another_process(method):
    """From a fresh process: one in which autograd has started threads cannot be forked at all."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
        here, there = fresh.submit(_here_and_in, method).result()
    assert there == here == _in_another_process(0)


@pytest.mark.parametrize("surrogate", ["flexor", "ste", "analog"])
def test_stacked_by_vmap_it_has_the_gradients_of_each_alone(surrogate):
    layer = quantize_all(nn.Linear(9, 5), SPEC, surrogate=surrogate)
    randomize(layer)
    inputs = torch.randn(6, 9)
    own = {name: tensor.detach() for name, tensor in layer.named_parameters()}
    stacks = {name: torch.stack([tensor, tensor.flip(0) + 0.1, tensor * 2]) for name, tensor in own.items()}

    def loss(parameters):
        return functional_call(layer, parameters, (inputs,)).square().sum()

    stacked = vmap(grad(loss))(stacks)
    for k in range(3):
        alone = {name: stack[k].clone().requires_grad_() for name, stack in stacks.items()}
        loss(alone).backward()
        for name, tensor in alone.items():
            torch.testing.assert_close(stacked[name][k], tensor.grad, rtol=1e-4, atol=1e-3)
    each_image = vmap(grad(lambda p, x: functional_call(layer, p, (x,)).sum()), (None, 0))(own, inputs)
    together = grad(lambda p: functional_call(layer, p, (inputs,)).sum())(own)
    for name, gradient in together.items():
        torch.testing.assert_close(each_image[name].sum(0), gradient, rtol=1e-4, atol=1e-3)


@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("backend", ["eager", "aot_eager", pytest.param("inductor", marks=COMPILER)])
@pytest.mark.parametrize("surrogate", ["flexor", "ste"])
def test_compiled_by_torch_it_has_the_gradients_of_eager(backend, surrogate):
    layer = quantize_all(nn.Conv2d(2, 6, 3), SPEC, surrogate=surrogate)
    randomize(layer)
    torch._dynamo.reset()
    compiled, inputs, found = torch.compile(layer, backend=backend, fullgraph=True), torch.randn(4, 2, 6, 6), []
    for module in (layer, compiled):
        layer.zero_grad()
        output = module(inputs)
        output.square().sum().backward()
        found.append([output.detach(), *(parameter.grad.clone() for parameter in layer.parameters())])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-3)


def test_the_planes_are_added_in_order():
    layer = quantize_all(nn.Linear(30, 8, bias=False), LayerSpec(n_in=4, n_out=7, n_planes=3))
    randomize(layer)
    encrypted, scale = (tensor.detach() for tensor in encrypted_and_scale(layer))
    signs = 2.0 * flexor_weights(layer)[""].weight_bits(encrypted).view(3, 8, 30) - 1
    assert torch.equal(layer.weight, sum_of_planes(signs, scale[:, :, None]))
