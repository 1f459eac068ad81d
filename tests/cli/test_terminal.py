"""What is shown, and where: lines without a terminal, a bar with one, tables that hold what the summary holds."""

import io
from dataclasses import replace

import pytest
from rich.console import Console
from rich.progress import Progress, TextColumn
from runs.examples import PLAIN

from flexor_search.runs import Run
from flexor_search.terminal import LiveObserver, print_plan, print_results, watching
from flexor_search.tuning import Phase

PHASES = (Phase("search", 4, 100, 2, 1.5), Phase("confirm", 6, 200, 4, 10.0))


def observed(terminal, events):
    """What an observer writes, and its bar."""
    text = io.StringIO()
    console = Console(file=text, width=120, force_terminal=terminal, color_system=None)
    progress = Progress(TextColumn("{task.description}"), console=console, auto_refresh=False, disable=not terminal)
    observer = LiveObserver(console, progress)
    observer.planned(PHASES)
    events(observer)
    return text.getvalue(), progress


def test_without_a_terminal_every_training_is_a_line():
    def events(observer):
        observer.message("a [note] with brackets")
        observer.phase("search", 4)
        observer.begin("uniform [at] 0.7")
        observer.measured(PLAIN, "76.00 % at 0.7 bpw")
        observer.measured(replace(PLAIN, state="failed", reason="the loss is nan"), "")

    text, _ = observed(False, events)
    assert text.splitlines() == [
        "a [note] with brackets",
        "search 1/4: uniform - 14/20 - (0.7 bpw): 76.00 %",
        "search 2/4: uniform - 14/20 - (0.7 bpw): failed (the loss is nan)",
    ]


def test_the_bar_is_of_the_whole_run_and_a_phase_begins_where_it_was_planned_to():
    def events(observer):
        observer.phase("search", 4)
        observer.measured(PLAIN, "")
        observer.phase("confirm", 3)  # the search ended early
        observer.measured(PLAIN, "best")

    text, progress = observed(True, events)
    (task,) = progress.tasks
    assert task.total == 4 * 1.5 + 6 * 10
    assert task.completed == 4 * 1.5 + 10
    assert (task.description, task.fields["count"]) == ("confirm", "1/3")
    assert "76.00" not in text


def test_a_quiet_watch_shows_nothing(capsys):
    with watching(quiet=True) as observer:
        assert observer is None
    with watching(quiet=False) as observer:
        observer.message("hello")
    out, err = capsys.readouterr()
    assert (out, err) == ("", "hello\n")


def test_the_results_of_a_run_that_has_none_and_of_one_that_was_interrupted(real_run, tmp_path, capsys):
    run = Run.start(tmp_path / "run", {}, {})
    print_results(run)
    assert capsys.readouterr().out == "nothing finished yet\n"
    (entry,) = Run.open(real_run.folder).summary()["budgets"]
    bare = entry | {"test_accuracy": None, "uniform": None, "full_precision": None}
    bare["val_accuracy"] = {"mean": 0.5, "std": None, "seeds": [0]}
    run.write_summary({"state": "interrupted", "budgets": [bare]})
    print_results(run)
    out = capsys.readouterr().out
    assert "50.00" in out
    assert "±" not in out
    assert "over 1 seed; interrupted, so not confirmed and test set not read" in out
    assert out.count(" -") >= 8


@pytest.mark.parametrize("name", ["plain", "[red]bracketed[/red]"])
def test_a_plan_shows_names_as_they_are(name, capsys):
    row = {"layer": name, "kind": "Linear", "shape": "4x3", "weights": 12, "may_take": "kept [x]"}
    print_plan({"layers": [row | {"least_bytes": 1, "most_bytes": 2000, "folds": ""}], "notes": ["a [note]"]})
    out = capsys.readouterr().out
    assert name in out
    assert "kept [x]" in out
    assert "2,000" in out
    assert "a [note]" in out
