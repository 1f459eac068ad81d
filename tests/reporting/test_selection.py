"""The selected model: its layers, and a command that the command line takes as it stands."""

import json
import shlex

from flexor_search.asking import GIVEN
from flexor_search.cli import app
from flexor_search.reporting.command import export_command, search_command
from flexor_search.reporting.details import made
from flexor_search.reporting.selection import first_selected, panel, selectable

from .made_run import example, failed, made_run, measured


def parsed(words):
    """What the command line makes of a command: its name and its options."""
    import typer.main

    group = typer.main.get_command(app)
    context = group.make_context("flexor-search", list(words[1:]), resilient_parsing=False)
    rest = context._protected_args + context.args
    if not rest:
        return "", context.params
    command = group.get_command(context, rest[0])
    return rest[0], command.make_context(rest[0], rest[1:], parent=context).params


def test_every_training_can_be_selected_with_its_layers(tmp_path):
    run = example(tmp_path)
    data = selectable(run)
    assert set(data["trials"]) == {str(m.number) for m in run.measurements}
    chosen = data["trials"]["10"]
    assert (chosen["kind"], chosen["state"], chosen["rates"]) == ("proposed", "done", ["kept", "8/20", "12/20"])
    assert data["layers"] == ["first<script>", "stage0.0.conv", "stage0.1.conv"]
    assert data["shares"] == {"kept": None, "8/20": 0.4, "12/20": 0.6}
    assert "97.00 % validation accuracy, 0.5 bits per weight, 262 bytes" in chosen["facts"]
    assert "failed: the loss is nan" in data["trials"]["3"]["facts"]
    assert "stopped early at 40.00 %" in data["trials"]["5"]["facts"]


def test_the_export_command_is_the_command_lines_own(tmp_path):
    run = example(tmp_path / "it's a run")
    name, asked = parsed(shlex.split(export_command(run, 10)))
    assert name == "export"
    assert (asked["run"], asked["trial"]) == (run.folder, 10)
    template = selectable(run)["command"]
    assert template.replace("'{trial}'", "10") == export_command(run, 10)  # as the script does it


def test_the_search_command_asks_the_same_question(tmp_path):
    question = {
        "budget": "0.4bpw,48KiB",
        "workload": "digits-convnet",
        "space": "digits-convnet",
        "strategy": "direct",
        "trials": 40,
        "timeout_seconds": 75.0,
        "epochs": 0,
        "seeds": 3,
        "seed": 7,
        "data_dir": "/data/some images",
        "jobs": 2,
    }
    run = made_run(tmp_path, [], **question)
    name, asked = parsed(shlex.split(search_command(run)))
    assert name == ""
    assert asked["budget"] == "0.4bpw,48KiB"
    assert (asked["trials"], asked["timeout_seconds"], asked["seed"], asked["jobs"]) == (40, 75.0, 7, 2)
    assert asked["seeds"] is None  # as it is without being asked
    assert (asked["data_dir"], asked["space"], asked["epochs"]) == ("/data/some images", "digits-convnet", None)


def test_what_is_shown_first_is_the_shipped_model(tmp_path):
    run = example(tmp_path / "a")
    assert first_selected(run, {"d2"}) == 10
    assert first_selected(run, set()) == 10  # the most accurate that was confirmed
    assert first_selected(run, {"d0"}) == 8
    searched = made_run(tmp_path / "b", [measured(0, 0.8, 0.5), measured(1, 0.9, 0.6), failed(2, 0.1)])
    assert first_selected(searched, set()) == 1
    assert panel(made_run(tmp_path / "c", [failed(0, 0.5)]), set()) == ""


def test_the_panel_is_there_without_a_script_and_its_data_cannot_end_it(tmp_path):
    text = panel(example(tmp_path), {"d2"})
    assert f"export {tmp_path} --trial 10" in text
    assert "first&lt;script&gt;" in text
    body = text[text.index('id="selection-data">') + len('id="selection-data">') : text.rindex("</script>")]
    assert "<" not in body
    assert json.loads(body)["layers"][0] == "first<script>"


def test_a_question_of_objects_has_no_command(tmp_path):
    text = made(made_run(tmp_path, [], model=f"{GIVEN}: Net>", data="mine:loaders"))
    assert "Asked in Python: the model was given as an object" in text
    assert 'class="copy"' not in text
