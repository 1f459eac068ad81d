"""What a notebook calls: the same route, an observer that hears everything, errors as exceptions."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from tuning.models import Recorder

from flexor_search import api
from flexor_search.asking import Question
from flexor_search.errors import RunError, UsageError
from flexor_search.packing import load, verilog_file
from flexor_search.planning import Recipe
from flexor_search.question import plan, resolved
from flexor_search.runs import CONFIRM, Run


@pytest.fixture
def copied(real_run, tmp_path):
    shutil.copytree(real_run.folder, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_an_observer_hears_the_whole_run_in_order(copied):
    observer = Recorder()
    run = api.search(
        Question("0.7bpw", trials=6, epochs=4, seeds=2, device="cpu", strategy="supernet"), copied, observer
    )
    kinds = [event[0] for event in observer.events if event[0] != "message"]
    rows = run.measurements
    search, confirmation = 6, len(rows) - 6
    second = kinds.index("phase", 2)
    assert kinds[:2] == ["planned", "phase"]
    for part, trainings in ((kinds[2:second], search), (kinds[second + 1 :], confirmation)):
        assert sorted(part) == ["begin"] * trainings + ["measured"] * trainings
        assert all(part[:i].count("begin") >= part[:i].count("measured") for i in range(len(part)))
    assert observer.of("phase") == [("search", 6), ("confirm", confirmation)]
    assert [m for m, _ in observer.of("measured")] == list(rows)
    (phases,) = observer.of("planned")[0]
    assert [(phase.name, phase.trainings, phase.epochs) for phase in phases] == [("search", 6, 2), ("confirm", 14, 4)]
    messages = [text for (text,) in observer.of("message")]
    assert messages[0].startswith("recipe: adam")
    assert "packed file verified" in messages[-1]
    log = (copied / "run.log").read_text()
    assert all(text in log for text in messages)


def test_after_a_run_its_folder_is_free_and_its_log_closed(copied):
    for _ in range(2):
        run = api.resume(copied)
    run.lock()
    run.unlock()
    log = (copied / "run.log").read_text().splitlines()
    assert sum("recipe: adam" in line for line in log) == 3  # once for each time, the first in another process


def test_export_report_and_verify_return_what_they_made(copied):
    path = api.export(copied, budget="0.7bpw")
    assert path == copied / "model-0.7bpw.safetensors"
    assert api.verify(path).passed == api.verify(str(path)).passed
    assert api.export(str(copied), trial=0, to=copied / "x.safetensors") == copied / "x.safetensors"
    assert api.report(copied) == copied / "report.html"


def test_export_to_a_verilog_name_writes_the_decoders_and_their_bench(copied):
    packed = load(Run.open(copied).trained_path(0))
    assert api.export(copied, trial=0, to=copied / "decoder.v") == copied / "decoder.v"
    assert (copied / "decoder.v").read_text() == verilog_file.code_modules(packed)
    assert (copied / "decoder_tb.v").read_text() == verilog_file.test_bench(packed)


def test_export_says_when_the_file_of_a_trial_is_gone(copied):
    Run.open(copied).trained_path(0).unlink()
    with pytest.raises(UsageError, match="left no model"):
        api.export(copied, trial=0)


def test_errors_are_exceptions(tmp_path):
    with pytest.raises(RunError):
        api.resume(tmp_path)
    with pytest.raises(UsageError):
        Question("0.7")


def test_a_plan_touches_no_data_and_resolves_everything():
    planned = plan(Question("0.7bpw,48KiB", epochs=8))
    assert [budget.text for budget in planned.budgets] == ["0.7bpw", "48KiB"]
    assert (planned.workload.name, planned.device in ("cpu", "cuda")) == ("digits-convnet", True)
    assert (planned.workload.recipe.epochs, planned.workload.recipe.search_epochs) == (8, 4)


@pytest.mark.parametrize("epochs", [1, 2, 7])
def test_search_trials_are_shortened_in_proportion_and_never_to_nothing(epochs):
    recipe = plan(Question("0.7bpw", epochs=epochs)).workload.recipe
    assert recipe.epochs == epochs
    assert 1 <= recipe.search_epochs <= epochs


def test_planning_leaves_the_callers_random_numbers_alone():
    before = torch.get_rng_state()
    plan(Question("0.7bpw"))
    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_the_default_number_of_trials_stays_open():
    question = Question("0.7bpw")
    assert resolved(question, plan(question), Recipe())["trials"] == 0  # each strategy has its own


def test_a_shipped_space_stays_one_beside_a_folder_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lenet5").mkdir()
    question = Question("0.42bpw", workload="lenet5-fashion-mnist", space="lenet5")
    assert resolved(question, plan(question), Recipe())["space"] == "lenet5"


def test_a_run_is_exported_where_neither_its_gpu_nor_its_recipe_is(copied):
    path = copied / "run.toml"
    text = path.read_text()
    changed = text.replace('device = "cpu"', 'device = "cuda:7"', 1).replace('recipe = ""', 'recipe = "/gone.toml"', 1)
    assert changed.count("cuda:7") == changed.count("/gone.toml") == 1
    path.write_text(changed)
    (copied / "model-0.7bpw.safetensors").unlink()
    assert api.export(copied, "0.7bpw").stat().st_size > 0


def test_what_is_for_ray_alone_goes_where_ray_does():
    question = Question("0.7bpw", backend="ray", gpus_per_trial=0.25, ray_address="auto")
    local = question.changed({"backend": "local", "seeds": 2})
    assert (local.backend, local.gpus_per_trial, local.ray_address, local.seeds) == ("local", 0.0, "", 2)
    assert question.changed({"seeds": 2}).gpus_per_trial == 0.25
    with pytest.raises(UsageError, match="gpus_per_trial: is for --backend ray"):
        question.changed({"backend": "local", "gpus_per_trial": 0.5})


def test_workers_on_a_storage_ask_for_the_same_budgets(copied, tmp_path):
    before = (copied / "run.toml").read_bytes()
    asked = Question("0.5bpw", trials=6, epochs=4, seeds=2, device="cpu", storage=f"journal:{tmp_path / 'x'}")
    with pytest.raises(UsageError, match=r"has 0\.7bpw; --storage none goes on alone with 0\.5bpw"):
        api.search(asked, copied)
    assert (copied / "run.toml").read_bytes() == before


def test_distillation_and_a_loop_of_ones_own_exclude_each_other(tmp_path, monkeypatch):
    (tmp_path / "my_loop.py").write_text("def fit(model, train, validation, recipe, seed, report): ...\n")
    (tmp_path / "recipe.toml").write_text("distillation = 0.5\n")
    monkeypatch.syspath_prepend(tmp_path)
    question = Question("0.7bpw", recipe=str(tmp_path / "recipe.toml"), train="my_loop:fit")
    with pytest.raises(UsageError, match="recipe: distillation and from_teacher go with the training loop of this"):
        plan(question)


def test_export_writes_what_the_summary_has_chosen(copied):
    """Later confirmations, of more seeds or of another budget that was interrupted, do not change what is shipped."""
    run = Run.open(copied)
    (entry,) = run.summary()["budgets"]
    shipped = (copied / "model-0.7bpw.safetensors").read_bytes()
    better = [m for m in run.measurements if m.phase == CONFIRM and m.kind == "uniform"]
    if not better or json.loads(better[0].allocation) == entry["allocation"]:
        better = [m for m in run.measurements if m.phase == CONFIRM and json.loads(m.allocation) != entry["allocation"]]
    for m in better:
        for seed in (m.seed, m.seed + 10):
            run.append(replace(m, seed=seed, val_accuracy=0.999))
    api.export(copied, "0.7bpw")
    assert (copied / "model-0.7bpw.safetensors").read_bytes() == shipped
