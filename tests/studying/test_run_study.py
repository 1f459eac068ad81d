"""Studies run from end to end on small data: resumably, the test set once, the table beside the published figures."""

import csv
import math
import os
import re
import signal
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from flexor_search.errors import DataError, RunError, TrainingError, UsageError
from flexor_search.quantization import flexor_weights
from flexor_search.studying import StudyQuestion, run_study, searched, trainer, work
from flexor_search.studying.book import Book, held
from flexor_search.studying.crew import Crew
from flexor_search.studying.figure import Point, dots_svg
from flexor_search.training import seeded
from flexor_search.workloads import image_folder
from tests.workloads.made_data import write_cifar10, write_idx_files, write_imagenet

STUDIES = Path(__file__).parents[2] / "studies"
STUDY = """
question = "Does it run?"
seeds = 2
recipe = { epochs = 1, batch_size = 32, s_tanh_start = 10.0 }

[[row]]
name = "full"
workload = "digits-convnet"
full_precision = true

[[row]]
name = "taps"
workload = "digits-convnet"
rate = "8/20"
family = "taps"
nominal = 0.4
published = 50.0
source = "a paper"
certainty = "made up"

[[row]]
name = "consecutive analog"
workload = "digits-convnet"
rate = "8/20"
slice_order = "consecutive"
recipe = { surrogate = "analog" }

[[compare]]
first = "full"
second = "taps"

[[figure]]
title = "Both & all"
rows = ["full", "taps"]
"""
pytestmark = pytest.mark.usefixtures("one_thread")


def quiet(_text):
    pass


@pytest.fixture
def unmeasured(monkeypatch):
    """Recipes are closed without measuring what is faster."""

    def closed(build, data, recipe, *_):
        return replace(recipe, precision="float32", memory_format="contiguous")

    monkeypatch.setattr(work, "closed_recipe", closed)


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    (folder / "study.toml").write_text(STUDY)
    return folder


@pytest.fixture(scope="module")
def finished(folder):
    """A study of six trainings, cut after two, then run to its end; not to be changed."""
    told = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    asked = StudyQuestion(str(folder), images=96)
    trained = trainer.train_together
    calls = []

    def cut(*args, **options):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(options["seeds"])
        return trained(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "train_together", cut)
        with pytest.raises(KeyboardInterrupt):
            run_study(asked, told.append)
        lines, table = rows_of(folder / "measurements.csv"), (folder / "table.md").read_text()
        state = lines, table, (folder / "tests.csv").exists()
        patch.setattr(trainer, "train_together", trained)
        assert run_study(asked, told.append)
    torch.set_num_threads(threads)
    return folder, asked, told, state


def test_an_interrupted_study_has_its_lines_and_no_reading_of_the_test_set(finished):
    lines, table, has_tests = finished[3]
    assert [(line["row"], line["seed"]) for line in lines] == [("full", "0"), ("taps", "0")]
    assert "Not finished: 4 trainings are to be made, and the test set has not been read." in table
    assert not has_tests


def test_it_goes_on_and_trains_nothing_twice(finished, monkeypatch):
    folder, asked, told, _ = finished
    assert "6 of 6 trainings are to be made, on cpu" in told
    assert "4 of 6 trainings are to be made, on cpu" in told
    lines = rows_of(folder / "measurements.csv")
    assert len(lines) == len({line["key"] for line in lines}) == 6
    monkeypatch.setattr(trainer, "train_together", None)  # nothing is left to be trained
    monkeypatch.setattr(work, "evaluate", None)  # or to be read
    before = (folder / "table.md").read_text()
    assert run_study(asked, quiet)
    assert (folder / "table.md").read_text() == before


def test_the_test_set_is_read_once_with_each_trained_model_whose_weights_then_go(finished):
    folder = finished[0]
    readings = rows_of(folder / "tests.csv")
    assert {reading["key"] for reading in readings} == {line["key"] for line in rows_of(folder / "measurements.csv")}
    assert list((folder / "trained").iterdir()) == []
    assert list((folder / "unfinished").iterdir()) == []


