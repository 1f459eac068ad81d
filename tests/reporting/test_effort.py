"""What a search cost and bought, worked out by hand or by another route."""

import itertools

import pytest

from flexor_search.reporting.effort import by_worker, effort, full_training_images, hypervolumes, reference

from .made_run import FULL, confirmed, example, failed, made_run, measured, stopped, write_sensitivity


def area(points, corner):
    """The dominated area, cell by cell: an oracle for few points."""
    bits, least = corner
    xs = sorted({x for x, _ in points if x <= bits} | {bits})
    total = 0.0
    for left, right in itertools.pairwise(xs):
        total += (right - left) * max([y for x, y in points if x <= left], default=least) - (right - left) * least
    return total


def test_hypervolume_grows_with_every_training_that_adds_to_the_front(tmp_path):
    made = [
        measured(0, 0.80, 0.7),
        measured(1, 0.70, 0.3),
        measured(2, 0.6, 0.5),
        measured(3, 0.9, 0.4),
        failed(4, 0.1),
    ]
    run = made_run(tmp_path, made)
    corner = reference([run])
    assert corner == (0.7, 0.6)
    points = [(m.bits_per_weight, m.val_accuracy) for m in made[:4]]
    expected = [area(points[: n + 1], corner) for n in range(4)]
    assert hypervolumes(run) == pytest.approx([*expected, expected[-1]])
    assert expected == pytest.approx([0.0, 0.04, 0.04, 0.1 * 0.1 + 0.3 * 0.3])


def test_what_was_stopped_or_is_full_precision_adds_no_area(tmp_path):
    made = [measured(0, 0.5, 0.7), stopped(1, 0.9, 0.1), measured(2, 0.99, 0.2, kind="full precision")]
    run = made_run(tmp_path, made)
    assert reference([run]) == (0.7, 0.5)
    assert hypervolumes(run) == [0.0, 0.0, 0.0]


def test_runs_that_are_compared_share_a_corner(tmp_path):
    first = made_run(tmp_path / "a", [measured(0, 0.8, 0.5)])
    second = made_run(tmp_path / "b", [measured(0, 0.7, 0.9)])
    corner = reference([first, second])
    assert corner == (0.9, 0.7)
    assert hypervolumes(first, corner) == pytest.approx([0.4 * 0.1])
    assert hypervolumes(second, corner) == [0.0]
    assert reference([made_run(tmp_path / "c", [failed(0, 0.5)])]) == (0.0, 0.0)


def test_effort_is_counted_in_trainings_in_full(tmp_path):
    made = [
        measured(0, 0.5, 0.5, epochs=4, images=50),
        measured(1, 0.6, 0.5, epochs=2, images=50),
        failed(2, 0.5),
        *confirmed(3, (0.9,), 0.5, epochs=8, images=100),
    ]
    run = made_run(tmp_path, made)
    assert full_training_images(run) == 800
    assert effort(run)["trainings"].tolist() == [0.25, 0.375, 0.375]


def test_before_anything_was_confirmed_the_recipe_tells_what_a_training_in_full_is(tmp_path):
    made = [measured(0, 0.5, 0.5, epochs=2, images=50)]
    whole = made_run(tmp_path / "whole", made, recipe_fields={"epochs": 8, "search_images": 0})
    assert full_training_images(whole) == 400
    part = made_run(tmp_path / "part", made, recipe_fields={"epochs": 8, "search_images": 50})
    assert full_training_images(part) == 100  # how many images there are is not known: the longest so far
    assert full_training_images(made_run(tmp_path / "none", [])) == 1.0


def test_time_is_that_of_each_worker(tmp_path):
    made = [
        measured(0, 0.5, 0.5, worker="1", train_seconds=3.0),
        measured(1, 0.5, 0.4, worker="2", train_seconds=5.0),
        measured(2, 0.5, 0.3, worker="1", train_seconds=4.0),
    ]
    assert effort(made_run(tmp_path, made))["seconds"].tolist() == [3.0, 5.0, 7.0]


def test_a_shared_network_counts_before_the_trainings(tmp_path):
    made = [measured(0, 0.5, 0.5, train_seconds=3.0), measured(1, 0.5, 0.4, train_seconds=4.0)]
    run = made_run(tmp_path, made, recipe_fields={"epochs": 4})
    alone = effort(run)
    assert alone["trainings"].tolist() == [0.5, 1.0]
    network = {"train_seconds": 50.0, "score_seconds": 10.0, "training_equivalents": 1.5}
    write_sensitivity(run, network=network)
    assert effort(run)["trainings"].tolist() == [2.0, 2.5]
    assert effort(run)["seconds"].tolist() == [63.0, 67.0]
    for broken in (3, {"train_seconds": "x"}):
        write_sensitivity(run, network=broken)
        assert effort(run).equals(alone)


def test_trainings_are_counted_by_phase_worker_and_state(tmp_path):
    made = [
        measured(0, 0.5, 0.5, worker="1"),
        stopped(1, 0.5, 0.4),
        failed(2, 0.3),
        measured(3, 0.5, 0.2, worker="1", train_seconds=2.5),
        *confirmed(4, (0.9, 0.8), 0.5, worker="2"),
    ]
    rows = by_worker(made_run(tmp_path, made)).values.tolist()
    assert rows == [["search", "1", 2, 0, 0, 3.5], ["search", "", 0, 1, 1, 2.0], ["confirm", "2", 2, 0, 0, 2.0]]


def test_every_training_of_a_run_is_counted_once(tmp_path):
    run = example(tmp_path)
    assert by_worker(run)[["done", "stopped", "failed"]].to_numpy().sum() == len(run.measurements)
    assert len(effort(run)) == len(hypervolumes(run)) == 6
    assert FULL["kind"] not in run.frame()[run.frame()["phase"] == "search"]["kind"].tolist()
