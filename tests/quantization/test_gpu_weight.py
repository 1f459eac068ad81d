"""The weight's GPU kernels against the pure formulas; without a GPU Triton interprets them on the processor."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flexor_search.planning import LayerSpec
from flexor_search.quantization import FlexorWeight, flexor_weights, gpu_weight, set_s_tanh
from flexor_search.quantization.gpu_weight import GpuLayer, can_run

from .models import LAYERS, encrypted_and_scale, quantize_all, randomize, specs
from .test_fused import wide_specs

pytest.importorskip("triton", reason="needs Triton, which comes with torch for GPUs")
KIND = gpu_weight._Kind(16, 32, 1, False, False, torch.contiguous_format, torch.float32)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:triton")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def laid_out(weight: FlexorWeight) -> GpuLayer | None:
    return GpuLayer.of(weight.layer, weight.spec, weight.slice_order, weight.surrogate)


def both(layer, memory_format=torch.contiguous_format, low=False):
    """Weight and gradients by the kernels and by the formulas."""
    weight = flexor_weights(layer.to(DEVICE))[""]
    found = []
    for by_kernels in (True, False):
        leaves = [tensor.detach().clone().requires_grad_() for tensor in encrypted_and_scale(layer)]
        with torch.autocast(DEVICE, torch.bfloat16, enabled=low):
            if by_kernels:
                tensors = (leaves[0], weight.matrix, leaves[1], weight.s_tanh, weight.reference)
                result = gpu_weight.gpu_weight(laid_out(weight), *tensors, memory_format=memory_format)
                assert result.is_contiguous(memory_format=memory_format)
            else:
                result = weight.reference(*leaves)
                result = result.bfloat16() if low else result
        generator = torch.Generator().manual_seed(0)
        grad = torch.randn(result.shape, generator=generator).to(DEVICE, result.dtype)
        result.backward(grad.contiguous(memory_format=memory_format))
        found.append((result.detach(), *(leaf.grad for leaf in leaves)))
    return found


def check(layer, **options):
    slope = float(flexor_weights(layer)[""].s_tanh)
    (weight, by_encrypted, by_scale), (wanted, *gradients) = both(layer, **options)
    assert weight.dtype == wanted.dtype
    if DEVICE == "cuda" or weight.dtype == torch.float32:
        assert torch.equal(weight, wanted)
    else:  # Triton's interpreter cuts bits off where a GPU rounds
        torch.testing.assert_close(weight, wanted, rtol=2**-7, atol=0)
    size = 1e-6 * (1 + gradients[0].abs().max().item()) * max(1, slope)
    torch.testing.assert_close(by_encrypted, gradients[0], rtol=1e-4, atol=size)
    torch.testing.assert_close(by_scale, gradients[1], rtol=1e-4, atol=1e-5 * (1 + weight.numel()) ** 0.5)


@settings(max_examples=40)
@given(st.sampled_from(sorted(LAYERS)), st.one_of(specs(), wide_specs()), st.sampled_from([0.5, 5.0, 100.0]))
def test_bits_and_gradients_are_those_of_the_pure_formulas(name, spec, s_tanh):
    layer = quantize_all(LAYERS[name][0](False), spec)
    randomize(layer)
    weight = flexor_weights(layer)[""]
    set_s_tanh(layer, s_tanh)
    if laid_out(weight) is None:
        assert weight.layer.transposed_groups
    elif encrypted_and_scale(layer)[0].numel():
        check(layer)


@pytest.mark.parametrize("surrogate", ["flexor", "ste"])
@pytest.mark.parametrize("slice_order", ["planes", "consecutive"])
@pytest.mark.parametrize("low", [False, True])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_every_form_of_a_convolution(surrogate, slice_order, low, memory_format):
    layer = quantize_all(nn.Conv2d(5, 7, 3), LayerSpec("taps", 6, 11, n_planes=2), surrogate=surrogate)
    randomize(layer)
    flexor_weights(layer)[""].slice_order = slice_order
    check(layer, low=low, memory_format=memory_format)


def test_layers_that_the_kernels_do_not_know():
    wide = LayerSpec("systematic", 100, 129)
    for layer, spec in ((nn.ConvTranspose2d(2, 4, 3), LayerSpec(n_in=4)), (nn.Linear(9, 30), wide)):
        assert laid_out(flexor_weights(quantize_all(layer, spec))[""]) is None
    analog = quantize_all(nn.Linear(9, 30), LayerSpec(n_in=4), surrogate="analog")
    assert laid_out(flexor_weights(analog)[""]) is None


def test_gradients_of_gradients_are_those_of_the_formulas():
    layer = quantize_all(nn.Linear(6, 5), LayerSpec("taps", 3, 5))
    randomize(layer)
    weight, found = flexor_weights(layer.to(DEVICE))[""], []
    for by_kernels in (True, False):
        leaves = [tensor.detach().clone().requires_grad_() for tensor in encrypted_and_scale(layer)]
        tensors = (leaves[0], weight.matrix, leaves[1], weight.s_tanh, weight.reference)
        result = gpu_weight.gpu_weight(laid_out(weight), *tensors) if by_kernels else weight.reference(*leaves)
        grads = torch.autograd.grad(result.square().sum(), leaves, create_graph=True)
        sum(grad.square().sum() for grad in grads).backward()
        found.append([leaf.grad for leaf in leaves])
    for kernels, formulas in zip(*found, strict=True):
        torch.testing.assert_close(kernels, formulas, rtol=1e-4, atol=1e-5 * formulas.abs().max().item())


@pytest.mark.parametrize("wrong", [lambda *_: None, lambda *_, **__: 1 / 0])
def test_kernels_that_are_wrong_or_do_not_compile_are_not_used(monkeypatch, caplog, wrong):
    monkeypatch.setattr(gpu_weight, "_launch", wrong)
    gpu_weight._proven.cache_clear()
    with caplog.at_level("INFO", "flexor_search"):
        assert not gpu_weight._proven(KIND, torch.device(DEVICE))
    assert "weights are decoded by the plain formulas" in caplog.text
    gpu_weight._proven.cache_clear()


@pytest.mark.parametrize("n_planes", [1, 3])
@pytest.mark.parametrize("consecutive", [False, True])
@pytest.mark.parametrize("straight_through", [False, True])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last, torch.channels_last_3d])
def test_kernels_of_every_kind_are_proven_here(n_planes, consecutive, straight_through, memory_format):
    gpu_weight._proven.cache_clear()
    kind = gpu_weight._Kind(16, 32, n_planes, consecutive, straight_through, memory_format, torch.float32)
    with torch.inference_mode():  # whatever the first forward is in
        assert gpu_weight._proven(kind, torch.device(DEVICE))
    assert gpu_weight._difference(kind, torch.device(DEVICE)) == ""


def test_tensors_on_the_processor_are_left_to_its_own_loops():
    layer = GpuLayer((2, 3), 2, 3, 4, 1, 2, False, False)
    assert not can_run(layer, torch.zeros(1, 2, 3), torch.zeros(1, 2), torch.contiguous_format)


@pytest.mark.gpu
@needs_gpu
def test_on_a_gpu_the_layer_itself_uses_them(monkeypatch):
    layer = quantize_all(nn.Conv2d(5, 7, 3), LayerSpec(n_in=6)).cuda()
    layer(torch.randn(2, 5, 8, 8, device="cuda"))  # proves the kernels first
    launch, launched = gpu_weight._launch, []

    def noted(name, *tensors, **options):
        launched.append(name)
        launch(name, *tensors, **options)

    monkeypatch.setattr(gpu_weight, "_launch", noted)
    layer(torch.randn(2, 5, 8, 8, device="cuda")).sum().backward()
    assert launched == ["weight_kernel", "gradient_kernel"]
