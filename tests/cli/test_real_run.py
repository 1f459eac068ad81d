"""The whole command, once, for real: every file that it wrote is read back."""

import json
import math
import re
import shutil
import sqlite3
import statistics
import tomllib
from pathlib import Path

import onnxruntime
import optuna
import pandas as pd
import pytest
from optuna.trial import TrialState

from flexor_search.asking import Question
from flexor_search.packing import load_packed, verify_file
from flexor_search.planning import Allocation, Budget, file_layout, full_precision, nearest_uniform
from flexor_search.question import plan
from flexor_search.runs import CONFIRM, DONE, SEARCH, STOPPED, Run
from flexor_search.training import evaluate
from flexor_search.workloads import workload

from .helpers import QUESTION, leftovers, lines_of

SIZES = {"bits_per_weight", "payload_bits", "file_bytes", "file_bits_per_weight", "nominal_bits_per_weight"}
OUTCOMES = {"val_accuracy", "test_accuracy", "test_accuracy_shipped", "verified", "allocation"}


@pytest.fixture(scope="module")
def run(real_run):
    return Run.open(real_run.folder)


@pytest.fixture(scope="module")
def entry(run):
    (found,) = run.summary()["budgets"]
    return found


@pytest.fixture(scope="module")
def planned(run):
    return plan(Question.from_run(run))


@pytest.fixture(scope="module")
def data():
    return workload("digits-convnet").load(None)


@pytest.fixture
def copied(real_run, tmp_path):
    """A copy of the run, to change."""
    shutil.copytree(real_run.folder, tmp_path / "copy")
    return tmp_path / "copy"


def test_the_folder_holds_what_was_promised_and_nothing_else(real_run):
    assert {path.name for path in real_run.folder.iterdir()} == {
        *("run.toml", "measurements.csv", "study.db", "summary.json", "front.csv", "report.html", "run.log"),
        *(
            "sensitivity.json",
            "model-0.7bpw.safetensors",
            "allocation-0.7bpw.json",
            "test_readings.json",
            "clock.json",
            "strategy.txt",
            "trained",
            ".lock",
        ),
    }
    assert leftovers(real_run.folder) == []
    assert sorted(path.name for path in real_run.folder.parent.iterdir()) == ["run"]


def test_run_toml_is_the_question_with_every_default_filled_in(real_run, run):
    body = tomllib.loads((real_run.folder / "run.toml").read_text())
    question = body["question"]
    assert (question["budget"], question["trials"], question["epochs"], question["seeds"]) == ("0.7bpw", 6, 4, 2)
    assert (question["workload"], question["seed"], question["timeout_seconds"]) == ("digits-convnet", 0, 75.0)
    assert (question["recipe_fields"]["epochs"], question["recipe_fields"]["search_epochs"]) == (4, 2)
    assert question["versions"].keys() > {"flexor_search", "python", "torch", "optuna"}
    assert question["hardware"]["processor"]
    assert body["fingerprint"].keys() == {
        *(
            "workload",
            "model",
            "model code",
            "given values",
            "data",
            "space",
            "recipe",
            "strategy",
            "seed",
            "format",
            "code",
        ),
    }
    assert Question.from_run(run).trials == 6


def test_measurements_are_those_of_a_search_and_a_confirmation(run, planned):
    rows = run.measurements
    assert [m.number for m in rows] == list(range(len(rows)))
    search, confirmation = ([m for m in rows if m.phase == phase] for phase in (SEARCH, CONFIRM))
    assert len(search) == 6
    assert len({m.digest for m in search}) == 6
    assert {m.seed for m in search} == {0}
    assert {m.seed for m in confirmation} == {1000, 1001}
    assert {m.epochs for m in search if m.state == DONE} == {2}
    assert {m.epochs for m in confirmation} == {4}
    assert {m.images for m in rows} == {1097}
    assert len({m.key for m in rows}) == len(rows)
    for m in rows:
        allocation = Allocation.from_json(planned.space.model, json.loads(m.allocation))
        assert m.digest == allocation.digest
        assert m.bits_per_weight == allocation.bits_per_weight
        assert m.bits_per_weight <= 0.7 or m.kind == "full precision"
        assert m.file_bytes == file_layout(allocation, "digits-convnet").file_bytes
        assert m.train_seconds > 0


