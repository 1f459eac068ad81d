"""Successive halving: the worse half stops at a rung, never before half of the epochs, never for larger rivals."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs.examples import PLAIN

from flexor_search.runs import CONFIRM, DONE, FAILED, SEARCH, STOPPED, rungs_text
from flexor_search.training import Score
from flexor_search.tuning.rungs import RIVALS, halving

EPOCHS, FIRST, SECOND = 9, 5, 7


def trial(bits, rungs, state=DONE, phase=SEARCH):
    return replace(PLAIN, bits_per_weight=bits, rungs=rungs_text(rungs), state=state, phase=phase)


def stops(seen, bits, epoch, accuracy, epochs=EPOCHS):
    return halving(seen, bits, epochs)(epoch, Score(accuracy, 1.0))


EVEN = [trial(0.5, {FIRST: 0.1 * place, SECOND: 0.1 * place + 0.05}) for place in (2, 4, 6, 8)]


@pytest.mark.parametrize(("epoch", "more"), [(FIRST, 0.0), (SECOND, 0.05)])
def test_the_worse_half_stops_at_each_rung(epoch, more):
    assert stops(EVEN, 0.5, epoch, 0.3 + more)
    assert stops(EVEN, 2.0, epoch, 0.1 + more)
    assert not stops(EVEN, 0.5, epoch, 0.5 + more)  # two before it, two behind it
    assert not stops(EVEN, 0.5, epoch, 0.4 + more)  # level with the second of them


@pytest.mark.parametrize("right", range(320, 351))
def test_who_is_level_with_all_others_goes_on(right):
    level = [trial(0.5, {FIRST: right / 350}) for _ in range(RIVALS)]
    assert not stops(level, 0.5, FIRST, right / 350)
    assert stops(level, 0.5, FIRST, (right - 1) / 350)


@pytest.mark.parametrize("epoch", [1, 2, 3, 4, 6, 8])
def test_between_the_rungs_nothing_stops(epoch):
    everywhere = [trial(0.1, dict.fromkeys(range(1, 10), 1.0)) for _ in range(20)]
    assert not stops(everywhere, 3.0, epoch, 0.0)


@pytest.mark.parametrize(
    ("epochs", "rungs"), [(1, set()), (2, {1}), (3, {2}), (4, {2, 3}), (15, {8, 12}), (30, {15, 23})]
)
def test_rungs_are_in_the_second_half_and_before_the_end(epochs, rungs):
    everywhere = [trial(0.1, dict.fromkeys(range(1, 31), 1.0)) for _ in range(RIVALS)]
    assert {epoch for epoch in range(1, epochs + 1) if stops(everywhere, 0.1, epoch, 0.0, epochs)} == rungs


def test_who_was_stopped_counts_at_the_rungs_that_it_reached():
    stopped = [replace(one, state=STOPPED, rungs=f"{FIRST}:0.2") for one in EVEN]
    assert stops(stopped, 0.5, FIRST, 0.1)
    assert not stops(stopped, 0.5, SECOND, 0.1)


def test_larger_rivals_do_not_count():
    larger = [replace(one, bits_per_weight=0.501) for one in EVEN]
    assert not stops(larger, 0.5, FIRST, 0.0)
    assert not stops([*larger, *EVEN[1:]], 0.5, FIRST, 0.0)
    assert stops([*larger, *EVEN], 0.5, FIRST, 0.0)


@pytest.mark.parametrize("change", [{"state": FAILED}, {"phase": CONFIRM}])
def test_only_trials_of_the_search_that_did_not_fail_count(change):
    others = [replace(one, **change) for one in EVEN]
    assert not stops([*others, *EVEN[1:]], 0.5, FIRST, 0.0)


accuracies = st.integers(0, 100).map(lambda percent: percent / 100)


@st.composite
def trials(draw):
    rungs = draw(st.dictionaries(st.sampled_from([1, FIRST, 6, SECOND]), accuracies, max_size=4))
    state, phase = draw(st.sampled_from([DONE, DONE, STOPPED])), draw(st.sampled_from([SEARCH, SEARCH, CONFIRM]))
    return trial(draw(st.sampled_from([0.3, 0.5, 0.7])), rungs, state, phase)


@given(st.lists(trials(), max_size=12), st.sampled_from([0.3, 0.5, 0.7]), st.integers(1, EPOCHS), accuracies)
def test_who_stops_would_be_behind_the_median_of_the_smaller_ones(seen, bits, epoch, accuracy):
    counted = [one for one in seen if one.phase == SEARCH and one.bits_per_weight <= bits]
    there = sorted(one.rung_accuracies[epoch] for one in counted if epoch in one.rung_accuracies)
    is_rung = epoch in (FIRST, SECOND) and len(there) >= RIVALS
    assert stops(seen, bits, epoch, accuracy) == (is_rung and accuracy < there[(len(there) - 1) // 2])


@given(st.lists(trials(), max_size=12), st.lists(trials(), max_size=6), accuracies)
def test_more_larger_trials_change_nothing(seen, more, accuracy):
    larger = [replace(one, bits_per_weight=0.9) for one in more]
    assert stops([*seen, *larger], 0.7, FIRST, accuracy) == stops(seen, 0.7, FIRST, accuracy)
