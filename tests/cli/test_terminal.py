"""What is shown, and where: lines without a terminal, a bar with one, tables that hold what the summary holds."""

import io
import logging
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress, TextColumn
from runs.examples import PLAIN

from flexor_search.packing import inspect_file
from flexor_search.runs import Run
from flexor_search.terminal import LiveObserver, bar, logs_told, print_bytes, print_plan, print_results, watching
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


def test_what_is_logged_is_told_while_a_run_is_watched_and_only_then():
    text, data = io.StringIO(), logging.getLogger("flexor_search.workloads.image_folder")
    training = logging.getLogger("flexor_search.training.step")
    with logs_told(Console(file=text, width=60)):
        data.info("data: %d images [listed]", 9)
        training.info("of no interest")
        training.warning("worth a line")
    data.warning("too late")
    assert text.getvalue().splitlines() == ["data: 9 images [listed]", "worth a line"]
    assert not data.isEnabledFor(logging.INFO)


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
    assert "over 1 seed; interrupted, so not confirmed and test set not read" in " ".join(out.split())
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


def plan_of(*names, weights=2_359_296):
    row = {"kind": "Conv2d", "shape": "512x512x3x3", "weights": weights, "may_take": "1/20 to 20/20 (20), 5 tied"}
    rows = [row | {"layer": name, "least_bytes": 14_746, "most_bytes": 294_920} for name in names]
    return {"layers": rows, "notes": ["one"]}


def test_a_plan_has_a_line_for_each_layer_and_leaves_shapes_out_where_they_do_not_fit(capsys):
    names = [f"layer{i}.0.downsample.0" for i in range(3)]
    print_plan(plan_of(*names))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["layer", "weights", "may", "take", "bytes"]
    assert [line.split()[0] for line in lines[1:]] == [*names, "one"]
    assert lines[1].split()[1:] == ["2,359,296", "1/20", "to", "20/20", "(20),", "5", "tied", "14,746", "to", "294,920"]
    assert max(map(len, lines)) <= 80
    print_plan(plan_of("conv1"))
    assert "512x512x3x3" in capsys.readouterr().out


def test_long_names_are_folded_and_never_cut(capsys):
    name = "features_of_a_backbone_with_a_name.encoder_layer_number_11.attention.output"
    print_plan(plan_of(name))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "".join(line.split()[0] for line in lines[1:-1] if line[0] != " ") == name
    assert any("14,746 to 294,920" in line for line in lines)


def test_the_plan_of_a_tied_network_fits_80_columns(capsys):
    from flexor_search.asking import Question
    from flexor_search.question import plan_tables

    tables = plan_tables(Question(workload="resnet20-cifar10"))
    print_plan(tables)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1 : len(tables["layers"]) + 1]] == [
        row["layer"] for row in tables["layers"]
    ]
    assert max(map(len, lines)) <= 80
    assert [line for line in lines if line.startswith("layer2.")][1].split()[3:5] == ["as", "layer2.0.conv1"]


def test_bytes_and_results_fit_80_columns(real_run, capsys):
    print_bytes(inspect_file(Path(__file__).parents[1] / "golden" / "packed" / "digits-v2.safetensors"))
    found = inspect_file(next(real_run.folder.glob("*.safetensors")))
    large = replace(found.layers[1], name="layer4.0.downsample.0", payload_bytes=294_920, kept_bytes=1_024_000)
    print_bytes(replace(found, layers=(large, *found.layers)))
    run = Run.open(real_run.folder)
    (entry,) = run.summary()["budgets"]
    print_results(run)
    out = capsys.readouterr().out
    tables = [line for line in out.splitlines() if not line.startswith("/")]  # a path is never broken
    assert max(map(len, tables)) <= 80
    for whole in ("294,920", "1,024,000", f"{entry['file_bytes']:,}"):
        assert whole in out
    assert "…" not in out


def drawn(width, best, what):
    """The last line of a bar, drawn on a terminal of a width."""
    text = io.StringIO()
    console = Console(file=text, width=width, force_terminal=True, color_system=None)
    with bar(console, auto_refresh=False) as progress:
        observer = LiveObserver(console, progress)
        observer.planned(PHASES)
        observer.phase("confirm", 120)
        for _ in range(3):
            observer.measured(PLAIN, best)
        observer.begin(what)
        progress.refresh()
    frames = re.split(r"\r|\n|\x1b\[[0-9?;]*[A-Za-z]", text.getvalue())
    return [frame.rstrip() for frame in frames if "left" in frame]


def test_the_bar_keeps_phase_trials_time_and_best_at_80_columns():
    what = "full precision at 32 bits per weight, seed 2"
    frames = drawn(80, "91.27 % at 0.7 bpw", what)
    assert max(map(len, frames)) <= 80
    last = frames[-1]
    assert last.startswith("confirm 3/120 ")
    assert re.search(r" [0-9-]+:[0-9-]+:[0-9-]+ left best 91.27 % at 0.7 bpw full pre", last)
    assert what not in last
    assert what in drawn(120, "91.27 % at 0.7 bpw", what)[-1]


COLOUR = re.compile(r"\x1b\[[0-9;]*(3[0-8]|4[0-8]|9[0-7]|10[0-7])[0-9;]*m")


@pytest.mark.parametrize(("no_colour", "coloured"), [("", True), ("1", False)])
def test_no_color_is_heeded(monkeypatch, no_colour, coloured):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal, whatever stderr is here
    monkeypatch.setenv("NO_COLOR", no_colour)
    text = io.StringIO()
    monkeypatch.setattr("sys.stderr", text)
    with watching(quiet=False) as observer:
        observer.message("hello")
        observer.planned(PHASES)
        observer.phase("search", 4)
        observer.measured(PLAIN, "76.00 % at 0.7 bpw")
        observer.begin("uniform at 0.7 bits per weight")
    assert "search 1/4" in text.getvalue()
    assert bool(COLOUR.search(text.getvalue())) == coloured