def test_the_table_holds_the_means_and_errors_of_its_lines_beside_the_published_figure(finished):
    folder = finished[0]
    tests = [100 * float(one["test_accuracy"]) for one in rows_of(folder / "tests.csv") if one["row"] == "taps"]
    (row,) = [row for row in rows_of(folder / "table.csv") if row["row"] == "taps"]
    mean, error = statistics.fmean(tests), statistics.stdev(tests) / math.sqrt(2)
    assert float(row["test"]) == pytest.approx(mean, abs=1e-3)
    assert float(row["test_error"]) == pytest.approx(error, abs=1e-3)
    assert float(row["difference"]) == pytest.approx(mean - 50, abs=1e-3)
    assert float(row["nominal_bits_per_weight"]) == 0.4
    assert float(row["bits_per_weight"]) < 0.4
    table = (folder / "table.md").read_text()
    assert "Finished; the test set was read once" in table
    assert "| 50.00 (made up) |" in table
    assert "Published: a paper" in table
    assert re.search(r"\| full - taps \| test \| [+-]\d+\.\d\d ± \d+\.\d\d \|", table)


def test_the_figure_is_an_svg_with_a_dot_for_each_row(finished):
    svg = (finished[0] / "figure-both-all.svg").read_text()
    assert svg.count("<circle") == 2
    assert "Both &amp; all (test accuracy, %)" in svg


def scores(folder):
    return {line["key"]: (line["state"], line["val_accuracy"]) for line in rows_of(folder / "measurements.csv")}


def test_processes_come_to_the_same_measurements_and_readings(finished, tmp_path):
    told = []
    assert run_study(StudyQuestion(str(finished[0]), out=str(tmp_path), images=96, jobs=2), told.append)
    chosen = [text for text in told if "2 trainings at a time, a process each: measured to be" in text]
    assert len(chosen) == 2  # of one recipe, and of the other
    assert not any(" 0.00 times" in text for text in chosen)
    assert scores(tmp_path) == scores(finished[0])
    readings = [
        {(r["key"], r["test_accuracy"]) for r in rows_of(place / "tests.csv")} for place in (finished[0], tmp_path)
    ]
    assert readings[0] == readings[1]
    assert list((tmp_path / "trained").iterdir()) == list((tmp_path / "unfinished").iterdir()) == []


def test_processes_are_for_studies_that_are_long_and_gain_by_them(finished, tmp_path, monkeypatch):
    asked = StudyQuestion(str(finished[0]), out=str(tmp_path), images=96)
    monkeypatch.setattr("flexor_search.tuning.team.n_processors", lambda: 2)
    for seconds_per_image, told in ((1e-9, 0), (1e9, 2)):
        lines = []
        monkeypatch.setattr(work, "seconds_per_image", lambda *_, each=seconds_per_image: each)
        assert run_study(replace(asked, out=str(tmp_path / str(told))), lines.append)
        assert sum("2 trainings at a time" in text for text in lines) == told


def two_at_a_time(monkeypatch):
    """As on a GPU, in this process."""
    monkeypatch.setattr(work._Work, "_crew", lambda *_: None)
    monkeypatch.setattr(work._Work, "_width", lambda *_: 2)


def test_streams_of_a_gpu_train_as_many_as_fit(finished, tmp_path, monkeypatch):
    sizes, together = [], trainer.train_together

    def counted(models, *args, **options):
        sizes.append(len(models))
        return together(models, *args, **options)

    monkeypatch.setattr(trainer, "train_together", counted)
    two_at_a_time(monkeypatch)
    assert run_study(StudyQuestion(str(finished[0]), out=str(tmp_path), images=96), quiet)
    assert set(sizes) == {2}
    assert scores(tmp_path) == scores(finished[0])


def test_processes_have_a_teacher_of_every_seed_first(tmp_path):
    rows = "".join(
        f'[[row]]\nname = "{rate}"\nworkload = "digits-convnet"\nrate = "{rate}"\n' for rate in ("8/20", "12/20")
    )
    recipe = "recipe = { epochs = 1, distillation = 0.5 }"
    (tmp_path / "study.toml").write_text(f'question = "?"\nseeds = 2\n{recipe}\n{rows}')
    told = []
    asked = StudyQuestion(str(tmp_path), out=str(tmp_path / "alone"), images=96)
    assert run_study(asked, quiet)
    assert run_study(replace(asked, out=str(tmp_path / "beside"), jobs=2), told.append)
    assert scores(tmp_path / "beside") == scores(tmp_path / "alone")
    first = [index for index, text in enumerate(told) if "is trained first" in text]
    assert len(first) == 2
    assert max(first) < min(index for index, text in enumerate(told) if "validation" in text)


