"""The numbers of a run's measurements, worked out by hand or by another route."""

import csv
import itertools
import math
import random
import statistics

import pytest

from flexor_search.reporting import front, points, progress, write_report
from flexor_search.reporting.tables import chosen_digests, uniform_level
from flexor_search.runs import CONFIRM, SEARCH

from .made_run import FULL, allocation, confirmed, entry, example, failed, made_run, measured, stopped, summary

FRONT_CSV = (
    "fidelity,kind,digest,label,bits_per_weight,nominal_bits_per_weight,payload_bits,file_bytes,val_accuracy,val_std,"
    "seeds"
)


def test_points_are_means_over_seeds_and_never_mix_fidelities(tmp_path):
    table = points(example(tmp_path))
    full = table[table["fidelity"] == CONFIRM].set_index("digest")
    assert full.loc["d2", "val_accuracy"] == pytest.approx(0.96)
    assert full.loc["d2", "val_std"] == pytest.approx(statistics.stdev((0.95, 0.97, 0.96)))
    assert full.loc["d2", "seeds"] == 3
    assert full.loc["d2", "trial"] == 10  # the most accurate of 9, 10, 11: the one that is shipped
    assert full.loc["d2", "file_bytes"] == 262
    searched = table[table["fidelity"] == SEARCH].set_index("digest")
    assert searched.loc["d2", "val_accuracy"] == pytest.approx(0.92)
    assert math.isnan(searched.loc["d2", "val_std"])


def test_points_leave_out_what_failed_or_was_stopped(tmp_path):
    assert not {"d3", "d5"} & set(points(example(tmp_path))["digest"])


def test_of_a_training_made_again_the_last_counts(tmp_path):
    again = [measured(0, 0.8, 0.5), measured(1, 0.9, 0.5, digest="d0")]
    (row,) = points(made_run(tmp_path, again)).to_dict("records")
    assert (row["val_accuracy"], row["seeds"], row["trial"]) == (0.9, 1, 1)


def test_front_is_of_each_fidelity_and_without_full_precision(tmp_path):
    table = front(example(tmp_path))
    found = [(row["fidelity"], row["digest"]) for row in table.to_dict("records")]
    # confirmed: 0.5 bits at 0.96 dominates 0.7 bits at 0.94; searched: 0.3/0.80 and 0.5/0.92, which beats all larger
    assert found == [(CONFIRM, "d2"), (SEARCH, "d1"), (SEARCH, "d2")]


def test_front_is_what_nothing_dominates(tmp_path):
    numbers = random.Random(0)
    made = [measured(i, numbers.randrange(20) / 20, numbers.randrange(1, 20) / 20) for i in range(60)]
    kept = set(front(made_run(tmp_path, made))["digest"])
    size_and_accuracy = {m.digest: (m.bits_per_weight, m.val_accuracy) for m in made}
    for m in made:
        beaten = any(
            bits <= m.bits_per_weight and accuracy >= m.val_accuracy and (bits, accuracy) != size_and_accuracy[m.digest]
            for bits, accuracy in size_and_accuracy.values()
        )
        equals = [digest for digest, point in size_and_accuracy.items() if point == size_and_accuracy[m.digest]]
        assert (m.digest in kept) == (not beaten and m.digest == equals[0])


def test_front_csv_reads_back(tmp_path):
    run = example(tmp_path)
    write_report(run)
    with (tmp_path / "front.csv").open() as file:
        assert file.readline().strip() == FRONT_CSV
        rows = list(csv.DictReader(file, fieldnames=FRONT_CSV.split(",")))
    assert [row["digest"] for row in rows] == ["d2", "d1", "d2"]
    assert [row["fidelity"] for row in rows] == [CONFIRM, SEARCH, SEARCH]
    assert float(rows[0]["val_accuracy"]) == pytest.approx(0.96)
    assert float(rows[0]["val_std"]) == pytest.approx(0.01)
    assert rows[0]["seeds"] == "3"
    assert rows[0]["label"] == "8/20 12/20"
    assert rows[1]["val_std"] == ""


