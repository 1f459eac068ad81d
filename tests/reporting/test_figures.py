"""What the figures draw, without a browser: the numbers of each trace are those of the tables."""

import pytest

from flexor_search.reporting import figures, front, points, progress
from flexor_search.reporting.drawing import accuracy_range, text_in_plot
from flexor_search.reporting.key import BELOW, key
from flexor_search.reporting.published import published, published_for
from flexor_search.reporting.tables import budget_places, uniform_level

from .made_run import confirmed, example, failed, large, made_run, measured, stopped


def pareto(run, chosen=frozenset(), workload=""):
    table = points(run)
    places = budget_places(table, run.question["budgets"])
    return figures.pareto(table, front(run), figures.Beside(places, set(chosen), published(workload)))


def traces(figure, name, axis="y"):
    """(x, y) of every point of the traces of this name in one panel."""
    same = [trace for trace in figure.data if trace.name == name and (trace.yaxis or "y") == axis]
    return [(x, round(y, 6)) for trace in same for x, y in zip(trace.x, trace.y, strict=True)]


def test_every_trained_allocation_is_a_point_of_its_panel(tmp_path):
    figure = pareto(example(tmp_path), {"d2"})
    assert traces(figure, "proposed") == [(0.5, 96.0)]
    assert traces(figure, "uniform") == [(0.7, 94.0)]
    assert traces(figure, "proposed", "y2") == [(0.5, 92.0)]
    assert traces(figure, "uniform", "y2") == [(0.7, 90.0), (0.3, 80.0)]
    assert traces(figure, "size rule", "y2") == [(0.68, 91.0)]
    assert traces(figure, "chosen") == [(0.5, 96.0)]
    assert traces(figure, "chosen", "y2") == [(0.5, 92.0)]


def test_the_front_holds_to_the_right_end_and_uniform_models_are_joined_by_size(tmp_path):
    figure = pareto(example(tmp_path))
    end = figure.layout.xaxis.range[1]
    assert end == pytest.approx(1.06 * 0.7)
    assert traces(figure, "front") == [(0.5, 96.0), (end, 96.0)]
    assert traces(figure, "front", "y2") == [(0.3, 80.0), (0.5, 92.0), (end, 92.0)]
    assert traces(figure, "uniform curve", "y2") == [(0.3, 80.0), (0.7, 90.0)]
    # a step up stands at the size of the model that takes it
    assert [trace.line.shape for trace in figure.data if trace.name == "front"] == ["hv", "hv"]


def test_error_bars_are_standard_deviations_where_seeds_allow(tmp_path):
    bars = {(trace.name, trace.yaxis): trace.error_y.array for trace in pareto(example(tmp_path)).data}
    assert bars["proposed", "y"] == pytest.approx([1.0])
    assert bars["proposed", "y2"] is None


def test_full_precision_is_a_labelled_line_and_no_point(tmp_path):
    figure = pareto(example(tmp_path))
    (line,) = [shape for shape in figure.layout.shapes if shape.name == "full precision 98.00 %"]
    assert line.y0 == line.y1 == pytest.approx(98.0)
    assert "full precision 98.00 %" in key(figure)
    assert all(x < 1 for trace in figure.data for x in trace.x)
    low, high = figure.layout.yaxis.range
    assert low < 93.0  # the lower end of the uniform model's bar
    assert high > 98.0


def test_budgets_in_bits_per_weight_are_lines(tmp_path):
    figure = pareto(large(tmp_path, n_trials=20))
    lines = {shape.x0 for shape in figure.layout.shapes if shape.name == "budget"}
    assert lines == {0.3, 0.5, 0.9}  # 48KiB is far beyond the axis
    assert {"0.3bpw", "0.5bpw", "0.9bpw"} <= {note.text for note in figure.layout.annotations}


def test_a_budget_in_bytes_stands_where_files_have_so_many(tmp_path):
    run = made_run(tmp_path, [measured(i, 0.9, bits) for i, bits in enumerate((0.2, 0.4, 0.8))])
    ((place, text),) = budget_places(points(run), ["250B", "0.03x"])  # a file takes 200 + 125 * bits
    assert text == "250B"
    assert place == pytest.approx(0.4, abs=0.01)
    assert budget_places(points(made_run(tmp_path / "one", [measured(0, 0.9, 0.5)])), ["250B"]) == []


def test_the_band_is_a_standard_deviation_to_either_side_of_the_front(tmp_path):
    figure = pareto(example(tmp_path))
    end = figure.layout.xaxis.range[1]
    assert traces(figure, "spread of the front") == [(0.5, 97.0), (end, 97.0), (end, 95.0), (0.5, 95.0)]
    assert traces(figure, "spread of the front", "y2") == []  # of single trainings none is known


def test_the_band_takes_the_steps_of_the_front(tmp_path):
    made = [*confirmed(0, (0.80, 0.82), 0.2), *confirmed(2, (0.9,), 0.4), *confirmed(3, (0.94, 0.98), 0.6)]
    figure = pareto(made_run(tmp_path, made))
    end = figure.layout.xaxis.range[1]
    low, none, high = 81, 90, 96
    spread = {0.2: 100 * 0.02 / 2**0.5, 0.6: 100 * 0.04 / 2**0.5}
    upper = [(0.2, low + spread[0.2]), (0.4, low + spread[0.2]), (0.4, none), (0.6, none)]
    upper += [(0.6, high + spread[0.6]), (end, high + spread[0.6])]
    drawn = traces(figure, "spread of the front")
    assert drawn[:6] == [(x, pytest.approx(y)) for x, y in upper]
    assert drawn[6:8] == [(end, pytest.approx(high - spread[0.6])), (0.6, pytest.approx(high - spread[0.6]))]


