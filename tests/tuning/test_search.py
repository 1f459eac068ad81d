"""The direct strategy: baselines, then proposals, until trials or time are used up; interrupted, it goes on."""

import json
import random
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from flexor_search.planning import Budget
from flexor_search.runs import DONE, FAILED, SEARCH, STOPPED, Run
from flexor_search.runs.sensitivity import FILE, Sensitivity, is_of_network, read_sensitivity
from flexor_search.training import ProfileScorer, Score
from flexor_search.tuning import SearchPlan, search, time_plan
from flexor_search.tuning.accuracy_model import fit_accuracy_model
from flexor_search.tuning.direct import best_so_far
from flexor_search.tuning.fitted import model_of_run, trainings
from flexor_search.tuning.proposals import baselines
from flexor_search.tuning.rungs import halving
from flexor_search.tuning.time_plan import scoring_seconds

from .models import RECIPE, FakeMeasurer, Recorder, budgets, measured, measurer_in, small_net, space_of
from .test_study import study_of

SPACE = space_of(keep=[])
time_plan_module = sys.modules["flexor_search.tuning.time_plan"]  # the package offers its function by that name


def accuracy(allocation):
    return round(0.5 + 0.4 * random.Random(allocation.digest).random(), 6)


def plan_of(text="0.7bpw", trials=12, space=SPACE, timeout=1e9):
    return SearchPlan(space, budgets(text), trials, 0, timeout)


def searched(folder, plan, observer=None, **fake):
    measurer = FakeMeasurer(folder, accuracy, **fake)
    search(plan, measurer, observer or Recorder())
    return measurer


def test_baselines_come_first_then_proposals_up_to_the_target(tmp_path):
    plan, observer = plan_of(), Recorder()
    measurer = searched(tmp_path, plan, observer)
    found, first = measurer.run.measurements, baselines(plan)
    assert [m.digest for m in found[: len(first)]] == [c.allocation.digest for c in first]
    assert {m.kind for m in found[len(first) :]} == {"proposed"}
    assert len(found) == len({m.digest for m in found}) == plan.trials
    assert {(m.phase, m.seed) for m in found} == {(SEARCH, plan.seed)}
    for m, candidate in zip(found, measurer.trained, strict=True):
        assert Budget.parse(m.budget).fits(candidate.allocation)
    assert observer.of("phase") == [(SEARCH, plan.trials)]
    assert [m for m, _ in observer.of("measured")] == list(found)
    assert observer.of("message") == []
    assert len(study_of(measurer.run).trials) == plan.trials


@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("after", [0, 1, 5, 6, 9, 11])
def test_an_interrupted_search_goes_on_as_if_nothing_had_happened(tmp_path, after, torn):
    plan = plan_of("0.7bpw,0.4bpw")
    whole = searched(tmp_path / "whole", plan).run.measurements

    class Interrupted(FakeMeasurer):
        def made(self, trial):
            if len(self.trained) == after:
                raise KeyboardInterrupt
            return super().made(trial)

    with pytest.raises(KeyboardInterrupt):
        search(plan, Interrupted(tmp_path / "run", accuracy), Recorder())
    if torn and after:
        path = tmp_path / "run" / "measurements.csv"
        path.write_bytes(path.read_bytes()[:-5])
    kept = len(Run.open(tmp_path / "run").measurements)
    assert kept == after - (torn and after > 0)
    observer = Recorder()
    resumed = searched(tmp_path / "run", plan, observer)
    assert resumed.run.measurements == whole
    assert len(resumed.trained) == plan.trials - kept
    assert [m for m, _ in observer.of("measured")] == list(whole)
    assert len(study_of(resumed.run).trials) == plan.trials


def test_a_larger_target_goes_on_and_measures_nothing_twice(tmp_path):
    searched(tmp_path, plan_of(trials=6))
    resumed = searched(tmp_path, plan_of("0.7bpw,0.3bpw", trials=20))
    found = resumed.run.measurements
    assert len(found) == len({m.digest for m in found}) == 20
    assert len(resumed.trained) == 14
    assert {c.allocation.digest for c in baselines(plan_of("0.7bpw,0.3bpw", trials=20))} <= {m.digest for m in found}


def test_trials_that_another_budget_has_used_up_are_told(tmp_path):
    first, again, observer = Recorder(), Recorder(), Recorder()
    searched(tmp_path, plan_of(trials=12), first)
    searched(tmp_path, plan_of(trials=12), again)
    assert first.of("message") == again.of("message") == []
    searched(tmp_path, plan_of("0.3bpw", trials=12), observer)
    ((text,),) = observer.of("message")
    assert text.startswith("the 12 trials are used up by what was trained for other budgets; a larger --trials")