def test_time_that_is_over_ends_processes_without_a_training(finished, tmp_path):
    (row, *_) = work.plan_rows(work.read_study(finished[0]))
    data = row.task.load(None)
    over = trainer.Deadline(60.0, time.monotonic() - 1)
    one = trainer.Trainer(row.task.build, Book(tmp_path), "about", data, row.task.recipe, "cpu", over, quiet)
    jobs = [trainer.Job(row, seed, row.allocation(seed), f"key {seed}") for seed in range(3)]
    with Crew(one, 2) as crew, pytest.raises(work.OutOfTime):
        list(crew.train(jobs))
    assert list((tmp_path / "trained").iterdir()) == list((tmp_path / "unfinished").iterdir()) == []


def test_a_process_that_dies_is_told_and_the_same_command_goes_on(finished, tmp_path, monkeypatch):
    asked = StudyQuestion(str(finished[0]), out=str(tmp_path), images=96, jobs=2)
    with monkeypatch.context() as patch:
        patch.setattr("flexor_search.studying.crew._Train", Dying)
        with pytest.raises(
            RunError, match=r"study: \w+, seed 0: its process ended by signal 9; the same command goes on"
        ):
            run_study(asked, quiet)
    assert run_study(asked, quiet)
    assert scores(tmp_path) == scores(finished[0])


@dataclass(frozen=True)
class Dying:
    """A request that ends its process."""

    job: trainer.Job

    def answer(self, trainer):
        os.kill(os.getpid(), signal.SIGKILL)


def test_time_that_is_over_ends_the_call_and_the_next_goes_on(finished, tmp_path):
    told = []
    asked = StudyQuestion(str(finished[0]), out=str(tmp_path), images=96, seconds=1e-6)
    assert not run_study(asked, told.append)
    assert told[-1] == "the time is over; the same command goes on"
    assert not run_study(StudyQuestion(str(finished[0]), out=str(tmp_path), images=96, rows=("taps",)), quiet)
    assert not (tmp_path / "tests.csv").exists()  # a part of a study is not a finished one
    assert [line["row"] for line in rows_of(tmp_path / "measurements.csv")] == ["taps", "taps"]


def test_another_recipe_is_another_training(finished, tmp_path):
    text = STUDY.replace("epochs = 1", "epochs = 2")
    for name in ("measurements.csv", "tests.csv"):
        (tmp_path / name).write_bytes((finished[0] / name).read_bytes())
    (tmp_path / "study.toml").write_text(text)
    assert not run_study(StudyQuestion(str(tmp_path), images=96, rows=("full",), seeds=1), quiet)
    (row,) = rows_of(tmp_path / "table.csv")
    assert (row["seeds"], row["test"]) == ("1", "")


def test_weights_that_were_cut_short_are_named_and_trained_again(finished, tmp_path, monkeypatch):
    asked = StudyQuestion(str(finished[0]), out=str(tmp_path), images=96, seeds=1, rows=("taps",))
    assert not run_study(asked, quiet)
    (path,) = (tmp_path / "trained").iterdir()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RunError, match=f"{path.name} is damaged: .*; delete it to train that model again"):
        run_study(replace(asked, rows=()), quiet)
    path.unlink()
    assert run_study(replace(asked, rows=()), quiet)


