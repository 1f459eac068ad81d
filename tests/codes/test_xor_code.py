import numpy as np
import pytest
from hypothesis import given

from flexor_search.codes import XorCode, decode_reference, gf2_rank, make_code

from .strategies import bits, codes, drawn_codes, rngs, user_codes


@given(codes())
def test_taps_and_matrix_say_the_same(code):
    assert code.matrix.shape == (code.n_out, code.n_in)
    assert XorCode.from_matrix(code.matrix).taps == code.taps


def test_the_matrix_of_a_code_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        make_code("taps", 4, 8).matrix[0, 0] = 1


@given(codes(), rngs())
def test_recoded_bits_decode_to_the_same_weights(code, rng):
    stored = bits(rng, code.n_in, 17)
    reduced = code.reduced()
    recoded = (reduced.recode.astype(int) @ stored % 2).astype(np.uint8)
    weights = 17 * code.n_out
    assert (decode_reference(code, stored, weights) == decode_reference(reduced.code, recoded, weights)).all()


@given(codes())
def test_a_reduced_code_has_rank_bits_and_each_of_them_counts(code):
    reduced = code.reduced()
    assert reduced.code.n_in == reduced.code.rank == code.rank == gf2_rank(reduced.recode)
    assert (reduced.code.n_out, reduced.code.family) == (code.n_out, code.family)


@given(codes())
def test_reducing_again_changes_nothing(code):
    once = code.reduced().code
    assert once.reduced().code == once


@given(user_codes())
def test_rows_only_lose_taps(code):
    lengths = zip(code.reduced().code.taps, code.taps, strict=True)
    assert all(len(after) <= len(before) for after, before in lengths)


@given(drawn_codes(families=("taps",), taps=(2,)))
def test_a_two_tap_code_wastes_one_bit_for_each_connected_component(code):
    groups = [{j} for j in range(code.n_in)]
    for taps in code.taps:
        joined = [group for group in groups if group & set(taps)]
        groups = [group for group in groups if group not in joined] + [set().union(*joined)]
    even = all(len(taps) == 2 for taps in code.taps)
    assert code.rank == (code.n_in - len(groups) if even else 1)  # one input only: repetition


@pytest.mark.parametrize(("n_in", "mean_rank"), [(8, 6.98), (12, 10.65), (16, 13.75), (20, 16.01)])
def test_mean_rank_of_random_two_tap_codes(n_in, mean_rank):
    ranks = [make_code("taps", n_in, 20, seed=seed).rank for seed in range(400)]
    assert np.mean(ranks) == pytest.approx(mean_rank, abs=0.1)  # a standard error of 400 draws is at most 0.06


@pytest.mark.parametrize(
    ("n_in", "taps", "message"),
    [
        (0, ((0,),), "1 <= n_in <= n_out, got n_in=0 with n_out=1"),
        (3, ((0,), (1,)), "1 <= n_in <= n_out, got n_in=3 with n_out=2"),
        (1, (), "1 <= n_in <= n_out, got n_in=1 with n_out=0"),
        (2, ((0,), ()), "row 1 is empty"),
        (2, ((0,), (2,)), r"row 1 must hold ascending distinct indices in 0\.\.1, got \(2,\)"),
        (2, ((-1,), (1,)), "row 0 must hold ascending"),
        (2, ((0,), (1, 0)), "row 1 must hold ascending"),
        (2, ((0,), (1, 1)), "row 1 must hold ascending"),
    ],
)
def test_taps_that_are_no_code_are_refused(n_in, taps, message):
    with pytest.raises(ValueError, match=message):
        XorCode(n_in, taps)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ([1, 0], "must be two-dimensional with entries 0 and 1"),
        ([[1, 0], [2, 1]], "must be two-dimensional with entries 0 and 1"),
        ([[1, 0], [-1, 1]], "must be two-dimensional with entries 0 and 1"),
        ([[1, 0], [0, 0]], "row 1 is empty"),
        ([[1, 0, 1]], "1 <= n_in <= n_out"),
        ([[]], "1 <= n_in <= n_out"),
    ],
)
def test_matrices_that_are_no_code_are_refused(matrix, message):
    with pytest.raises(ValueError, match=message):
        XorCode.from_matrix(np.array(matrix))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"family": "tapes"}, "family: must be one of systematic, taps, random, dense, got 'tapes'"),
        ({"n_in": 0}, "n_in: must satisfy 1 <= n_in <= n_out, got n_in=0, n_out=8"),
        ({"n_in": 9}, "n_in: must satisfy 1 <= n_in <= n_out, got n_in=9, n_out=8"),
        ({"n_tap": 0}, "n_tap: must be at least 1, got 0"),
        ({"seed": -1}, "seed: must not be negative, got -1"),
    ],
)
def test_codes_that_cannot_be_drawn_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_code(**({"family": "taps", "n_in": 4, "n_out": 8} | arguments))
