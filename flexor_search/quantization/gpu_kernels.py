"""The surrogate's weight and its gradients as one Triton kernel each way; imported only where Triton is.

A program takes BLOCK slices of all planes. Counting tapped complements is a small matrix product of zeros and ones,
exact in float16 up to 2048 taps; products of gradients are float32 throughout. Sizes of layers are not compiled in, so
that all layers of all models share a few compiled kernels.
"""

# capitals are constants of the compiled kernel
import triton
import triton.language as tl

BLOCK = 64
_SIZES = ["n_slices", "n_in", "n_out", "n_weights", "n_channels", "run_weights", "n_inner", "n_places"]


@triton.jit
def _tile(matrix, encrypted, plane, slices, n_slices, n_in, n_out, N_IN: tl.constexpr, N_OUT: tl.constexpr):
    """Of a plane and some slices: encrypted weights (N_IN, BLOCK), the matrix (N_OUT, N_IN), signs (N_OUT, BLOCK)."""
    inputs, outputs = tl.arange(0, N_IN), tl.arange(0, N_OUT)
    inside = (inputs[:, None] < n_in) & (slices[None, :] < n_slices)
    places = (plane * n_slices + slices[None, :]) * n_in + inputs[:, None]
    x = tl.load(encrypted + places, mask=inside, other=0.0)
    taps = (outputs[:, None] < n_out) & (inputs[None, :] < n_in)
    m = tl.load(matrix + (plane * n_out + outputs[:, None]) * n_in + inputs[None, :], mask=taps, other=0.0)
    count = tl.dot(m.to(tl.float16), (x < 0).to(tl.float16)) + (tl.sum(m, 1) - 1)[:, None]  # type: ignore[operator]
    return x, m, 1 - 2 * (count - 2 * tl.floor(count * 0.5))


@triton.jit
def _weight_index(slices, n_slices, n_out, N_OUT: tl.constexpr, CONSECUTIVE: tl.constexpr):
    """Which weight each output of each slice is, (N_OUT, BLOCK)."""
    outputs = tl.arange(0, N_OUT)
    if CONSECUTIVE:
        return slices[None, :] * n_out + outputs[:, None]
    return outputs[:, None] * n_slices + slices[None, :]


@triton.jit
def _place(weight, n_inner, n_places, LAST: tl.constexpr):
    """Where a weight lies in memory: (out, in, places) in order, or with the inputs last."""
    if LAST:
        rest = weight % (n_inner * n_places)
        return weight - rest + (rest % n_places) * n_inner + rest // n_places
    return weight


@triton.jit(do_not_specialize=_SIZES)
def weight_kernel(
    encrypted, matrix, scale, out,
    n_slices, n_in, n_out, n_weights, n_channels, run_weights, n_inner, n_places,
    N_PLANES: tl.constexpr, N_IN: tl.constexpr, N_OUT: tl.constexpr, BLOCK: tl.constexpr,
    CONSECUTIVE: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """The weight: over planes, in order, the sum of scale * sign."""
    slices = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    weight = _weight_index(slices, n_slices, n_out, N_OUT, CONSECUTIVE)
    real = (tl.arange(0, N_OUT)[:, None] < n_out) & (slices[None, :] < n_slices) & (weight < n_weights)
    channel = weight // run_weights
    total = tl.zeros((N_OUT, BLOCK), tl.float32)
    for plane in tl.static_range(N_PLANES):  # type: ignore[misc]
        _, _, signs = _tile(matrix, encrypted, plane, slices, n_slices, n_in, n_out, N_IN, N_OUT)
        total += signs * tl.load(scale + plane * n_channels + channel, mask=real, other=0.0)
    place = _place(weight, n_inner, n_places, LAST)
    tl.store(out + place, total.to(out.dtype.element_ty), mask=real)


@triton.jit(do_not_specialize=_SIZES)
def gradient_kernel(
    encrypted, matrix, scale, s_tanh, grad, out, signed,
    n_slices, n_in, n_out, n_weights, n_channels, run_weights, n_inner, n_places,
    N_PLANES: tl.constexpr, N_IN: tl.constexpr, N_OUT: tl.constexpr, BLOCK: tl.constexpr,
    CONSECUTIVE: tl.constexpr, LAST: tl.constexpr, STRAIGHT: tl.constexpr,
):  # fmt: skip
    """Gradients of the encrypted weights, and of each weight gradient * sign, whose sums are those of the scales."""
    slices = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    weight = _weight_index(slices, n_slices, n_out, N_OUT, CONSECUTIVE)
    real = (tl.arange(0, N_OUT)[:, None] < n_out) & (slices[None, :] < n_slices) & (weight < n_weights)
    channel = weight // run_weights
    slope = tl.load(s_tanh)
    given = tl.load(grad + _place(weight, n_inner, n_places, LAST), mask=real, other=0.0).to(tl.float32)
    inputs = tl.arange(0, N_IN)
    inside = (inputs[:, None] < n_in) & (slices[None, :] < n_slices)
    for plane in tl.static_range(N_PLANES):  # type: ignore[misc]
        x, m, signs = _tile(matrix, encrypted, plane, slices, n_slices, n_in, n_out, N_IN, N_OUT)
        product = given * signs
        tl.store(signed + plane * n_weights + weight, product, mask=real)
        product *= tl.load(scale + plane * n_channels + channel, mask=real, other=0.0)
        through = tl.dot(tl.trans(m), product, input_precision="ieee")
        through = tl.where(x < 0, -through, through)
        if not STRAIGHT:
            e = tl.exp(-2 * tl.abs(x * slope))  # 1 - tanh^2 = 4 e / (1 + e)^2, which no large slope overflows
            through *= slope * (4 * e / ((1 + e) * (1 + e)))
        tl.store(out + (plane * n_slices + slices[None, :]) * n_in + inputs[:, None], through, mask=inside)