def test_test_differences_are_of_rows_whose_every_model_was_read(finished, tmp_path):
    for name in ("measurements.csv", "study.toml"):
        (tmp_path / name).write_bytes((finished[0] / name).read_bytes())
    readings = rows_of(finished[0] / "tests.csv")
    half = [one for one in readings if not (one["row"] == "taps" and one["seed"] == "1")]
    with (tmp_path / "tests.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, half[0].keys())
        writer.writeheader()
        writer.writerows(half)
    asked = StudyQuestion(str(tmp_path), images=96, rows=("full", "taps"), seconds=1e-6)
    assert not run_study(asked, quiet)  # the weights of one are gone, and there is no time to train it
    found = {row["split"]: row["points"] for row in rows_of(tmp_path / "differences.csv")}
    assert found["test"] == "" != found["validation"]
    assert [row["test"] for row in rows_of(tmp_path / "table.csv") if row["row"] == "taps"] == [""]
    points = [
        Point(row["row"], float(row["validation"]), float(row["validation_error"]))
        for row in rows_of(tmp_path / "table.csv")
    ]
    svg = (tmp_path / "figure-both-all.svg").read_text()
    assert svg == dots_svg("Both & all (validation accuracy, %)", points)  # of both rows, though one has been read


def test_a_pretrained_row_begins_from_the_weights_that_its_model_is_built_with(tmp_path):
    rows = "".join(
        f'[[row]]\nname = "{name}"\nworkload = "digits-convnet"\nrate = "20/20"\nrecipe = {{ pretrained = {name} }}\n'
        for name in ("true", "false")
    )
    (tmp_path / "study.toml").write_text(f'question = "?"\nseeds = 1\n{rows}')
    signs = []
    for row in work.plan_rows(work.read_study(tmp_path)):
        model = trainer.Job(row, 0, row.allocation(0), "").fresh(row.task.recipe)
        with seeded(0):
            plain = row.task.build()
        signs.append([bool((m.weight.sign() == p.weight.sign()).all()) for m, p in pairs(model, plain)])
    assert signs[0] == [True] * len(signs[0])
    assert not any(signs[1])


def pairs(model, plain):
    """Quantized layers beside those of the model that was built."""
    return [(model.get_submodule(name), plain.get_submodule(name)) for name in flexor_weights(model)]


def test_a_row_that_distils_has_a_teacher_until_the_study_is_done(tmp_path):
    rows = "".join(
        f'[[row]]\nname = "{share}"\nworkload = "digits-convnet"\nrate = "8/20"\n'
        f"recipe = {{ distillation = {share} }}\n"
        for share in (0.0, 0.5)
    )
    (tmp_path / "study.toml").write_text(f'question = "?"\nseeds = 1\nrecipe = {{ epochs = 1 }}\n{rows}')
    asked = StudyQuestion(str(tmp_path), images=96)
    assert not run_study(replace(asked, rows=("0.5",)), quiet)
    assert len(list((tmp_path / "unfinished").glob("teacher-*"))) == 1
    assert run_study(asked, quiet)
    assert list((tmp_path / "unfinished").iterdir()) == []
    first, second = rows_of(tmp_path / "measurements.csv")
    assert first["val_loss"] != second["val_loss"]


@pytest.mark.parametrize("how", ["alone", "streams", "processes"])
def test_a_teacher_that_diverges_fails_those_it_teaches(tmp_path, monkeypatch, how):
    rows = "".join(
        f'[[row]]\nname = "{name}"\nworkload = "digits-convnet"\n{what}\n'
        for name, what in (("full", "full_precision = true"), ("taught", 'rate = "8/20"'))
    )
    recipe = "recipe = { epochs = 1, distillation = 0.5 }"
    (tmp_path / "study.toml").write_text(f'question = "?"\nseeds = 3\n{recipe}\n{rows}')
    if how == "streams":
        two_at_a_time(monkeypatch)
    build, failing = trainer.Teachers.of, (1,)

    def of(self, data, recipe, seed, device):
        if seed in failing:
            raise TrainingError(f"the loss of seed {seed}'s teacher is nan")
        return build(self, data, recipe, seed, device)

    monkeypatch.setattr(trainer.Teachers, "of", of)
    if how == "processes":
        monkeypatch.setattr("flexor_search.studying.crew._Teach", TeachesNotOne)
    assert run_study(StudyQuestion(str(tmp_path), images=96, jobs=2 if how == "processes" else 1), quiet)
    lines = rows_of(tmp_path / "measurements.csv")
    failed = {(line["row"], line["seed"]): line["reason"] for line in lines if line["state"] == "failed"}
    assert failed == {("taught", "1"): "the loss of seed 1's teacher is nan"}
    assert len(lines) == 6


@dataclass(frozen=True)
class TeachesNotOne:
    """As a patch does not reach another process: a request to teach that fails there for seed 1."""

    job: trainer.Job

    def answer(self, one):
        if self.job.seed == 1:
            raise TrainingError("the loss of seed 1's teacher is nan")
        one.teach(self.job)


def test_a_short_call_saves_what_it_has_begun_within_its_seconds(finished, tmp_path, monkeypatch):
    intervals = []

    def none(models, *_, checkpoints, **__):
        intervals.append(checkpoints[0].every_seconds)
        raise work.OutOfTime

    monkeypatch.setattr(trainer, "train_together", none)
    for seconds in (20, 3600):
        assert not run_study(StudyQuestion(str(finished[0]), out=str(tmp_path), images=96, seconds=seconds), quiet)
    assert intervals == [5, trainer.CHECKPOINT_SECONDS]


def test_fewer_seeds_for_trying_out_are_another_search(tmp_path, monkeypatch):
    write_searches(tmp_path)
    places = []
    monkeypatch.setattr(searched.api, "search", lambda question, place, _: places.append((question.seeds, place.name)))
    for seeds in (1, 2, 3, 5):
        with pytest.raises(RunError, match="is missing"):
            run_study(StudyQuestion(str(tmp_path), images=64, seeds=seeds), quiet)
    assert [seeds for seeds, _ in places] == [1, 2, 3, 3]
    assert len({name for _, name in places}) == 3


def test_searches_that_are_for_no_row_that_is_wanted_wait(tmp_path, monkeypatch):
    write_searches(tmp_path)
    text = (tmp_path / "study.toml").read_text()
    (tmp_path / "study.toml").write_text(
        f"{text}{text[text.index('[[row]]') :].replace('ours', 'more').replace('= 2', '= 3')}"
    )
    asked_for = []
    monkeypatch.setattr(
        searched.api, "search", lambda question, *_: asked_for.append((question.trials, question.budget))
    )
    with pytest.raises(RunError, match="is missing"):
        run_study(StudyQuestion(str(tmp_path), images=64, rows=("more 0.6",)), quiet)
    assert asked_for == [(3, "0.4bpw,0.6bpw")]


def write_searches(folder):
    rows = [
        f'[[row]]\nname = "ours {bits}"\nworkload = "digits-convnet"\nsearch = "{bits}bpw"\ntrials = 2\n'
        for bits in (0.4, 0.6)
    ]
    (folder / "study.toml").write_text(f'question = "?"\nseeds = 1\nrecipe = {{ epochs = 1 }}\n{"".join(rows)}')
    return StudyQuestion(str(folder), images=64, seeds=1, jobs=1)


def test_rows_that_are_searched_share_one_run_of_all_their_budgets(tmp_path):
    asked, told = write_searches(tmp_path), []
    assert run_study(asked, told.append)
    assert sum("searching at 0.4bpw,0.6bpw" in text for text in told) == 1
    told.clear()
    assert run_study(asked, told.append)
    assert not any("searching" in text for text in told)
    assert "(The runs in searches/ had read it for their own reports.)" in (tmp_path / "table.md").read_text()
    for found, most in zip(rows_of(tmp_path / "table.csv"), (0.4, 0.6), strict=True):
        assert most - 0.2 < float(found["bits_per_weight"]) <= most
        assert float(found["test"]) > 0


def test_time_that_is_over_ends_a_search_between_two_trainings(tmp_path, monkeypatch):
    asked, told = write_searches(tmp_path), []

    def over(self):
        if list(tmp_path.glob("searches/*/measurements.csv")):
            raise work.OutOfTime

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Deadline, "check", over)
        assert not run_study(asked, told.append)
    assert told[-1] == "the time is over; the same command goes on"
    (lines,) = (rows_of(path) for path in tmp_path.glob("searches/*/measurements.csv"))
    assert len(lines) == 1
    assert run_study(asked, quiet)
    (after,) = (rows_of(path) for path in tmp_path.glob("searches/*/measurements.csv"))
    assert after[0] == lines[0]
    assert len({(line["digest"], line["phase"], line["seed"]) for line in after}) == len(after)