def test_published_figures_stand_beside_a_workload_of_their_model_and_data_alone(tmp_path):
    run = made_run(tmp_path, [*confirmed(0, (0.90, 0.91), 0.5), measured(2, 0.85, 0.5)])
    figure = pareto(run, workload="resnet20-cifar10")
    paper = dict(traces(figure, "FleXOR paper, 500 epochs"))
    assert paper == {1.0: 90.44, 0.8: 89.91, 0.6: 89.16, 0.466: 89.29, 0.4: 88.23}
    assert figure.layout.xaxis.range[1] > 1.0
    assert figure.layout.yaxis.range[0] < 85.79
    for other in ("resnet20-fashion-mnist", "lenet5-fashion-mnist", "digits-convnet", ""):
        assert not any("paper" in trace.name for trace in pareto(run, workload=other).data)


def test_close_budgets_are_not_labelled_on_top_of_each_other(tmp_path):
    run = made_run(tmp_path, [measured(0, 0.9, 0.5)], budgets=["0.5bpw", "0.51bpw", "7bpw"])
    figure = pareto(run)
    assert [shape.x0 for shape in figure.layout.shapes] == [0.5, 0.51]
    assert len([note for note in figure.layout.annotations if "bpw" in note.text]) == 1


def test_hover_names_the_allocation(tmp_path):
    figure = pareto(example(tmp_path))
    ((text, trial),) = next(trace.customdata for trace in figure.data if trace.name == "proposed")
    assert trial == 10
    for part in ("8/20 12/20", "proposed", "confirm", "3 seeds", "trial 10", "96.00 ± 1.00 %", "0.5 bits per weight"):
        assert part in text
    assert "500 encrypted bits in all, 262 bytes" in text


def test_hopeless_trainings_do_not_squeeze_the_rest(tmp_path):
    made = [measured(i, 0.90 + i / 1000, 0.3 + i / 100) for i in range(12)] + [measured(12, 0.1, 0.2)]
    run = made_run(tmp_path, made)
    figure = pareto(run)
    low, high = figure.layout.yaxis.range
    assert 80 < low < 90 < 91.1 < high
    (trace,) = [trace for trace in figure.data if trace.name == "proposed"]
    assert [symbol == BELOW for symbol in trace.marker.symbol] == [False] * 12 + [True]
    assert low < trace.y[12] < 90
    assert "10.00 %" in trace.customdata[12][0]
    assert "below the axis" in key(figure)


def test_all_that_is_alike_is_within_the_axis():
    low, high = accuracy_range(points_of([0.5] * 5), [])
    assert low < 0.5 < high
    low, high = accuracy_range(points_of([0.7, 0.699, 0.7, 0.7]), [0.65, 0.75])
    assert low < 0.65 < 0.75 < high
    assert accuracy_range(points_of([]), []) == (0.0, 1.0)


def points_of(values):
    import pandas as pd

    return pd.Series(values, dtype=float)


def test_progress_draws_every_trial_and_the_best_so_far(tmp_path):
    made = [
        measured(0, 0.80, 0.7, kind="uniform"),
        measured(1, 0.85, 0.5),
        failed(2, 0.5),
        stopped(3, 0.3, 0.5),
        measured(4, 0.9, 0.8),
        *confirmed(5, (0.9,), 0.5),
    ]
    table = progress(made_run(tmp_path, made))
    figure = figures.progress(table, uniform_level(table))
    # every training saw as many images as the confirming one, but for the failed one at once
    assert traces(figure, "best so far") == [(1, 80.0), (2, 85.0), (2, 85.0), (3, 85.0), (4, 85.0)]
    assert traces(figure, "uniform") == [(1, 80.0)]
    drawn = {data[1] for trace in figure.data if trace.mode == "markers" for data in trace.customdata}
    assert drawn == {0, 1, 2, 3, 4}
    opacity = {x: o for t in figure.data if t.name == "proposed" for x, o in zip(t.x, t.marker.opacity, strict=True)}
    assert opacity[4] < opacity[2]  # over the budget
    (level,) = figure.layout.shapes
    assert (level.name, level.y0) == ("uniform", pytest.approx(80.0))
    hover = {trial: text for t in figure.data if t.customdata is not None for text, trial in t.customdata}
    assert "failed" in hover[2]
    assert "nan" not in hover[2]
    assert "stopped early as weak, at 30.00 %" in hover[3]
    assert "over the first budget" in hover[4]


def test_text_in_a_plot_is_harmless_and_broken_into_lines():
    assert text_in_plot('<a href="x">') == '&lt;a href="x"&gt;'
    assert text_in_plot(" ".join(["8/20"] * 20)).count("<br>") == 2


def test_the_key_names_what_is_drawn_and_nothing_else(tmp_path):
    names = ("front", "proposed", "size rule", "uniform", "uniform curve", "full precision 98.00 %", "budget")
    names += ("chosen", "spread of the front")
    text = key(pareto(example(tmp_path), {"d2"}))
    assert all(f">{name}</li>" in text for name in names)
    few = key(pareto(made_run(tmp_path / "few", [measured(0, 0.5, 0.4)], budgets=["48KiB"], workload="few")))
    assert [name for name in names if f">{name}</li>" in few] == ["front", "proposed"]


def test_published_accuracies_do_not_stand_beside_a_metric_of_ones_own():
    assert len(published_for({"workload": "resnet20-cifar10", "metric": ""})) > 0
    assert published_for({"workload": "resnet20-cifar10", "metric": "mine:macro_f1"}).empty