def test_every_finished_training_left_a_verified_file_of_the_predicted_size(run):
    done = [m for m in run.measurements if m.state == DONE]
    names = {f"{m.number}.{ending}" for m in done for ending in ("safetensors", "json")}
    assert {path.name for path in (run.folder / "trained").iterdir()} == names
    for m in done:
        assert run.trained_path(m.number).stat().st_size == m.file_bytes
        verify_file(run.trained_path(m.number))


def test_the_study_opens_with_optuna(run):
    study = optuna.load_study(study_name="flexor-search", storage=f"sqlite:///{run.folder / 'study.db'}")
    search = [m for m in run.measurements if m.phase == SEARCH]
    states = {DONE: TrialState.COMPLETE, STOPPED: TrialState.PRUNED}
    assert [trial.state for trial in study.trials] == [states[m.state] for m in search]
    for trial, m in zip(study.trials, search, strict=True):
        assert trial.values == ([m.val_accuracy, m.bits_per_weight] if m.state == DONE else None)
    with sqlite3.connect(run.folder / "study.db") as connection:
        assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
    connection.close()


def test_the_summary_has_exactly_the_keys_that_others_read(run, entry):
    assert run.summary().keys() == {"state", "budgets", "strategy"}
    assert (run.summary()["state"], run.summary()["strategy"]) == ("complete", "supernet")
    assert entry.keys() == {"budget", "uniform", "full_precision", "file", "packing"} | SIZES | OUTCOMES
    for body in (entry["uniform"], entry["full_precision"]):
        assert body.keys() == SIZES | OUTCOMES
    for body in (entry, entry["uniform"], entry["full_precision"]):
        assert body["val_accuracy"].keys() == body["test_accuracy"].keys() == {"mean", "std", "seeds"}
        assert body["val_accuracy"]["seeds"] == body["test_accuracy"]["seeds"] == [1000, 1001]
        assert body["verified"] is True


def test_the_summary_can_be_computed_again_from_the_measurements(run, entry, planned):
    budget = Budget.parse("0.7bpw")
    confirmed = [m for m in run.measurements if m.phase == CONFIRM and m.state == DONE]
    means = {}
    for m in confirmed:
        means.setdefault(m.digest, []).append(m.val_accuracy)
    fitting = {m.digest: statistics.fmean(means[m.digest]) for m in confirmed if m.bits_per_weight <= 0.7}
    chosen = Allocation.from_json(planned.space.model, entry["allocation"])
    assert fitting[chosen.digest] == max(fitting.values())
    assert budget.fits(chosen)
    for body, allocation in (
        (entry, chosen),
        (entry["uniform"], nearest_uniform(planned.space, budget)),
        (entry["full_precision"], full_precision(planned.space.model)),
    ):
        assert Allocation.from_json(planned.space.model, body["allocation"]) == allocation
        assert body["val_accuracy"]["mean"] == round(statistics.fmean(means[allocation.digest]), 6)
        assert body["val_accuracy"]["std"] == round(statistics.stdev(means[allocation.digest]), 6)
        assert body["bits_per_weight"] == allocation.bits_per_weight
        assert body["payload_bits"] == allocation.weight_bits
        assert body["file_bits_per_weight"] == round(8 * body["file_bytes"] / planned.space.model.n_weights, 4)
    assert entry["full_precision"]["file_bytes"] == planned.space.model.float_bytes


def test_the_chosen_model_is_never_below_uniform_and_never_over_budget(entry):
    assert entry["val_accuracy"]["mean"] >= entry["uniform"]["val_accuracy"]["mean"]
    assert entry["bits_per_weight"] <= 0.7
    assert entry["uniform"]["bits_per_weight"] <= 0.7
    assert 8 * entry["file_bytes"] > entry["payload_bits"]


def test_the_packed_file_is_what_the_summary_says(run, entry, data, planned):
    path = run.folder / "model-0.7bpw.safetensors"
    assert path.stat().st_size == entry["file_bytes"]
    assert len(verify_file(path).passed) >= 3
    model = load_packed(path)
    assert evaluate(model, data.test).accuracy == entry["test_accuracy_shipped"]
    digest = Allocation.from_json(planned.space.model, entry["allocation"]).digest
    best = max(m.val_accuracy for m in run.measurements if (m.phase, m.digest) == (CONFIRM, digest))
    assert evaluate(model, data.validation).accuracy == pytest.approx(best, abs=0.01)