def test_when_the_time_is_up_the_search_ends_and_says_so(tmp_path):
    observer = Recorder()
    measurer = searched(tmp_path, plan_of(timeout=0.0), observer)
    assert len(measurer.run.measurements) == 1  # never nothing
    assert observer.of("message") == [("the time for the search is up after 1 of 12 trials",)]


def test_time_spent_before_counts_and_more_of_it_lets_the_search_go_on(tmp_path):
    first = searched(tmp_path, plan_of(trials=8))
    assert len(first.run.measurements) == 8
    (tmp_path / "clock.json").write_text('{"search_seconds": {"": 600.0}}')
    observer = Recorder()
    ended = searched(tmp_path, plan_of(timeout=500.0), observer)
    assert ended.trained == []
    assert observer.of("message") == [("the time for the search is up after 8 of 12 trials",)]
    searched(tmp_path, plan_of(timeout=5000.0))
    assert len(Run.open(tmp_path).measurements) == 12
    assert json.loads((tmp_path / "clock.json").read_text())["search_seconds"][""] >= 600.0


def test_a_space_that_is_used_up_ends_the_search_and_says_so(tmp_path):
    observer, space = Recorder(), space_of(default={"rates": ["4/20", "10/20", "16/20"]})
    measurer = searched(tmp_path, plan_of("0.55bpw", 40, space), observer)
    found = {m.digest for m in measurer.run.measurements}
    every = [space.allocation((i, j)) for i in range(3) for j in range(3)]
    assert found >= {allocation.digest for allocation in every if allocation.bits_per_weight <= 0.55}
    count = len(measurer.run.measurements)
    assert count < 40
    assert observer.of("message") == [
        (f"nothing new to measure was found under any budget; the search ends after {count} trials",)
    ]


def test_failures_count_as_trials_and_are_never_the_best(tmp_path):
    observer = Recorder()
    measurer = searched(
        tmp_path,
        plan_of(),
        observer,
        state=lambda allocation: FAILED if int(allocation.digest, 16) % 2 else DONE,
    )
    states = [m.state for m in measurer.run.measurements]
    assert len(states) == 12
    assert set(states) == {DONE, FAILED}
    best = max(
        (m for m in measurer.run.measurements if m.state == DONE and m.bits_per_weight <= 0.7),
        key=lambda m: m.val_accuracy,
    )
    last = observer.of("measured")[-1][1]
    assert last == f"{100 * best.val_accuracy:.2f} % at {best.bits_per_weight:g} bpw"


def test_the_best_so_far_fits_and_is_finished():
    space, budget = SPACE, budgets("0.7bpw")[0]
    rows = [
        measured(space.dearest, 0, 0.99),
        measured(space.cheapest, 1, 0.42),
        measured(space.allocation((3, 3, 3, 3)), 2, state=FAILED),
    ]
    assert best_so_far(budget, space, rows) == f"42.00 % at {space.cheapest.bits_per_weight:g} bpw"
    assert best_so_far(budget, space, rows[:1]) == ""


def test_a_real_search_of_real_trainings(tmp_path):
    measurer, plan = measurer_in(tmp_path), plan_of("0.7bpw", 6, space_of())
    search(plan, measurer, Recorder())
    found = measurer.run.measurements
    assert [m.state for m in found] == [DONE] * 6
    assert [m.kind for m in found][-2:] == ["proposed"] * 2
    assert all(m.bits_per_weight <= 0.7 for m in found)
    for m in found:
        assert measurer.run.trained_path(m.number).stat().st_size == m.file_bytes


def test_the_time_plan_counts_the_trainings_of_both_phases(tmp_path):
    measurer = measurer_in(tmp_path)
    short, full = time_plan(measurer, SPACE.dearest, 7, 8)
    assert (short.name, short.trainings, short.images, short.epochs) == ("search", 7, 200, RECIPE.search_epochs)
    assert (full.name, full.trainings, full.images, full.epochs) == ("confirm", 8, 200, RECIPE.epochs)
    assert full.seconds_each == pytest.approx(2 * short.seconds_each)
    assert short.seconds == 7 * short.seconds_each > 0
    assert measurer.run.measurements == ()  # timing is no measurement


