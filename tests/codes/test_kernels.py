"""The compiled decoders equal the reference bit for bit, whatever the code, the length and the number of threads."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexor_search import codes
from flexor_search.codes import decode_reference, kernels, make_code, pack_planes

from .strategies import bits, planes, rngs

SLICES = 20_000  # more than a block of every kernel


@pytest.fixture(params=[False, True], ids=["plainly", "past the caches"], autouse=True)
def streams(request, monkeypatch):
    """Small outputs too are written as large ones are."""
    if request.param:
        monkeypatch.setattr(kernels, "_streams", lambda output: True)
    monkeypatch.setattr(kernels, "MIN_BYTES_PER_THREAD", 1)


any_planes = st.one_of(planes(), planes(max_slices=SLICES))
n_threads = st.integers(1, 4)


def signs_of(code, stored, n_weights):
    return decode_reference(code, stored, n_weights).astype(np.int8) * 2 - 1


@settings(max_examples=60)
@given(any_planes, rngs(), n_threads)
def test_rows_are_those_of_the_reference(plane, rng, threads):
    code, n_slices, _ = plane
    stored = bits(rng, code.n_in, n_slices)
    rows = kernels.decode_rows(code, pack_planes(stored), threads=threads)
    wanted = decode_reference(code, stored, n_slices * code.n_out).reshape(code.n_out, n_slices)
    assert np.array_equal(rows, pack_planes(wanted))  # and so the padding bits are zero
    assert np.array_equal(rows, codes.decode_rows(code, pack_planes(stored)))


@settings(max_examples=60)
@given(any_planes, rngs(), n_threads)
def test_signs_are_those_of_the_reference(plane, rng, threads):
    code, n_slices, n_weights = plane
    stored = bits(rng, code.n_in, n_slices)
    signs = kernels.decode_signs(code, pack_planes(stored), n_weights, threads=threads)
    assert signs.dtype == np.int8
    assert np.array_equal(signs, signs_of(code, stored, n_weights))


@settings(max_examples=60)
@given(any_planes, st.integers(1, 3), rngs(), n_threads, st.data())
def test_weights_are_the_scaled_signs_summed_over_planes(plane, n_planes, rng, threads, data):
    code, n_slices, n_weights = plane
    divisors = [runs for runs in range(1, min(n_weights, 300) + 1) if n_weights % runs == 0]
    runs = data.draw(st.sampled_from([*divisors, n_weights]))
    scale = rng.standard_normal((n_planes, runs)).astype(np.float32)
    stored = [bits(rng, code.n_in, n_slices) for _ in range(n_planes)]
    weight = kernels.decode_weight(
        (code,) * n_planes, tuple(map(pack_planes, stored)), scale, n_weights, threads=threads
    )
    wanted = np.zeros((runs, n_weights // runs), np.float32)
    for plane_scale, plane_bits in zip(scale, stored, strict=True):
        wanted += plane_scale[:, None] * signs_of(code, plane_bits, n_weights).reshape(wanted.shape)
    assert weight.dtype == np.float32
    assert np.array_equal(weight, wanted.ravel())


@settings(max_examples=30)
@given(any_planes, rngs())
def test_decoding_is_linear(plane, rng):
    code, n_slices, _ = plane
    one, other = (pack_planes(bits(rng, code.n_in, n_slices)) for _ in range(2))
    apart = kernels.decode_rows(code, one) ^ kernels.decode_rows(code, other)
    assert np.array_equal(kernels.decode_rows(code, one ^ other), apart)


@settings(max_examples=20)
@given(planes(), rngs())
def test_planes_that_are_read_only_or_strided_are_decoded_too(plane, rng):
    code, n_slices, n_weights = plane
    stored = bits(rng, code.n_in, n_slices)
    packed = pack_planes(stored)
    wanted = signs_of(code, stored, n_weights)
    assert np.array_equal(kernels.decode_signs(code, np.repeat(packed, 2, axis=1)[:, ::2], n_weights), wanted)
    packed.setflags(write=False)
    assert np.array_equal(kernels.decode_signs(code, packed, n_weights), wanted)


@pytest.mark.parametrize("offset", [0, 1, 3])
def test_what_is_given_to_write_into_is_written_and_nothing_beside_it(offset):
    code = make_code("systematic", 3, 5)
    packed = pack_planes(bits(np.random.default_rng(0), 3, SLICES))
    n_bytes = 5 * packed.shape[1]
    around = np.full(n_bytes + 8, 85, np.uint8)
    out = around[offset : offset + n_bytes].reshape(5, -1)
    assert kernels.decode_rows(code, packed, out=out) is out
    assert np.array_equal(out, codes.decode_rows(code, packed))
    assert (np.delete(around, range(offset, offset + n_bytes)) == 85).all()


CODE, PACKED = make_code("systematic", 2, 3), np.zeros((2, 2), np.uint8)


@pytest.mark.parametrize(
    ("decode", "words"),
    [
        (lambda: kernels.decode_rows(CODE, PACKED[:1]), r"packed: must be uint8 of shape \(2, 2\)"),
        (lambda: kernels.decode_rows(CODE, PACKED.astype(np.int64)), "got int64"),
        (lambda: kernels.decode_signs(CODE, PACKED, 24), r"packed: must be uint8 of shape \(2, 1\)"),
        (lambda: kernels.decode_rows(CODE, PACKED, out=np.zeros((2, 2), np.uint8)), r"out: must be .* \(3, 2\)"),
        (lambda: kernels.decode_signs(CODE, PACKED, 27, out=np.zeros(54, np.int8)[::2]), "C-contiguous"),
        (lambda: kernels.decode_weight((CODE,), (PACKED,), np.ones((1, 2), np.float32), 27), "scale: must have shape"),
        (lambda: kernels.decode_weight((CODE,), (PACKED,), np.ones((2, 1), np.float32), 27), "1 planes"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(decode, words):
    with pytest.raises(ValueError, match=words):
        decode()


def test_numba_comes_late():
    code = "import sys, flexor_search.codes, flexor_search.packing; print('numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_no_slices_give_no_rows():
    assert kernels.decode_rows(make_code("taps", 4, 8), np.zeros((4, 0), np.uint8)).shape == (8, 0)


FORKS = """
import os
import numpy as np
from flexor_search.codes import kernels, make_code, sharing
code, packed = make_code("systematic", 8, 20), np.random.default_rng(0).integers(0, 256, (8, 2_000_000), np.uint8)
wanted = kernels.decode_rows(code, packed, threads=2)
child = os.fork()
if not child:
    equal = all(np.array_equal(kernels.decode_rows(code, packed, threads=2), wanted) for _ in range(3))
    os._exit(0 if equal and sharing._pool(1)._work_queue.qsize() <= 1 else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_decodes_and_queues_nothing():
    done = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "0"