def test_the_allocation_round_trips_and_fits(run, entry, planned):
    body = json.loads((run.folder / "allocation-0.7bpw.json").read_text())
    allocation = Allocation.from_json(planned.space.model, body)
    assert allocation.to_json() == body == entry["allocation"]
    assert Budget.parse("0.7bpw").fits(allocation)
    assert file_layout(allocation, "digits-convnet").file_bytes == entry["file_bytes"]


def test_the_test_set_was_read_once_for_each_confirmed_model_in_the_table(run, entry, data, planned):
    readings = json.loads((run.folder / "test_readings.json").read_text())
    made = {f"{m.number} {m.digest} seed {m.seed}": m for m in run.measurements}
    rows = {key: made[key] for key in readings}
    assert {m.phase for m in rows.values()} == {CONFIRM}
    bodies = (entry, entry["uniform"], entry["full_precision"])
    in_table = {Allocation.from_json(planned.space.model, body["allocation"]).digest for body in bodies}
    assert {m.digest for m in rows.values()} == in_table
    assert len(readings) == 2 * len(in_table)
    key = next(iter(readings))
    assert evaluate(load_packed(run.trained_path(rows[key].number)), data.test).accuracy == readings[key]


def test_the_front_is_one(run):
    table = pd.read_csv(run.folder / "front.csv")
    assert len(table) > 0
    assert {"bits_per_weight", "val_accuracy"} <= set(table.columns)
    points = list(
        zip(table.get("fidelity", [""] * len(table)), table["bits_per_weight"], table["val_accuracy"], strict=True)
    )
    for fidelity, bits, accuracy in points:
        assert not any(
            other == fidelity and less <= bits and more >= accuracy and (less, more) != (bits, accuracy)
            for other, less, more in points
        )
        assert any(math.isclose(m.bits_per_weight, bits) for m in run.measurements)


def test_the_report_is_one_page_that_needs_no_network(run):
    text = (run.folder / "report.html").read_text(encoding="utf-8")
    assert text.lstrip().lower().startswith("<!doctype html>")
    assert text.rstrip().endswith("</html>")
    assert "0.7bpw" in text
    assert "digits-convnet" in text
    assert not re.search(r"<(script|img|iframe)[^>]+src=[\"']?https?:", text)
    assert not re.search(r"<link[^>]+href=[\"']?https?:", text)


def test_the_log_tells_every_training(run):
    lines = (run.folder / "run.log").read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ", line) for line in lines)
    told = [int(found[1]) for line in lines if (found := re.search(r" trial (\d+) ", line))]
    assert told == [m.number for m in run.measurements]
    assert "packed file verified" in lines[-1]


def test_the_terminal_shows_the_table_on_stdout_and_progress_on_stderr(real_run, entry):
    out, err = real_run.ended.out, real_run.ended.err
    for heading in ("budget", "bits/weight", "file bytes", "validation %", "test %"):
        assert heading in out
    for name in ("chosen", "uniform", "full precision"):
        assert name in out
    assert f"{entry['file_bytes']:,}" in out
    assert f"{100 * entry['val_accuracy']['mean']:.2f} ± {100 * entry['val_accuracy']['std']:.2f}" in out
    assert str(real_run.folder / "model-0.7bpw.safetensors") in out
    assert "search 6/6" in err
    assert "in all about" in err
    assert "Traceback" not in out + err
    for name in re.findall(r"^/.*$", out, re.MULTILINE):
        assert Path(name).exists()


def test_the_same_seed_elsewhere_gives_the_same_run(real_run, command, tmp_path):
    ended = command(*QUESTION, "--out", tmp_path / "other", "--json", "--quiet")
    assert (ended.code, ended.err) == (0, "")
    body = json.loads(ended.out)
    assert body.pop("run") == str(tmp_path / "other")
    first, second = Run.open(real_run.folder), Run.open(tmp_path / "other")
    assert body == first.summary() == second.summary()
    first_frame, second_frame = (each.frame().drop(columns=["train_seconds", "worker"]) for each in (first, second))
    assert first_frame.equals(second_frame)
    for name in ("model-0.7bpw.safetensors", "allocation-0.7bpw.json", "test_readings.json"):
        assert (first.folder / name).read_bytes() == (second.folder / name).read_bytes()