def test_progress_is_the_best_so_far_of_what_finished_and_fits(tmp_path):
    made = [
        measured(0, 0.80, 0.7, kind="uniform"),
        measured(1, 0.99, 0.9, kind="uniform"),  # over the budget
        measured(2, 0.75, 0.5),
        failed(3, 0.5),
        measured(4, 0.85, 0.3),
        stopped(5, 0.95, 0.5),
        *confirmed(6, (0.97, 0.98), 0.5),  # not of the search
    ]
    table = progress(made_run(tmp_path, made))
    assert table["trial"].tolist() == [0, 1, 2, 3, 4, 5]
    assert table["fits"].tolist() == [True, False, True, True, True, True]
    within = [m.val_accuracy if m.state == "done" and m.bits_per_weight <= 0.7 else 0 for m in made[:6]]
    assert table["best"].tolist() == list(itertools.accumulate(within, max))
    assert uniform_level(table) == 0.80


def test_a_uniform_model_of_a_smaller_budget_is_no_measure_of_the_first(tmp_path):
    smaller = [measured(0, 0.80, 0.3, kind="uniform", budget="0.3bpw"), measured(1, 0.9, 0.7)]
    table = progress(made_run(tmp_path, smaller))
    assert table["fits"].all()
    assert math.isnan(uniform_level(table))


def test_progress_has_no_best_before_anything_fits(tmp_path):
    table = progress(made_run(tmp_path, [failed(0, 0.5), measured(1, 0.9, 0.8), measured(2, 0.6, 0.6)]))
    assert table["best"].isna().tolist() == [True, True, False]
    assert math.isnan(uniform_level(table))


@pytest.mark.parametrize(
    ("budget", "fits"),
    [
        ("0.5bpw", [True, True, False]),
        ("262B", [True, True, False]),  # 200 + 125 * 0.5 bytes, rounded down
        ("0.01x", [False, True, False]),  # by what each was projected onto
    ],
)
def test_the_first_budget_may_be_of_any_kind(tmp_path, budget, fits):
    made = [
        measured(0, 0.8, 0.5, budget="0.005bpw"),
        measured(1, 0.8, 0.3, budget="0.0055x"),
        measured(2, 0.8, 0.7, budget="0.02x"),
    ]
    assert progress(made_run(tmp_path, made, budgets=[budget, "9bpw"]))["fits"].tolist() == fits


def test_without_a_known_budget_everything_fits(tmp_path):
    assert progress(made_run(tmp_path, [measured(0, 0.8, 5.0)], budgets=[]))["fits"].all()


def test_chosen_digests_are_found_by_allocation(tmp_path):
    run = example(tmp_path)
    assert chosen_digests(run, run.summary()) == {"d2"}
    assert chosen_digests(run, summary(entry(allocation=allocation("1/20")))) == set()
    assert chosen_digests(run, None) == set()


@pytest.mark.parametrize(
    "measurements",
    [
        [],
        [failed(0, 0.5)],
        [measured(0, 0.5, 0.5)],
        [measured(0, 0.5, 0.5), failed(1, 0.4), stopped(2, 0.1, 0.4)],
        [measured(0, math.nan, 0.5)],
        [measured(0, 0.98, 32.0, **FULL)],
        confirmed(0, (0.9, 0.9), 0.5, digest="d0"),
    ],
    ids=["none", "only a failure", "one", "one of each state", "NaN", "only full precision", "no search"],
)
def test_tables_of_runs_that_hold_little(tmp_path, measurements):
    run = made_run(tmp_path, measurements)
    done = {m.digest for m in measurements if m.state == "done" and m.val_accuracy == m.val_accuracy}
    assert set(points(run)["digest"]) == done
    assert set(front(run)["digest"]) == done - {"full"}
    assert len(progress(run)) == sum(m.phase == SEARCH for m in measurements)
    assert write_report(run).stat().st_size > 0
