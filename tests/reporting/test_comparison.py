"""Several runs beside each other: the numbers are those of each run alone."""

import pytest

from flexor_search.errors import UsageError
from flexor_search.reporting import figures, front, write_comparison
from flexor_search.reporting.comparison import (
    chosen_models,
    curves,
    differences,
    fronts,
    names_of,
    searches,
    why_incomparable,
)
from flexor_search.reporting.comparison_page import render
from flexor_search.reporting.effort import hypervolumes, reference
from flexor_search.runs import Run

from .made_run import allocation, confirmed, example, failed, made_run, measured, stopped, write_sensitivity
from .test_page import text_of


@pytest.fixture
def two(tmp_path):
    import json

    taps = json.dumps(allocation("8/20")).replace("systematic", "taps")
    other = made_run(
        tmp_path / "other",
        [measured(0, 0.7, 0.2, allocation=taps), stopped(1, 0.3, 0.1), *confirmed(2, (0.9, 0.94), 0.6)],
        strategy="random",
        seed=1,
    )
    return [example(tmp_path / "first"), other]


def test_fronts_are_each_runs_own(two):
    table = fronts(two)
    for run, name in zip(two, ("first", "other"), strict=True):
        own = table[table["run"] == name].drop(columns="run").reset_index(drop=True)
        assert own.astype(object).equals(front(run).astype(object))


def test_curves_share_one_corner(two):
    table, corner = curves(two), reference(two)
    for run, name in zip(two, ("first", "other"), strict=True):
        assert table[table["run"] == name]["hypervolume"].tolist() == hypervolumes(run, corner)
    rows = searches(two)
    assert [row["hypervolume"] for row in rows] == [max(hypervolumes(run, corner)) for run in two]
    assert [(row["strategy"], row["codes"], row["seed"]) for row in rows] == [
        ("", "systematic", "0"),
        ("random", "taps", "1"),
    ]


def test_a_shared_network_counts_in_seconds_as_it_does_in_trainings(two):
    before = searches(two)[0]
    write_sensitivity(two[0], network={"train_seconds": 30.0, "score_seconds": 12.5, "training_equivalents": 2.0})
    after = searches(two)[0]
    assert after["seconds"] - before["seconds"] == pytest.approx(42.5)
    assert after["trainings"] - before["trainings"] == pytest.approx(2.0)


def test_what_differs_is_named_and_nothing_else(two, tmp_path):
    assert differences(two) == {"seed": ["0", "1"], "strategy": ["", "random"]}
    assert differences([two[0], two[0]]) == {}
    assert why_incomparable(two) == ""
    other = Run.start(tmp_path / "elsewhere", {"budgets": []}, {"model": "xyz", "data": "d"})
    assert why_incomparable([two[0], other]) == "model and data"
    assert "These runs differ in model and data" in render([two[0], other])


def test_names_are_as_long_as_they_must_be(tmp_path):
    runs = [made_run(tmp_path / path, []) for path in ("a/run", "b/run", "c")]
    assert names_of(runs) == ["a/run", "b/run", f"{tmp_path.name}/c"]
    assert names_of(runs[1:]) == ["run", "c"]
    assert names_of([runs[2], runs[2]]) == ["c (1)", "c (2)"] or len(set(names_of([runs[2], runs[2]]))) == 2


def test_every_front_is_drawn_over_the_others(two):
    figure = figures.comparison_figure(two)
    lines = {
        trace.name: list(trace.x)
        for trace in figure.data
        if trace.mode == "lines" and trace.yaxis == "y" and not trace.fill
    }
    assert set(lines) == {"first", "other"}
    assert lines["first"][0] == 0.5
    assert lines["other"][0] == 0.6
    assert len({trace.line.color for trace in figure.data if trace.name in lines}) == 2
    bands = [trace for trace in figure.data if trace.fill]
    assert len(bands) == 2


def test_chosen_models_stand_by_budget(two):
    rows = chosen_models(two)
    assert [(row["run"], row["budget"], row["file_bytes"]) for row in rows] == [("first", "0.7bpw", 262)]
    text = text_of(render(two))
    assert "first 0.5 262 96.00 ± 1.00 95.00 ± 1.00 +2.00 ± 1.29" in text


def test_it_is_written_to_the_first_folder_or_where_it_is_asked_for(two, tmp_path):
    assert write_comparison(two) == two[0].folder / "comparison.html"
    assert write_comparison(two, tmp_path / "here.html").read_text() == render(two)
    with pytest.raises(UsageError, match="two runs or more, got 1"):
        write_comparison(two[:1])


def test_runs_that_hold_nothing_yet_can_be_compared(two, tmp_path):
    nothing = [made_run(tmp_path / "n", []), made_run(tmp_path / "m", [failed(0, 0.5)])]
    assert "Nothing has finished in any of these runs yet" in render(nothing)
    assert fronts([*nothing, two[0]])["run"].unique().tolist() == ["first"]


def test_names_from_users_are_escaped(tmp_path):
    runs = [
        made_run(tmp_path / name, [measured(0, 0.5, 0.5)], workload="<img src=x>", strategy="<b>")
        for name in ("<i>", "b")
    ]
    text = render(runs)
    assert "<img" not in text
    assert "<b>&lt;" not in text
    assert "&lt;i&gt;" in text