def test_resuming_a_finished_run_trains_nothing(copied, command):
    before = {
        path: path.read_bytes()
        for path in sorted(copied.rglob("*"))
        if path.suffix in (".csv", ".json", ".safetensors")
    }
    study = optuna.load_study(study_name="flexor-search", storage=f"sqlite:///{copied / 'study.db'}")
    ended = command("resume", copied)
    assert ended.code == 0
    assert "chosen" in ended.out
    assert {path: path.read_bytes() for path in before} == before
    again = optuna.load_study(study_name="flexor-search", storage=f"sqlite:///{copied / 'study.db'}")
    assert [trial.values for trial in again.trials] == [trial.values for trial in study.trials]


def test_a_lost_trained_file_is_trained_again_on_resuming(copied, command):
    run = Run.open(copied)
    shipped = (copied / "model-0.7bpw.safetensors").read_bytes()
    lost = next(m for m in run.measurements if run.trained_path(m.number).read_bytes() == shipped)
    run.trained_path(lost.number).unlink()
    assert command("resume", copied, "--quiet").code == 0
    again = Run.open(copied)
    assert len(lines_of(copied)) == len(run.measurements) + 1
    assert again.measurements[-1].key == lost.key
    assert again.measurements[-1].val_accuracy == lost.val_accuracy
    assert again.summary() == run.summary()
    assert (copied / "model-0.7bpw.safetensors").read_bytes() == shipped
    assert command("resume", copied, "--quiet").code == 0
    assert len(lines_of(copied)) == len(run.measurements) + 1


def test_resuming_with_a_higher_target_adds_to_what_is_there(copied, command):
    before = lines_of(copied)
    ended = command("resume", copied, "--trials", "7", "--seeds", "1", "--json", "--quiet")
    assert ended.code == 0
    assert lines_of(copied)[: len(before)] == before
    rows = Run.open(copied).measurements
    assert sum(m.phase == SEARCH for m in rows) == 7
    assert json.loads(ended.out)["budgets"][0]["val_accuracy"]["seeds"] == [1000]
    assert Run.open(copied).question["trials"] == 7


def test_export_packs_the_best_that_fits_a_budget(copied, command):
    ended = command("export", copied, "--budget", "0.69bpw")
    assert ended.code == 0
    path = Path(ended.out.strip())
    assert path == copied / "model-0.69bpw.safetensors"
    verify_file(path)
    rows = [m for m in Run.open(copied).measurements if m.bits_per_weight <= 0.69]
    rows = [m for m in rows if m.phase == CONFIRM] or rows
    assert path.stat().st_size in {m.file_bytes for m in rows}
    allocation = json.loads((copied / "allocation-0.69bpw.json").read_text())
    space = plan(Question.from_run(Run.open(copied))).space
    assert Allocation.from_json(space.model, allocation).bits_per_weight <= 0.69


def test_export_never_takes_full_precision_for_a_packed_model(copied, command, entry):
    path = Path(command("export", copied, "--budget", "40bpw").out.strip())
    assert entry["full_precision"]["val_accuracy"]["mean"] > entry["val_accuracy"]["mean"]
    assert path.read_bytes() == (copied / "model-0.7bpw.safetensors").read_bytes()


def test_export_packs_any_training_by_number(copied, command, tmp_path):
    (tmp_path / "to").mkdir()
    for number in (0, 7):
        target = tmp_path / "to" / f"{number}.safetensors"
        assert command("export", copied, "--trial", number, "--to", target).out.strip() == str(target)
        assert target.read_bytes() == Run.open(copied).trained_path(number).read_bytes()
    assert command("export", copied, "--trial", 0).out.strip() == str(copied / "model-trial-0.safetensors")
    assert leftovers(copied) == []


def test_export_says_what_packing_saved_and_needs_no_budget_where_the_run_has_one(copied, command):
    ended = command("export", copied)
    path = copied / "model-0.7bpw.safetensors"
    assert (ended.code, ended.out.strip()) == (0, str(path))
    shipped = next(m for m in Run.open(copied).measurements if same_content(copied, m, path))
    steps = Run.open(copied).packing(shipped.number)["steps"]
    assert [line.split(":")[0] for line in ended.err.splitlines()] == [step["what"] for step in steps]
    assert f"{steps[3]['what']}: {steps[3]['saved_bytes']:,} bytes saved, logits within " in ended.err
    assert "codes stored at their rank over GF(2): 0 bytes saved, bit for bit" in ended.err
    assert command("export", copied, "--quiet").err == ""


def same_content(folder, measurement, path):
    trained = Run.open(folder).trained_path(measurement.number)
    return trained.exists() and trained.read_bytes() == path.read_bytes()