def plain_net():
    """Without batch norm, so that a score needs no images of training."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 40), nn.Linear(40, 10))


@pytest.mark.parametrize(("build", "statistics"), [(small_net, 4 * 16), (plain_net, 0)])
def test_scoring_takes_as_long_as_its_images_do(tmp_path, monkeypatch, build, statistics):
    measurer, clock = measurer_in(tmp_path, build, replace(RECIPE, batch_size=16)), [0.0]

    class Scorer(ProfileScorer):
        def __call__(self, profile):
            clock[0] += 0.001 * (sum(map(len, self._statistics)) + sum(map(len, self._images)))
            return super().__call__(profile)

    monkeypatch.setattr(time_plan_module.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(time_plan_module, "ProfileScorer", Scorer)
    for timed in (1000, 30):  # all of them, and fewer
        monkeypatch.setattr(time_plan_module, "EVALUATION_BATCH", timed)
        assert scoring_seconds(measurer, space_of(build)) == pytest.approx(0.001 * (statistics + 80))


@pytest.mark.parametrize("name", ["ProfileScorer", "shared_model"])
def test_where_the_memory_does_not_last_scoring_says_nothing(tmp_path, monkeypatch, name):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(time_plan_module, name, full)
    assert scoring_seconds(measurer_in(tmp_path), SPACE) == 0


def test_proposals_are_halved_and_baselines_are_not(tmp_path):
    plan, rules = replace(plan_of(trials=16), ahead=2), {}
    measurer = FakeMeasurer(tmp_path / "x", accuracy, replace(RECIPE, epochs=4, search_epochs=4))
    made = measurer.made

    def seen(trial):
        rules[trial.candidate.allocation.digest] = trial.weak
        found = made(trial)
        return replace(found, rungs=f"2:{found.val_accuracy} 3:{found.val_accuracy}")

    measurer.made = seen
    search(plan, measurer, Recorder())
    done = [replace(m, rungs=f"2:{m.val_accuracy} 3:{m.val_accuracy}") for m in measurer.run.measurements]
    assert {m.kind == "proposed" for m in done} == {True, False}
    for number, m in enumerate(done):
        known = done[: max(0, number - 2)]
        rule = rules[m.digest]
        assert rule == (halving(known, m.bits_per_weight, 4) if m.kind == "proposed" else None)
    last = rules[done[-1].digest]
    assert set(last.rivals) == {2, 3}
    assert last(2, Score(0.0, 1.0)) == (len(last.rivals[2]) >= 4)


def test_what_the_trainings_say_of_each_layer_is_written_down(tmp_path):
    plan = plan_of()
    measurer = searched(tmp_path, plan)
    told = read_sensitivity(measurer.run.folder, SPACE, measurer.run.fingerprint)
    assert (told.scores, told.network, told.model["values"]) == ((), {}, {"trained": len(measurer.run.measurements)})
    assert {row["layer"] for row in told.model["sensitivities"]} == {v.name for v in SPACE.variables}
    assert not is_of_network(measurer.run.folder)
    before = (tmp_path / FILE).read_bytes()
    search(plan, measurer, Recorder())
    assert (tmp_path / FILE).read_bytes() == before
    (tmp_path / FILE).write_text("{")
    assert not is_of_network(measurer.run.folder)
    search(plan, measurer, Recorder())
    assert (tmp_path / FILE).read_bytes() == before


def test_what_was_stopped_counts_in_the_table_and_in_predictions(tmp_path):
    measurer = searched(tmp_path, plan_of(), state=lambda one: STOPPED if int(one.digest[0], 16) < 5 else DONE)
    run = measurer.run
    assert {m.state for m in run.measurements} == {DONE, STOPPED}
    told = read_sensitivity(run.folder, SPACE, run.fingerprint).model
    assert told["values"] == {"trained": len(run.measurements)}
    predicting = model_of_run(SPACE, run).to_json()
    assert [row["loss"] for row in told["sensitivities"]] == pytest.approx(
        [row["loss"] for row in predicting["sensitivities"]]
    )
    finished = fit_accuracy_model(SPACE, trainings(SPACE, run.measurements)).to_json()
    assert finished["level"] != pytest.approx(predicting["level"], abs=1e-9)


def test_a_table_of_another_search_is_left_alone(tmp_path):
    measurer, observer = FakeMeasurer(tmp_path, accuracy), Recorder()
    Sensitivity({"model": "another"}).write(tmp_path)
    before = (tmp_path / FILE).read_bytes()
    search(plan_of(), measurer, observer)
    assert (tmp_path / FILE).read_bytes() == before
    assert any("is of another search" in text for (text,) in observer.of("message"))
