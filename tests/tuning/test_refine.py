"""Ties that were found give way only where the measurements say so; ties of a file never do."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from planning.strategies import layer, model_of
from torch import nn

from flexor_search.planning import make_space
from flexor_search.planning.space_file import SpaceFile
from flexor_search.planning.ties import found_ties, opened, refined
from flexor_search.runs import SEARCH
from flexor_search.runs.sensitivity import FILE, Sensitivity, SharedScore, identity, is_of_network, read_sensitivity
from flexor_search.tuning import SHARED, Observation, SearchPlan, fit_accuracy_model, search, shared_scores
from flexor_search.tuning.fitted import observations
from flexor_search.tuning.refine import own_rates, told
from flexor_search.tuning.shared_scores import SharedPlan, first_profiles, proposed_profiles
from flexor_search.tuning.strategy import choose_course, follow, search_by
from flexor_search.tuning.supernet_strategy import sizes, supernet_search

from .models import RECIPE, FakeMeasurer, Recorder, budgets, measurer_in, space_of
from .test_supernet_strategy import PHASES

MODEL = model_of(*(layer(f"blocks.{i}", 40, 40) for i in range(6)), *(layer(f"head.{i}", 20, 40) for i in range(2)))
SPACE = opened(make_space(MODEL, SpaceFile.model_validate({"keep": [], "ties": "found"})))
GROUPS = found_ties(MODEL.layers)
BUDGET = budgets("0.5bpw")


def fitted(slopes, count, noise, seed=0):
    random = np.random.default_rng(seed)
    profiles = [tuple(int(i) for i in random.integers(0, 20, len(slopes))) for _ in range(count)]
    values = [sum(s * math.log((i + 1) / 20) for s, i in zip(slopes, p, strict=True)) for p in profiles]
    return fit_accuracy_model(
        SPACE,
        [
            Observation(SPACE.allocation(p), 0.01 * value + noise * random.standard_normal(), SHARED)
            for p, value in zip(profiles, values, strict=True)
        ],
    )


def test_a_layer_that_matters_three_times_as_much_is_let_go():
    found = own_rates(fitted([1, 1, 1, 1, 1, 3, 0.5, 0.5], 200, 0.003), GROUPS)
    assert max(found, key=lambda name: found[name]) == "blocks.5"
    assert len(found) <= 3


def test_one_that_matters_less_is_let_go_too_and_known_by_its_sign():
    found = own_rates(fitted([2, 2, 0.2, 2, 2, 2, 0.5, 0.5], 200, 0.003), GROUPS)
    assert found["blocks.2"] < -3
    assert "blocks.2 gets a rate of its own: it matters less" in told(found, GROUPS)


@pytest.mark.parametrize("seed", range(3))
def test_layers_that_are_alike_stay_tied_for_the_most_part(seed):
    assert len(own_rates(fitted([1] * 6 + [0.5] * 2, 120, 0.01, seed), GROUPS)) <= 1


@pytest.mark.parametrize("noise", [0.003, 0.03])
def test_a_trend_from_the_first_to_the_last_layer_of_every_stage_unties_nothing(noise):
    slopes = [1.3 - 0.12 * i for i in range(6)] + [1.3, 0.7]
    assert len(own_rates(fitted(slopes, 150, noise), GROUPS)) <= 1


def test_few_values_untie_nothing():
    assert own_rates(fitted([1, 1, 1, 1, 1, 3, 0.5, 0.5], 6, 0.02), GROUPS) == {}


@pytest.mark.parametrize("count", [0, 1, 2, 9])
def test_what_is_told_is_one_line_that_names_the_layer_that_differs_most(count):
    line = told({f"layer2.{i}.conv1": (-1) ** i * (3.5 + i) for i in range(count)}, [["a", "b"], ["c", "d", "e"]])
    assert "\n" not in line
    assert len(line) < 200
    assert ("5 layers stay tied" in line) == (count == 0)
    if count:
        assert line.startswith(f"layer2.{count - 1}.conv1 gets a rate of its own: it matters ")


class Alike(nn.Module):
    """Three like layers in `blocks`, two like layers in `tail`."""

    def __init__(self):
        super().__init__()
        self.flatten = nn.Flatten()
        self.first = nn.Linear(64, 40)
        self.blocks = nn.ModuleList(nn.Linear(40, 40) for _ in range(3))
        self.tail = nn.ModuleList(nn.Linear(40, 40) for _ in range(2))
        self.last = nn.Linear(40, 10)

    def forward(self, images):
        x = self.first(self.flatten(images)).relu()
        for one in [*self.blocks, *self.tail]:
            x = x + one(x).relu()
        return self.last(x)


RATES = {"default": {"rates": ["4/20", "8/20", "12/20", "16/20", "20/20"]}, "keep": ["first", "last"]}
FOUND = space_of(Alike, **RATES, ties="found", tie=[{"match": "tail.*"}])
BLOCKS, TAIL = tuple(f"blocks.{i}" for i in range(3)), ("tail.0", "tail.1")


def worth(allocation, **slopes):
    """blocks.1 matters four times as much as the layers like it, and tail.1 four times as much as tail.0."""
    rates = {"blocks.0": 1, "blocks.1": 4, "blocks.2": 1, "tail.0": 1, "tail.1": 4} | slopes
    return sum(slope * math.log(allocation.layers[name].rate) for name, slope in rates.items())


def made_scores(space, loss, fingerprint=None):
    """As if a shared network had scored what it would be asked for."""
    plan, free = SharedPlan(space, sizes(plan_for(space)), 0, 1.0), opened(space)
    random = np.random.default_rng(0)
    scores = tuple(
        SharedScore(p, 0.9, loss(free.allocation(p)) + 0.003 * random.standard_normal()) for p in first_profiles(plan)
    )
    return Sensitivity(fingerprint or {"seed": "0"}, {"train_seconds": 1.0}, scores, complete=True)


def plan_for(space, trials=8):
    return SearchPlan(space, BUDGET, trials, seed=0, timeout_seconds=1e9)


def groups(space):
    return [variable.layers for variable in space.variables]


def rates_of(named, names):
    """The distinct rates that these layers have in each allocation."""
    return [{allocation.layers[name].rate for name in names} for allocation in named]


def test_one_of_three_like_layers_is_split_off_and_the_rest_stays_tied(tmp_path):
    measurer, observer = FakeMeasurer(tmp_path / "x", lambda a: 0.9 + worth(a) / 200), Recorder()
    scores = made_scores(FOUND, lambda a: 1 - worth(a) / 40)
    (named,) = supernet_search(plan_for(FOUND), scores, measurer, observer).values()
    lines = [text for (text,) in observer.of("message") if "a rate of its own" in text]
    assert len(lines) == 1
    assert lines[0].startswith("blocks.1 gets a rate of its own: it matters more than those like it, by ")
    trained = [candidate.allocation for candidate in [*measurer.trained, *named]]
    assert all(len(rates) == 1 for rates in rates_of(trained, ["blocks.0", "blocks.2"]))
    assert all(len(rates) == 1 for rates in rates_of(trained, TAIL))  # whatever the scores say
    best = named[1].allocation
    assert best.layers["blocks.1"].rate > best.layers["blocks.0"].rate
    own = json.loads((measurer.run.folder / FILE).read_text())["own_rates"]
    assert list(own) == ["blocks.1"]
    assert groups(refined(FOUND, own)) == [("blocks.0", "blocks.2"), ("blocks.1",), TAIL]


def test_layers_that_matter_alike_stay_tied_and_that_is_told(tmp_path):
    measurer, observer = FakeMeasurer(tmp_path / "x", lambda a: 0.9 + worth(a) / 200), Recorder()
    scores = made_scores(FOUND, lambda a: 1 - worth(a, **{"blocks.1": 1}) / 40)
    (named,) = supernet_search(plan_for(FOUND), scores, measurer, observer).values()
    assert sum("3 layers stay tied as found" in text for (text,) in observer.of("message")) == 1
    trained = [candidate.allocation for candidate in [*measurer.trained, *named]]
    assert all(len(rates) == 1 for rates in rates_of(trained, BLOCKS))


def test_the_best_allocation_is_the_best_of_the_space_with_the_ties_that_stay():
    free = opened(FOUND)
    model = fit_accuracy_model(free, observations(free, made_scores(FOUND, lambda a: 1 - worth(a) / 40)))
    space = refined(FOUND, ["blocks.1"])
    menus = [range(len(variable.menu)) for variable in space.variables]
    every = [space.allocation(p) for p in np.ndindex(*map(len, menus)) if BUDGET[0].fits(space.allocation(p))]
    for one in (model, model.draw(3)):
        found = one.choosing_from(space).best_under(BUDGET[0])
        term_of = dict(zip([variable.name for variable in free.variables], one.terms, strict=True))
        curves = [term_of["blocks.0"] + term_of["blocks.2"], term_of["blocks.1"], term_of["tail.0+tail.1"]]
        rising = [np.maximum.accumulate(curve) for curve in curves]
        sums = [sum(curve[i] for curve, i in zip(rising, space.profile(a), strict=True)) for a in every]
        assert sums[every.index(found)] == pytest.approx(max(sums), abs=1e-3 * np.ptp(sums))
        assert one.choosing_from(space).predict(every)[0] == pytest.approx(one.predict(every)[0])


def test_scores_are_of_the_opened_space_half_of_the_random_ones_tied():
    space = space_of(Alike, keep=["first", "last"], ties="found")
    plan = SharedPlan(space, sizes(plan_for(space)), 0, 1.0)
    assert len(plan.opened.variables) == 5 > len(space.variables) == 2
    profiles = first_profiles(plan)
    assert len(set(profiles)) == len(profiles) == shared_scores.SCORES
    tied = [p for p in profiles if len(set(p[:3])) == 1 and len(set(p[3:])) == 1]
    assert 0.3 < len(tied) / len(profiles) < 0.7
    model = fit_accuracy_model(plan.opened, observations(plan.opened, made_scores(space, lambda a: 1 - worth(a) / 40)))
    proposed = proposed_profiles(plan, model)
    assert any(p[1] > p[0] for p in proposed)
    assert any(len(set(p[:3])) == 1 for p in proposed)


def test_a_resumed_run_comes_to_the_same_split_without_a_shared_network(tmp_path, monkeypatch):
    measurer = measurer_in(tmp_path / "x", Alike, replace(RECIPE, epochs=1))
    scores = made_scores(FOUND, lambda a: 1 - worth(a) / 40, identity(measurer.run.fingerprint))
    scores.write(measurer.run.folder)
    monkeypatch.setattr(shared_scores, "train_shared", None)
    told_lines = []
    for trials in (2, 3):
        observer = Recorder()
        course = choose_course("supernet", plan_for(FOUND), trials, PHASES, measurer)
        course, found = follow(course, measurer, observer)
        search_by(course, found, measurer, observer)
        assert len(measurer.run.measurements) == trials
        told_lines.append([text for (text,) in observer.of("message") if "a rate of its own" in text])
        # more trainings, or another fit, do not change what was decided
        monkeypatch.setattr("flexor_search.tuning.supernet_strategy.own_rates", lambda *_: {"blocks.0": 9.0})
    assert told_lines[0] == told_lines[1] != []
    kept = read_sensitivity(measurer.run.folder, opened(FOUND), measurer.run.fingerprint)
    assert list(kept.own_rates) == ["blocks.1"]
    layers = {row["layer"] for row in kept.model["sensitivities"]}
    assert layers == {*BLOCKS, "+".join(TAIL)}


def test_the_shared_network_itself_is_of_the_opened_space(tmp_path):
    measurer, observer = measurer_in(tmp_path / "x", Alike, replace(RECIPE, epochs=12)), Recorder()
    course = choose_course("supernet", plan_for(FOUND), 2, PHASES, measurer)
    course, found = follow(course, measurer, observer)
    assert course.name == "supernet"
    assert {len(score.profile) for score in found.scores} == {len(opened(FOUND).variables)} == {4}
    named = search_by(course, found, measurer, observer)
    assert all(BUDGET[0].fits(candidate.allocation) for candidate in named[BUDGET[0].text])


def test_the_direct_strategy_keeps_ties_as_they_are(tmp_path):
    measurer = FakeMeasurer(tmp_path / "x", lambda a: 0.9 + worth(a) / 200)
    search(plan_for(FOUND, trials=8), measurer, Recorder())
    assert {m.phase for m in measurer.run.measurements} == {SEARCH}
    trained = [candidate.allocation for candidate in measurer.trained]
    assert len(trained) == 8
    assert all(len(rates) == 1 for names in (BLOCKS, TAIL) for rates in rates_of(trained, names))
    assert not is_of_network(measurer.run.folder)