def test_export_to_a_folder(copied, command):
    target = copied / "hub" / "digits"
    assert command("export", copied, "--to", target).out.strip() == str(target)
    assert sorted(path.name for path in target.iterdir()) == ["config.json", "model.safetensors"]
    assert json.loads((target / "config.json").read_text())["flexor_search"]["workload"] == "digits-convnet"
    assert (target / "model.safetensors").read_bytes() == (copied / "model-0.7bpw.safetensors").read_bytes()
    assert f"{target}: verified" in command("verify", target).out
    assert not load_packed(target).training


def test_export_to_onnx(copied, command):
    target = copied / "model.onnx"
    ended = command("export", copied, "--to", target, "--quiet")
    assert (ended.code, ended.out.strip(), ended.err) == (0, str(target), "")
    assert target.stat().st_size <= 1.02 * (copied / "model-0.7bpw.safetensors").stat().st_size + 20 * 1024
    session = onnxruntime.InferenceSession(str(target))
    images, _ = workload("digits-convnet").load(None).test.batch(slice(None))
    (logits,) = session.run(None, {"images": images.numpy()})
    wanted = load_packed(copied / "model-0.7bpw.safetensors")(images).numpy()
    assert (logits.argmax(1) == wanted.argmax(1)).all()
    verified = command("verify", target)
    assert verified.out.startswith(f"{target}: verified\n")
    assert "onnx.checker accepts it" in verified.out
    assert leftovers(copied) == []


def test_export_makes_folders_and_takes_dots_in_their_names(copied, command, monkeypatch):
    monkeypatch.chdir(copied)
    for target, files in (("new/net-0.7bpw/", ("config.json", "model.safetensors")), ("other/decoder.v", ())):
        ended = command("export", ".", "--to", target)
        assert (ended.code, ended.out.strip()) == (0, target.rstrip("/"))
        assert all((copied / target / name).exists() for name in files)
        verified = command("verify", target)
        if target.endswith(".v") and shutil.which("iverilog") is None:
            assert "was not simulated: " in ended.err
            assert (verified.code, verified.out) == (2, "")
        else:
            assert verified.out.startswith(f"{target.rstrip('/')}: verified")


def test_a_run_of_files_of_other_sizes_promises_no_bytes(copied, command):
    path = copied / "measurements.csv"
    rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    rows["file_bytes"] = (rows["file_bytes"].astype(int) + 64).astype(str)
    rows.to_csv(path, index=False)
    ended = command("export", copied, "--budget", "5kB")
    assert (ended.code, ended.out) == (1, "")
    assert "made by a version whose files have other sizes, so 5kB cannot be promised" in ended.err
    assert command("export", copied, "--budget", "0.7bpw").code == 0


def test_inspect_accounts_for_every_byte(real_run, command, entry):
    path = real_run.folder / "model-0.7bpw.safetensors"
    body = json.loads(command("inspect", path, "--json").out)
    assert body == {"file": str(path)} | entry["file"]
    rest = ("code_table_bytes", "other_kept_bytes", "exact_bytes", "container_bytes")
    layers = sum(layer["total_bytes"] for layer in body["layers"])
    assert layers + sum(body[name] for name in rest) == body["file_bytes"] == path.stat().st_size
    plain = command("inspect", path).out
    assert f"{path.stat().st_size:,}" in plain
    assert all(layer["name"] in plain for layer in body["layers"])
    assert max(map(len, plain.splitlines())) <= 100


def test_report_writes_the_page_and_the_front_again(copied, command):
    front = (copied / "front.csv").read_bytes()
    for name in ("report.html", "front.csv"):
        (copied / name).unlink()
    ended = command("report", copied)
    assert (ended.code, ended.out.strip()) == (0, str(copied / "report.html"))
    assert (copied / "front.csv").read_bytes() == front
    assert (copied / "report.html").stat().st_size > 10_000


def test_verify_says_what_was_checked(real_run, command):
    path = real_run.folder / "model-0.7bpw.safetensors"
    ended = command("verify", path, "--json")
    body = json.loads(ended.out)
    assert (ended.code, ended.err) == (0, "")
    assert (body["file"], body["verified"]) == (str(path), True)
    assert any("SHA-256" in text for text in body["checked"])
    assert any("decoder" in text for text in body["checked"])
    plain = command("verify", path)
    assert plain.out.splitlines() == [f"{path}: verified", *(f"  - {text}" for text in body["checked"])]
