import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexor_search.codes import FAMILIES, make_code

sizes = st.integers(1, 30).flatmap(lambda n_in: st.tuples(st.just(n_in), st.integers(n_in, 60)))
seeds = st.integers(0, 2**70)
n_taps = st.integers(1, 4)


@given(sizes, seeds, n_taps)
def test_taps_rows_have_exactly_n_tap_distinct_inputs(size, seed, n_tap):
    code = make_code("taps", *size, n_tap=n_tap, seed=seed)
    assert {len(set(taps)) for taps in code.taps} == {min(n_tap, code.n_in)}


def test_taps_reach_every_pair_about_equally_often():
    drawn = Counter(taps for seed in range(300) for taps in make_code("taps", 5, 20, seed=seed).taps)
    assert len(drawn) == 10
    chi_squared = sum((count - 600) ** 2 / 600 for count in drawn.values())
    assert chi_squared < 27.9  # 9 degrees of freedom, one chance in a thousand


def test_random_rows_are_half_ones():
    entries = [make_code("random", 20, 20, seed=seed).matrix.mean() for seed in range(100)]
    assert np.mean(entries) == pytest.approx(0.5, abs=0.01)


@given(seeds, st.integers(1, 3))
def test_random_rows_are_never_empty(seed, n_in):
    assert all(make_code("random", n_in, 60, seed=seed).taps)


@given(sizes, seeds, n_taps)
def test_systematic_codes_start_with_the_identity(size, seed, n_tap):
    code = make_code("systematic", *size, n_tap=n_tap, seed=seed)
    assert code.taps[: code.n_in] == tuple((j,) for j in range(code.n_in))
    assert code.rank == code.n_in


@given(sizes, seeds, n_taps)
def test_systematic_xor_rows_are_distinct_while_they_last_and_then_repeat_evenly(size, seed, n_tap):
    code = make_code("systematic", *size, n_tap=n_tap, seed=seed)
    rows = code.taps[code.n_in :]
    n_tap = min(n_tap, code.n_in)
    supply = math.comb(code.n_in, n_tap)
    assert all(len(taps) == n_tap for taps in rows)
    for start in range(0, len(rows), supply):
        batch = rows[start : start + supply]
        assert len(set(batch)) == len(batch)


@pytest.mark.parametrize("seed", range(5))
def test_four_of_twenty_repeats_its_six_pairs_two_or_three_times(seed):
    counts = Counter(make_code("systematic", 4, 20, seed=seed).taps[4:])
    assert sorted(counts.values()) == [2, 2, 3, 3, 3, 3]


@pytest.mark.parametrize("family", FAMILIES)
def test_one_stored_bit_is_repeated(family):
    assert make_code(family, 1, 7, seed=3).taps == ((0,),) * 7


@given(sizes, seeds)
def test_dense_codes_have_full_rank_and_rows_of_two_or_more_that_repeat_evenly(size, seed):
    code = make_code("dense", *size, seed=seed)
    assert code.taps[: code.n_in] == tuple((j,) for j in range(code.n_in))
    assert code.rank == code.n_in
    rows = code.taps[code.n_in :]
    assert all(len(taps) >= min(2, code.n_in) for taps in rows)
    counts = Counter(rows).values()
    supply = max(2**code.n_in - 1 - code.n_in, 1)
    assert len(counts) == min(len(rows), supply)
    assert max(counts, default=0) - min(counts, default=0) <= 1


@given(sizes, seeds)
def test_systematic_codes_nest(size, seed):
    n_in, n_out = size
    small, large = make_code("systematic", n_in, n_out, seed=seed), make_code("systematic", n_out, n_out, seed=seed)
    assert small.taps[: small.n_in] == large.taps[: small.n_in]


@pytest.mark.parametrize(("n_in", "n_out", "n_tap"), [(65, 256, 1), (66, 256, 66), (66, 256, 65), (48, 256, 24)])
def test_large_codes_are_drawn_at_once_and_stay_distinct(n_in, n_out, n_tap):
    rows = make_code("systematic", n_in, n_out, n_tap=n_tap).taps[n_in:]
    counts = Counter(rows).values()
    assert len(counts) == min(len(rows), math.comb(n_in, n_tap))
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("family", FAMILIES)
def test_drawing_again_gives_the_same_code(family):
    first = [make_code(family, 12, 20, seed=seed) for seed in range(10)]
    make_code.cache_clear()
    assert [make_code(family, 12, 20, seed=seed) for seed in range(10)] == first


@pytest.mark.parametrize("family", FAMILIES)
def test_seeds_give_different_codes(family):
    assert len({make_code(family, 12, 20, seed=seed).taps for seed in range(50)}) == 50
