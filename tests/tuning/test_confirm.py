"""Who is trained again, and who is chosen: the best mean that fits, uniform among them."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexor_search.planning import full_precision, nearest_uniform
from flexor_search.runs import CONFIRM, FAILED, SEARCH, STOPPED
from flexor_search.tuning import choose, confirm, confirmation_seeds, finalists, groups
from flexor_search.tuning.confirm import best_confirmed
from flexor_search.tuning.fitted import model_of_trainings
from flexor_search.tuning.trial import Candidate

from .models import FakeMeasurer, Recorder, budgets, measured, new_run, space_of

SPACE = space_of()
BUDGET = budgets("0.7bpw")[0]
SEEDS = (1000, 1001)


@given(st.lists(st.integers(0, 2**32 - 1), min_size=2, max_size=6, unique=True), st.integers(1, 1000))
def test_confirmation_seeds_of_different_runs_are_disjoint(runs, count):
    seeds = [set(confirmation_seeds(seed, count)) for seed in runs]
    assert all(len(one) == count for one in seeds)
    assert all(one.isdisjoint(other) for one, other in itertools.combinations(seeds, 2))
    assert all(seed not in one for seed, one in zip(runs, seeds, strict=True))


def test_more_seeds_keep_the_ones_before():
    assert confirmation_seeds(3, 5)[:2] == confirmation_seeds(3, 2)


def searched(*entries):
    """Search measurements from (profile, accuracy, loss)."""
    return [
        measured(SPACE.allocation(profile), number, accuracy, val_loss=loss)
        for number, (profile, accuracy, loss) in enumerate(entries)
    ]


def test_finalists_are_the_uniform_baseline_and_the_best_two_that_fit():
    found = finalists(
        SPACE,
        BUDGET,
        [
            *searched(((10, 14), 0.80, 0.5), ((9, 9), 0.90, 0.4), ((14, 10), 0.70, 0.9), ((4, 17), 0.85, 0.45)),
            measured(SPACE.allocation((19, 19)), 4, 0.99, val_loss=0.01),  # too large
            measured(SPACE.allocation((8, 8)), 5, 0.98, val_loss=0.01, state=STOPPED),
            measured(SPACE.allocation((7, 7)), 6, state=FAILED),
            measured(SPACE.allocation((6, 6)), 7, 0.97, val_loss=0.02, phase=CONFIRM),
        ],
    )
    assert found[0].allocation == nearest_uniform(SPACE, BUDGET)
    assert [candidate.kind for candidate in found] == ["uniform", "proposed", "proposed"]
    assert [candidate.allocation for candidate in found[1:]] == [SPACE.allocation(one) for one in [(9, 9), (4, 17)]]
    assert all(BUDGET.fits(candidate.allocation) for candidate in found)


def test_accuracy_and_loss_count_alike_and_equal_ranks_go_to_the_smaller():
    most_accurate, least_loss, between = (9, 9), (4, 10), (5, 8)
    rows = searched((most_accurate, 0.90, 0.9), (least_loss, 0.89, 0.2), (between, 0.80, 0.3), ((6, 10), 0.70, 0.8))
    found = finalists(SPACE, BUDGET, rows)
    assert rows[0].file_bytes > rows[2].file_bytes  # ranks 0 and 3 against 2 and 1
    assert [candidate.allocation for candidate in found[1:]] == [
        SPACE.allocation(least_loss),
        SPACE.allocation(between),
    ]


def made(profile, noise=0.0):
    """The second layer's rate is worth four times the first's."""
    first, second = ((index + 1) / 20 for index in profile)
    return 0.9 + 0.01 * math.log(first) + 0.04 * math.log(second) + noise


def test_the_models_best_is_a_finalist_and_no_lucky_one_is_alone():
    random = np.random.default_rng(0)
    profiles = list(dict.fromkeys(tuple(int(i) for i in random.integers(0, 20, 2)) for _ in range(60)))
    fitting = [p for p in profiles if BUDGET.fits(SPACE.allocation(p))]
    lucky = min(fitting, key=made)
    for count in (8, len(profiles)):
        some = list(dict.fromkeys([lucky, *profiles]))[:count]
        rows = searched(*((p, made(p, 0.3 * (p == lucky)), 1 - made(p, 0.3 * (p == lucky))) for p in some))
        model = model_of_trainings(SPACE, rows)
        found = finalists(SPACE, BUDGET, rows, model)
        assert len(found) == 3
        assert found[1].allocation == model.best_under(BUDGET)
        assert SPACE.profile(found[2].allocation) == lucky
    assert model_of_trainings(SPACE, []) is None
    best = found[1].allocation
    every = itertools.product(range(20), repeat=2)
    wanted = max((p for p in every if BUDGET.fits(SPACE.allocation(p))), key=made)
    assert BUDGET.fits(best)
    assert made(SPACE.profile(best)) > made(wanted) - 0.005
    for state in (FAILED, STOPPED):  # trained, and not worth finishing
        known = [*rows, measured(best, len(rows), 0.1, state=state)]
        found = finalists(SPACE, BUDGET, known, model)
        assert len(found) == 3
        assert best not in [candidate.allocation for candidate in found]
        others = (p for p in itertools.product(range(20), repeat=2) if SPACE.allocation(p) != best)
        fitting = [p for p in others if BUDGET.fits(SPACE.allocation(p))]
        next_best = max(fitting, key=lambda p: sum(curve[i] for curve, i in zip(model.choices, p, strict=True)))
        assert found[1].allocation == SPACE.allocation(next_best)
    everything = [
        measured(SPACE.allocation(p), n, 0.1, state=STOPPED) for n, p in enumerate([*fitting, SPACE.profile(best)])
    ]
    assert [candidate.kind for candidate in finalists(SPACE, BUDGET, everything, model)] == ["uniform"]


def test_the_uniform_baseline_is_not_its_own_rival():
    uniform = nearest_uniform(SPACE, BUDGET)
    rows = [measured(uniform, 0, 0.9, kind="uniform"), *searched(((9, 9), 0.5, 1.0))]
    found = finalists(SPACE, BUDGET, rows)
    assert [candidate.allocation.digest for candidate in found] == [uniform.digest, SPACE.allocation((9, 9)).digest]


def test_a_training_that_was_made_again_is_one_finalist():
    rows = searched(((9, 9), 0.9, 0.1), ((9, 9), 0.9, 0.1), ((4, 10), 0.8, 0.2))
    found = finalists(SPACE, BUDGET, rows)
    assert [candidate.allocation for candidate in found[1:]] == [SPACE.allocation((9, 9)), SPACE.allocation((4, 10))]


def test_where_nothing_was_measured_the_uniform_baseline_is_the_only_finalist():
    assert [c.kind for c in finalists(SPACE, BUDGET, [])] == ["uniform"]


def confirmed(folder, *entries, phase=CONFIRM):
    """A run with confirmations from (allocation, kind, accuracies by seed)."""
    run = new_run(folder)
    for allocation, kind, accuracies in entries:
        for seed, accuracy in zip(SEEDS, accuracies, strict=False):
            number = len(run.measurements)
            run.append(measured(allocation, number, accuracy, phase=phase, kind=kind, seed=seed))
    return run


UNIFORM = nearest_uniform(SPACE, BUDGET)
OTHER, SMALLER = SPACE.allocation((12, 13)), SPACE.allocation((4, 9))


def test_the_best_mean_wins_not_the_best_single_training(tmp_path):
    run = confirmed(
        tmp_path,
        (UNIFORM, "uniform", (0.80, 0.80)),
        (OTHER, "proposed", (0.95, 0.60)),
        (SMALLER, "proposed", (0.7, 0.92)),
    )
    group = choose(SPACE, BUDGET, run, SEEDS)
    assert group.first.digest == SMALLER.digest
    assert group.mean == pytest.approx(0.81)
    assert (group.best.seed, group.best.val_accuracy) == (1001, 0.92)


def test_uniform_is_chosen_when_nothing_beats_it(tmp_path):
    run = confirmed(tmp_path, (OTHER, "proposed", (0.7, 0.7)), (UNIFORM, "uniform", (0.8, 0.8)))
    assert choose(SPACE, BUDGET, run, SEEDS).first.kind == "uniform"


@pytest.mark.parametrize("order", [1, -1])
def test_equal_means_go_to_the_smaller_file(tmp_path, order):
    entries = [(OTHER, "proposed", (0.6, 0.8)), (SMALLER, "proposed", (0.8, 0.6))][::order]
    group = choose(SPACE, BUDGET, confirmed(tmp_path, *entries), SEEDS)
    assert group.first.digest == SMALLER.digest
    assert measured(SMALLER, 0).file_bytes < measured(OTHER, 0).file_bytes


def test_neither_a_larger_model_nor_full_precision_is_ever_chosen(tmp_path):
    larger, full = SPACE.allocation((19, 19)), full_precision(SPACE.model)
    run = confirmed(
        tmp_path,
        (larger, "proposed", (0.99, 0.99)),
        (full, "full precision", (1.0, 1.0)),
        (UNIFORM, "uniform", (0.5, 0.5)),
    )
    assert choose(SPACE, BUDGET, run, SEEDS).first.digest == UNIFORM.digest
    assert (
        choose(SPACE, budgets("100MB")[0], run, SEEDS).first.digest == larger.digest
    )  # full precision fits, and still is not
    assert choose(SPACE, budgets("0.05bpw")[0], run, SEEDS) is None


def test_only_groups_with_the_most_seeds_are_compared(tmp_path):
    run = confirmed(tmp_path, (UNIFORM, "uniform", (0.7, 0.7)), (OTHER, "proposed", (0.9,)))
    assert choose(SPACE, BUDGET, run, SEEDS).first.digest == UNIFORM.digest
    assert choose(SPACE, BUDGET, run, SEEDS[:1]).first.digest == OTHER.digest  # asked again with one seed


def test_a_failed_confirmation_takes_its_group_out(tmp_path):
    run = confirmed(tmp_path, (UNIFORM, "uniform", (0.7, 0.7)), (OTHER, "proposed", (0.9,)))
    run.append(measured(OTHER, 9, phase=CONFIRM, seed=SEEDS[1], state=FAILED))
    assert choose(SPACE, BUDGET, run, SEEDS).first.digest == UNIFORM.digest


def test_without_confirmation_the_searchs_own_trainings_decide(tmp_path):
    run = confirmed(tmp_path, (UNIFORM, "uniform", (0.7,)), (OTHER, "proposed", (0.9,)), phase=SEARCH)
    assert choose(SPACE, BUDGET, run, SEEDS).first.digest == OTHER.digest
    assert choose(SPACE, BUDGET, new_run(tmp_path / "empty"), SEEDS) is None


def test_a_training_that_was_made_again_counts_once_and_the_last_is_shipped(tmp_path):
    run = confirmed(tmp_path, (OTHER, "proposed", (0.6, 0.9)), (OTHER, "proposed", (0.6, 0.9)))
    (group,) = groups(run, CONFIRM, SEEDS)
    assert [m.number for m in group.measurements] == [2, 3]
    assert choose(SPACE, BUDGET, run, SEEDS).best.number == 3


def accuracy(allocation):
    return 0.5 + 0.01 * len(allocation.digest.strip("0123456789"))


def test_confirm_trains_each_finalist_and_full_precision_with_every_seed_once(tmp_path):
    measurer, observer = FakeMeasurer(tmp_path, accuracy), Recorder()
    for number, profile in enumerate([(9, 9), (4, 17), (10, 14), (3, 3)]):
        measurer.run.append(measured(SPACE.allocation(profile), number, 0.9 - 0.1 * number, val_loss=number))
    asked = budgets("0.7bpw,0.5bpw,0.2bpw")
    confirm(SPACE, asked, measurer, SEEDS, observer)
    made = [m for m in measurer.run.measurements if m.phase == CONFIRM]
    expected = {c.allocation.digest for budget in asked for c in finalists(SPACE, budget, measurer.run.measurements)}
    expected |= {full_precision(SPACE.model).digest}
    assert sorted((m.digest, m.seed) for m in made) == sorted(itertools.product(expected, SEEDS))
    assert observer.of("phase") == [(CONFIRM, len(made))]
    assert len(observer.of("measured")) == len(observer.of("begin")) == len(made)
    assert observer.of("measured")[-1][1] == best_confirmed(SPACE, asked[0], measurer.run) != ""
    confirm(SPACE, asked, measurer, SEEDS, observer)
    assert [m for m in measurer.run.measurements if m.phase == CONFIRM] == made


def test_a_budget_that_was_confirmed_with_fewer_seeds_still_counts(tmp_path):
    """As after resuming with another budget and more seeds; 0.95 is of a confirmation that was broken off."""
    run = confirmed(
        tmp_path,
        (UNIFORM, "uniform", (0.70, 0.70)),
        (OTHER, "proposed", (0.90, 0.80)),
        (SPACE.allocation((10, 12)), "proposed", (0.95,)),
    )
    for seed, accuracy in zip((*SEEDS, SEEDS[-1] + 1), (0.8, 0.8, 0.99), strict=True):
        run.append(measured(SMALLER, len(run.measurements), accuracy, phase=CONFIRM, kind="proposed", seed=seed))
    assert choose(SPACE, BUDGET, run).first.digest == OTHER.digest


def test_what_an_earlier_call_confirmed_and_lost_is_made_again(tmp_path):
    measurer = FakeMeasurer(tmp_path / "x", lambda allocation: allocation.bits_per_weight)
    earlier, other = (Candidate(SPACE.allocation(one), "proposed", "0.7bpw") for one in ((9, 9), (8, 8)))
    for candidate in (earlier, other):
        for seed in SEEDS:
            measurer.measure(candidate, CONFIRM, seed)
    measurer.lost.add((earlier.allocation.digest, CONFIRM, SEEDS[1]))
    measurer.trained.clear()
    confirm(SPACE, (BUDGET,), measurer, SEEDS, Recorder(), named={"0.7bpw": []})
    assert [one.kind for one in measurer.trained] == ["full precision"] * 2 + ["proposed"]
    assert measurer.trained[-1].allocation == earlier.allocation