@pytest.mark.parametrize("name", ["paper-table-1", "paper-table-2"])
def test_the_tables_of_cifar_10_run_from_end_to_end(tmp_path, name, unmeasured):
    data = write_cifar10(tmp_path / "data", per_batch=10)
    out = tmp_path / "out"
    assert run_study(StudyQuestion(str(STUDIES / name), str(out), str(data), epochs=1, images=16, seeds=1), quiet)
    table = rows_of(out / "table.csv")
    assert all(row["seeds"] == "1" and row["test"] for row in table)
    assert any(row["published"] and row["certainty"] == "second-hand" for row in table)


def test_the_table_of_imagenet_runs_from_end_to_end(tmp_path, monkeypatch, unmeasured):
    monkeypatch.setattr(image_folder, "SIDE", 32)
    data = write_imagenet(tmp_path / "data", train=6, val=2)
    out = tmp_path / "out"
    asked = StudyQuestion(str(STUDIES / "paper-table-3"), str(out), str(data), epochs=1, images=8, seeds=1)
    assert run_study(asked, quiet)
    assert all(row["seeds"] == "1" and row["test"] for row in rows_of(out / "table.csv"))


def test_the_figures_of_mnist_run_from_end_to_end(tmp_path, unmeasured):
    data, out = write_idx_files(tmp_path / "data", train=40), tmp_path / "out"
    asked = StudyQuestion(str(STUDIES / "paper-mnist"), str(out), str(data), epochs=1, images=8, seeds=1)
    assert run_study(asked, quiet)
    table = rows_of(out / "table.csv")
    assert len(table) == 19
    assert all(row["seeds"] == "1" and row["test"] for row in table)


