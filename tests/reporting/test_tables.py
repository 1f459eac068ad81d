"""The numbers behind the report, worked out by hand or by another route."""

import csv
import math
import statistics

import pytest

from flexor_search.reporting import front, layer_rates, points, progress, result_rows, write_report
from flexor_search.runs import CONFIRM, SEARCH

from .made_run import example, failed, made_run, measured, summary


def test_points_are_means_over_seeds_and_never_mix_fidelities(tmp_path):
    table = points(example(tmp_path))
    confirmed = table[table["fidelity"] == CONFIRM].set_index("digest")
    assert confirmed.loc["d2", "val_accuracy"] == pytest.approx(0.96)
    assert confirmed.loc["d2", "val_std"] == pytest.approx(statistics.stdev((0.95, 0.96, 0.97)))
    assert confirmed.loc["d2", "seeds"] == 3
    searched = table[table["fidelity"] == SEARCH].set_index("digest")
    assert searched.loc["d2", "val_accuracy"] == pytest.approx(0.92)
    assert math.isnan(searched.loc["d2", "val_std"])
    assert "d3" not in searched.index  # it failed


def test_front_is_of_each_fidelity_and_without_full_precision(tmp_path):
    table = front(example(tmp_path))
    found = [(row["fidelity"], row["digest"]) for row in table.to_dict("records")]
    # confirmed: 0.5 bits at 0.96 dominates 0.7 bits at 0.94; searched: 0.3/0.80 and 0.5/0.92, which beats all larger
    assert found == [(CONFIRM, "d2"), (SEARCH, "d1"), (SEARCH, "d2")]


def test_front_csv_reads_back(tmp_path):
    run = example(tmp_path)
    write_report(run)
    with (tmp_path / "front.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["digest"] for row in rows] == ["d2", "d1", "d2"]
    assert float(rows[0]["val_accuracy"]) == pytest.approx(0.96)


def test_result_rows_give_gain_with_its_standard_error():
    chosen, uniform, full = result_rows(summary())
    assert (chosen["model"], uniform["model"], full["model"]) == ("chosen", "uniform", "full precision")
    assert chosen["gain"] == pytest.approx(0.95 - 0.93)
    assert chosen["gain_error"] == pytest.approx(math.sqrt(0.01**2 / 3 + 0.02**2 / 3))
    assert full["val_std"] is None


def test_result_rows_without_test_readings_or_uniform():
    body = summary()
    body["budgets"][0] |= {"test_accuracy": None, "test_accuracy_shipped": None, "uniform": None}
    chosen, full = result_rows(body)
    assert chosen["gain"] is None
    assert chosen["test_mean"] is None
    assert full["model"] == "full precision"
    assert result_rows(None) == []


def test_layer_rates_count_planes_and_know_kept_layers():
    table = layer_rates(summary()).set_index("layer")
    assert list(table.index) == ["first<script>", "mid", "last"]
    assert math.isnan(table.loc["first<script>", "rate"])
    assert table.loc["mid", "rate"] == pytest.approx(0.4)
    assert table.loc["last", "rate"] == pytest.approx(1.0)
    assert table.loc["last", "label"] == "2x5/10"


def test_progress_is_the_gain_over_the_uniform_curve(tmp_path):
    table = progress(example(tmp_path)).set_index("trial")
    # the uniform curve runs from (0.3, 0.80) to (0.7, 0.90): 0.85 at 0.5 bits, 0.895 at 0.68
    assert table.loc[3, "gain"] == pytest.approx(0.92 - 0.85)
    assert table.loc[5, "gain"] == pytest.approx(0.91 - 0.895)
    assert math.isnan(table.loc[4, "gain"])
    assert table["best_gain"].tolist() == pytest.approx([0.0, 0.0, 0.07, 0.07, 0.07])


@pytest.mark.parametrize(
    "measurements",
    [[], [failed(0, 0.5)], [measured(0, 0.5, 0.5)], [measured(0, 0.5, 0.5), failed(1, 0.4)]],
    ids=["none", "only a failure", "one, no uniform", "one and a failure"],
)
def test_tables_of_runs_that_hold_little(tmp_path, measurements):
    run = made_run(tmp_path, measurements)
    done = [m for m in measurements if m.state == "done"]
    assert len(points(run)) == len(front(run)) == len(done)
    assert len(progress(run)) == len(measurements)
    assert write_report(run).stat().st_size > 0
