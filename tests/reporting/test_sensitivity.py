"""Per-layer sensitivity: the fit finds what made the losses, and the run's own table comes first."""

import json
import math
import random

import pytest

from flexor_search.planning import LayerSpec
from flexor_search.reporting.sensitivity import FIT, TABLE, sensitivity, shared_cost
from flexor_search.reporting.sensitivity_bars import sensitivity as drawn

from .made_run import made_run, measured

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


@pytest.mark.parametrize("name", ["table", "sensitivity", "layers", ""])
def test_the_runs_own_table_comes_first(tmp_path, name):
    run = searched(tmp_path)
    rows = [
        {"layer": "a", "rate": "8/20", "predicted_loss": 0.02, "uncertainty": 0.004},
        {"layer": "a", "rate": "16/20", "predicted_loss": 0.0, "uncertainty": None},
        {"layer": "b<i>", "rate": "8/20", "predicted_loss": 0.05, "uncertainty": 0.01},
    ]
    (tmp_path / "sensitivity.json").write_text(json.dumps({name: rows} if name else rows))
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


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", "3", '{"table": 3}', '[{"layer": "a"}, 7, {"layer": "a", "rate": 1, "loss": "x"}]']
)
def test_a_table_that_cannot_be_read_gives_way_to_the_fit(tmp_path, text):
    run = searched(tmp_path)
    (tmp_path / "sensitivity.json").write_text(text)
    assert sensitivity(run)[0] == FIT


def test_what_a_shared_network_took_is_told_beside_the_trainings(tmp_path):
    run = searched(tmp_path, count=3)
    assert shared_cost(run) == ""
    network = {"train_seconds": 50.0, "score_seconds": 10.0, "training_equivalents": 1.4}
    (run.folder / "sensitivity.json").write_text(json.dumps({"network": network, "scores": [{}, {}]}))
    told = shared_cost(run)
    assert "scores of 2 allocations" in told
    assert "took 60 s, as long as 1.4 full trainings" in told
    for broken in ("", "[]", "{}", '{"network": {"train_seconds": "x"}, "scores": []}'):
        (run.folder / "sensitivity.json").write_text(broken)
        assert shared_cost(run) == ""
