"""The XOR network: exact signs forward, eq. 6 and the ablations backward, against formulas written out in loops."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flexor_search.quantization import SURROGATES, decode_signs
from flexor_search.quantization.surrogate import output_signs

from .models import encrypted_weights, matrices, specs
from .oracles import gradient_of, sign, signs_of, traceable_signs

cases = specs().flatmap(lambda spec: st.tuples(st.just(spec), encrypted_weights(spec)))
small_cases = specs(max_out=9).flatmap(lambda spec: st.tuples(st.just(spec), encrypted_weights(spec, 3)))
slopes = st.sampled_from([0.5, 5.0, 10.0, 100.0])
SLOPE = torch.tensor(10.0)


def backward(spec, encrypted, s_tanh, surrogate, seed=0):
    """A random gradient of the loss with respect to the signs, and what it becomes for the encrypted weights."""
    encrypted = encrypted.clone().requires_grad_()
    signs = decode_signs(encrypted, matrices(spec), torch.tensor(s_tanh), surrogate)
    grad = torch.randn(signs.shape, generator=torch.Generator().manual_seed(seed))
    signs.backward(grad)
    return grad, encrypted.grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("surrogate", ["flexor", "ste"])
@settings(max_examples=25)
@given(cases)
def test_forward_is_exactly_the_reference_decoder(surrogate, dtype, case):
    spec, encrypted = case
    encrypted = encrypted.to(dtype)
    signs = decode_signs(encrypted, matrices(spec), SLOPE, surrogate)
    assert signs.dtype == dtype
    assert signs.double().tolist() == signs_of(spec.codes, encrypted).tolist()


@given(cases)
def test_forward_is_exact_under_bfloat16_autocast(case):
    spec, encrypted = case
    with torch.autocast("cpu", torch.bfloat16):
        signs = decode_signs(encrypted, matrices(spec), SLOPE)
    assert signs.dtype == torch.float32
    assert signs.tolist() == signs_of(spec.codes, encrypted).tolist()


def test_the_sign_of_zero_is_plus_one():
    identity, pair = torch.eye(2)[None], torch.ones(1, 2, 2)
    zeros = torch.tensor([[[0.0, -0.0]]])
    assert output_signs(zeros, identity).flatten().tolist() == [1, 1]
    assert output_signs(zeros, pair).flatten().tolist() == [-1, -1]  # 1 XOR 1 = 0


@given(small_cases, slopes)
def test_gradient_is_equation_6(case, s_tanh):
    spec, encrypted = case
    grad, found = backward(spec, encrypted, s_tanh, "flexor")
    wanted = gradient_of(
        spec.codes, encrypted, grad, slope=lambda x: s_tanh * (1 - math.tanh(s_tanh * x) ** 2), factor=sign
    )
    torch.testing.assert_close(found.double(), wanted, rtol=1e-3, atol=1e-4 * s_tanh)


@given(cases, slopes)
def test_gradient_is_that_of_the_traceable_form(case, s_tanh):
    spec, encrypted = case
    grad, found = backward(spec, encrypted, s_tanh, "flexor")
    leaf = encrypted.clone().requires_grad_()
    signs = traceable_signs(leaf, matrices(spec), s_tanh)
    assert signs.tolist() == signs_of(spec.codes, encrypted).tolist()
    signs.backward(grad)
    torch.testing.assert_close(found, leaf.grad, rtol=1e-4, atol=1e-4 * s_tanh)


@given(small_cases)
def test_straight_through_takes_the_slope_as_one(case):
    spec, encrypted = case
    grad, found = backward(spec, encrypted, 10.0, "ste")
    wanted = gradient_of(spec.codes, encrypted, grad, slope=lambda x: 1.0, factor=sign)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-4)


@given(small_cases, slopes)
def test_analog_has_the_gradient_of_products_of_tanh_and_exact_signs(case, s_tanh):
    spec, encrypted = case
    tanh = lambda x: math.tanh(s_tanh * x)  # noqa: E731
    signs = decode_signs(encrypted, matrices(spec), torch.tensor(s_tanh), "analog")
    assert signs.tolist() == signs_of(spec.codes, encrypted).tolist()
    grad, found = backward(spec, encrypted, s_tanh, "analog")
    wanted = gradient_of(spec.codes, encrypted, grad, slope=lambda x: s_tanh * (1 - tanh(x) ** 2), factor=tanh)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-3, atol=1e-4 * s_tanh)


@pytest.mark.parametrize("surrogate", sorted(SURROGATES))
@settings(max_examples=25)
@given(cases)
def test_autocast_does_not_change_the_gradient(surrogate, case):
    spec, encrypted = case
    grad, plain = backward(spec, encrypted, 10.0, surrogate)
    leaf = encrypted.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        signs = decode_signs(leaf, matrices(spec), SLOPE, surrogate)
    signs.backward(grad)
    torch.testing.assert_close(leaf.grad, plain, rtol=1e-5, atol=1e-5)


@given(cases)
def test_the_gradient_has_the_dtype_of_the_weights(case):
    spec, encrypted = case
    grad, _ = backward(spec, encrypted, 10.0, "flexor")
    leaf = encrypted.to(torch.bfloat16).requires_grad_()
    decode_signs(leaf, matrices(spec), SLOPE.to(torch.bfloat16)).backward(grad.to(torch.bfloat16))
    assert leaf.grad.dtype == torch.bfloat16
    exact = backward(spec, encrypted.to(torch.bfloat16).float(), 10.0, "flexor")[1]
    largest = 10 * spec.n_out * float(grad.abs().max())
    torch.testing.assert_close(leaf.grad.float(), exact, rtol=0.05, atol=0.02 * largest)
