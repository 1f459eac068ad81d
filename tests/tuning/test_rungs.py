"""The rule that stops weak trials: never early, never one that could still catch up, never for larger rivals."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs.examples import PLAIN

from flexor_search.runs import CONFIRM, DONE, FAILED, SEARCH, STOPPED
from flexor_search.training import Score
from flexor_search.tuning.rungs import RIVALS, SLACK, weak_rule

EPOCHS = 9


def trial(bits, final, rungs=None, state=DONE, phase=SEARCH):
    text = " ".join(f"{epoch}:{accuracy}" for epoch, accuracy in (rungs or {}).items())
    return replace(PLAIN, bits_per_weight=bits, val_accuracy=final, rungs=text, state=state, phase=phase)


def stops(finished, bits, epoch, accuracy):
    return weak_rule(finished, bits, EPOCHS)(epoch, Score(accuracy, 1.0))


STEADY = [trial(0.5, 0.9, {3: 0.6, 4: 0.7, 6: 0.8}) for _ in range(RIVALS)]


def test_a_hopeless_trial_is_stopped():
    assert stops(STEADY, 0.5, 4, 0.9 - SLACK * 0.2 - 0.01)
    assert stops(STEADY, 2.0, 6, 0.1)


def test_a_trial_that_the_slack_could_save_goes_on():
    assert not stops(STEADY, 0.5, 4, 0.9 - SLACK * 0.2 + 0.01)
    assert not stops(STEADY, 0.5, 4, 0.9 - 0.2)  # gains as much as the others did, and is level with them


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_nothing_is_stopped_in_the_first_third(epoch):
    full_of_rungs = [trial(0.1, 1.0, dict.fromkeys(range(1, 10), 1.0)) for _ in range(20)]
    assert not stops(full_of_rungs, 3.0, epoch, 0.0)
    assert stops(full_of_rungs, 3.0, 4, 0.0)


def test_larger_rivals_do_not_count():
    larger = [replace(one, bits_per_weight=0.501) for one in STEADY]
    assert not stops(larger, 0.5, 6, 0.0)
    assert not stops([*larger, *STEADY[1:]], 0.5, 6, 0.0)
    assert stops([*larger, *STEADY], 0.5, 6, 0.0)


@pytest.mark.parametrize("change", [{"state": STOPPED}, {"state": FAILED}, {"phase": CONFIRM}])
def test_only_finished_trials_of_the_search_count(change):
    others = [replace(one, **change) for one in STEADY]
    assert not stops(others, 0.5, 6, 0.0)
    assert not stops([*others, *STEADY[1:]], 0.5, 6, 0.0)


def test_without_a_trial_that_was_seen_at_this_epoch_nothing_is_stopped():
    assert not stops([], 0.5, 6, 0.0)
    assert not stops(STEADY, 0.5, 5, 0.0)


accuracies = st.integers(0, 100).map(lambda percent: percent / 100)


@st.composite
def trials(draw):
    rungs = draw(st.dictionaries(st.integers(1, EPOCHS), accuracies, max_size=4))
    state, phase = draw(st.sampled_from([DONE, DONE, DONE, STOPPED])), draw(st.sampled_from([SEARCH, SEARCH, CONFIRM]))
    return trial(draw(st.sampled_from([0.3, 0.5, 0.7])), draw(accuracies), rungs, state, phase)


@given(st.lists(trials(), max_size=12), st.sampled_from([0.3, 0.5, 0.7]), st.integers(1, EPOCHS), accuracies)
def test_whatever_is_stopped_is_out_of_reach_of_smaller_ones(finished, bits, epoch, accuracy):
    counted = [one for one in finished if one.state == DONE and one.phase == SEARCH]
    gains = [one.val_accuracy - one.rung_accuracies[epoch] for one in counted if epoch in one.rung_accuracies]
    if stops(finished, bits, epoch, accuracy):
        assert 3 * epoch > EPOCHS
        could_reach = accuracy + max([0.0, *gains])
        assert sum(one.val_accuracy > could_reach for one in counted if one.bits_per_weight <= bits) >= RIVALS
    else:
        hope = accuracy + SLACK * max([0.0, *gains])
        ahead = [one for one in counted if one.bits_per_weight <= bits and one.val_accuracy > hope]
        assert 3 * epoch <= EPOCHS or not gains or len(ahead) < RIVALS


@given(st.lists(trials(), max_size=12), st.lists(trials(), max_size=6), accuracies)
def test_more_larger_trials_never_stop_one_that_went_on(finished, more, accuracy):
    finished = [replace(one, rungs="6:0.0") for one in finished[:1]] + finished
    larger = [replace(one, bits_per_weight=0.9) for one in more]
    if not stops(finished, 0.5, 6, accuracy):
        seen = any(6 in one.rung_accuracies for one in finished if one.state == DONE and one.phase == SEARCH)
        assert not seen or not stops([*finished, *larger], 0.5, 6, accuracy)
