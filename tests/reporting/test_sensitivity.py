"""Per-layer sensitivity: the fit finds what made the losses, and the run's own table comes first."""

import json
import math
import random

import pytest

from flexor_search.planning import LayerSpec
from flexor_search.reporting.effort import shared_network
from flexor_search.reporting.page import render
from flexor_search.reporting.sensitivity import FIT, TABLE, sensitivity, shared_cost
from flexor_search.reporting.sensitivity_bars import sensitivity as drawn

from .made_run import made_run, measured, write_sensitivity

SLOPES = {"a": 0.0, "b": 0.1, "c": 0.4}


def searched(folder, noise=0.0, count=60, layers=SLOPES):
    """A search in which halving a layer's rate multiplies the loss by exp(slope)."""
    numbers, made = random.Random(1), []
    for i in range(count):
        rates = {name: numbers.choice((2, 4, 8, 16)) for name in layers}
        specs = {name: LayerSpec("systematic", n_in, 20).to_json() for name, n_in in rates.items()}
        body = {"layers": {"kept": {"family": "kept"}} | specs, "not_searched": ["kept"]}
        log_loss = -sum(slope * math.log2(rates[name]) for name, slope in layers.items()) + numbers.gauss(0, noise)
        made.append(measured(i, 0.5, 0.5, allocation=json.dumps(body), val_loss=math.exp(log_loss)))
    return made_run(folder, made)


def test_the_fit_finds_the_slopes_that_made_the_losses(tmp_path):
    source, table = sensitivity(searched(tmp_path))
    assert source == FIT
    assert table["layer"].tolist() == ["a", "b", "c"]  # not the kept one
    assert table["loss"].tolist() == pytest.approx([math.expm1(slope) for slope in SLOPES.values()], abs=0.01)


def test_what_noise_hides_the_error_tells(tmp_path):
    table = sensitivity(searched(tmp_path, noise=0.3))[1].set_index("layer")
    for name, slope in SLOPES.items():
        assert abs(table.loc[name, "loss"] - math.expm1(slope)) < 4 * table.loc[name, "error"]
    assert table.loc["c", "loss"] > 3 * table.loc["c", "error"]
    assert (table["error"] > 0.01).all()


def test_layers_that_only_moved_together_share_their_effect(tmp_path):
    made = []
    for i, n_in in enumerate([2, 4, 8, 16] * 4):
        spec = LayerSpec("systematic", n_in, 20).to_json()
        body = {"layers": {"a": spec, "b": spec}}
        made.append(measured(i, 0.5, 0.5, allocation=json.dumps(body), val_loss=math.exp(-0.6 * math.log2(n_in))))
    table = sensitivity(made_run(tmp_path, made))[1]
    assert table["loss"].tolist() == pytest.approx([math.expm1(0.3)] * 2, abs=0.02)


@pytest.mark.parametrize("count", [0, 1, 7])
def test_of_too_few_trainings_nothing_is_said(tmp_path, count):
    assert sensitivity(searched(tmp_path, count=count))[1].empty


def test_a_layer_whose_rate_never_varied_is_left_out(tmp_path):
    body = {"layers": {"a": LayerSpec("systematic", 8, 20).to_json()}}
    made = [measured(i, 0.5, 0.5, allocation=json.dumps(body)) for i in range(20)]
    assert sensitivity(made_run(tmp_path, made))[1].empty


TABLE_ROWS = [
    {"layer": "a", "label": "8/20", "bits_per_weight": 0.4, "loss": 0.02, "uncertainty": 0.004},
    {"layer": "a", "label": "16/20", "bits_per_weight": 0.8, "loss": 0.0, "uncertainty": 0.0},
    {"layer": "b<i>", "label": "8/20", "bits_per_weight": 0.4, "loss": 0.05, "uncertainty": 0.01},
]


def test_the_runs_own_table_comes_first(tmp_path):
    run = searched(tmp_path)
    write_sensitivity(run, table=TABLE_ROWS)
    source, table = sensitivity(run)
    assert source == TABLE
    assert table[["layer", "rate", "loss"]].values.tolist() == [
        ["a", "8/20", 0.02],
        ["a", "16/20", 0.0],
        ["b<i>", "8/20", 0.05],
    ]
    text = drawn(source, table)
    assert "b&lt;i&gt;" in text
    assert ">5.00<small>± 1.00</small>" in text
    assert "--share:0.400" in text


def test_the_file_of_another_search_is_not_shown(tmp_path):
    run = searched(tmp_path)
    network = {"train_seconds": 50.0}
    write_sensitivity(run, fingerprint={"model": "another"}, table=TABLE_ROWS, network=network, scores=[])
    assert sensitivity(run)[0] == FIT
    assert shared_cost(run) == ""
    assert shared_network(run) == (0.0, 0.0)


def test_the_page_says_what_the_model_is_unsure_of_and_in_which_unit_it_is(tmp_path):
    run = searched(tmp_path)
    for reference, unit in (("trained", "Points of validation accuracy"), ("shared loss", "the shared network's loss")):
        write_sensitivity(run, table=TABLE_ROWS, model={"reference": reference, "doubts": ["a <b> at 8/20 may matter"]})
        text = render(run)
        assert unit in text
        assert "<li>a &lt;b&gt; at 8/20 may matter</li>" in text


@pytest.mark.parametrize("body", ["", "{", "[]", "{}", "3"])
def test_a_file_that_cannot_be_read_gives_way_to_the_fit(tmp_path, body):
    run = searched(tmp_path)
    (tmp_path / "sensitivity.json").write_text(body)
    assert sensitivity(run)[0] == FIT


@pytest.mark.parametrize("table", [3, [], [{"layer": "a"}, 7, {"layer": "a", "label": 1, "loss": "x"}]])
def test_a_table_that_cannot_be_read_gives_way_to_the_fit(tmp_path, table):
    run = searched(tmp_path)
    write_sensitivity(run, table=table)
    assert sensitivity(run)[0] == FIT


def test_what_a_shared_network_took_is_told_beside_the_trainings(tmp_path):
    run = searched(tmp_path, count=3)
    assert shared_cost(run) == ""
    network = {"train_seconds": 50.0, "score_seconds": 10.0, "training_equivalents": 1.4}
    write_sensitivity(run, network=network, scores=[{}, {}])
    told = shared_cost(run)
    assert "scores of 2 allocations" in told
    assert "took 60 s, as long as 1.4 full trainings" in told
    write_sensitivity(run, network={"train_seconds": "x"}, scores=[])
    assert shared_cost(run) == ""