def test_a_wrong_data_folder_is_told_and_nothing_is_lost(finished, tmp_path):
    with pytest.raises(DataError, match="does not hold the files data_batch_1"):
        run_study(StudyQuestion(str(STUDIES / "paper-table-1"), str(tmp_path / "out"), str(tmp_path)), quiet)


def test_a_folder_of_results_in_use_is_refused(finished, tmp_path):
    with held(tmp_path), pytest.raises(RunError, match="is in use by another process"):
        run_study(StudyQuestion(str(finished[0]), out=str(tmp_path)), quiet)


def test_damaged_results_are_refused_and_named(tmp_path):
    (tmp_path / "measurements.csv").write_text("key,row\na,b\n")
    with pytest.raises(RunError, match=r"measurements\.csv is damaged"):
        Book(tmp_path)


@pytest.mark.parametrize("field", ["epochs", "images", "seeds", "seconds", "jobs"])
def test_negative_numbers_are_refused(field):
    with pytest.raises(UsageError, match=f"{field}: must not be negative"):
        StudyQuestion("x", **{field: -1})


def test_of_a_finished_search_its_summary_and_allocations_are_enough(tmp_path):
    asked, told = write_searches(tmp_path), []
    assert run_study(asked, quiet)
    (place,) = tmp_path.glob("searches/*")
    for path in place.iterdir():
        if path.is_file() and path.name != "summary.json" and not path.name.startswith("allocation-"):
            path.unlink()
    assert run_study(asked, told.append)
    assert not any("searching" in text for text in told)
    (place / "allocation-0.6bpw.json").unlink()
    with pytest.raises(RunError, match=r"allocation-0\.6bpw\.json is missing from a finished search; delete"):
        run_study(asked, quiet)
    (place / "summary.json").write_text("{")
    with pytest.raises(RunError, match=r"summary\.json is damaged"):
        run_study(asked, quiet)


def test_budgets_are_told_apart_by_their_value_and_searched_for_all_rows(tmp_path):
    rows = "".join(
        f'[[row]]\nname = "{name}"\nworkload = "digits-convnet"\nsearch = "{budget}"\ntrials = 2\n'
        for name, budget in (("a", "0.5bpw"), ("b", "0.50 bpw"), ("c", "0.4bpw"))
    )
    (tmp_path / "study.toml").write_text(f'question = "?"\nseeds = 1\nrecipe = {{ epochs = 1 }}\n{rows}')
    told = []
    assert not run_study(StudyQuestion(str(tmp_path), images=64, seeds=1, jobs=1, rows=("b",)), told.append)
    assert sum("searching at 0.5bpw,0.4bpw" in text for text in told) == 1
    told.clear()
    assert run_study(StudyQuestion(str(tmp_path), images=64, seeds=1, jobs=1), told.append)
    assert not any("searching" in text for text in told)
