"""The supernet strategy: one shared training answers every budget, whatever interrupts it, and says when it cannot."""

import itertools
import json
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from flexor_search.errors import RunError
from flexor_search.planning import GAMMAS, nearest_uniform, size_rule
from flexor_search.runs import CONFIRM, DONE, FAILED, SEARCH
from flexor_search.runs.sensitivity import FILE, Sensitivity, SharedScore, read_sensitivity
from flexor_search.training import SharedNetworkError
from flexor_search.tuning import SearchPlan, choose, confirm, shared_scores, strategy
from flexor_search.tuning.accuracy_model import fit_accuracy_model
from flexor_search.tuning.clock import SearchClock
from flexor_search.tuning.fitted import model_of_run, observations
from flexor_search.tuning.observer import Phase
from flexor_search.tuning.proposals import ladder, rule_candidate
from flexor_search.tuning.shared_scores import SharedPlan, first_profiles
from flexor_search.tuning.strategy import choose_course, follow, search_by
from flexor_search.tuning.supernet_strategy import (
    TRIALS,
    TRIALS_FOR_MANY,
    Tried,
    candidates,
    finalists,
    leads_of_rules,
    sizes,
    supernet_search,
)

from .models import RECIPE, FakeMeasurer, Recorder, budgets, measurer_in, space_of

SPACE = space_of(default={"rates": ["4/20", "8/20", "12/20", "16/20", "20/20"]})
BUDGET = budgets("0.6bpw")
SEVERAL = budgets("0.3bpw,0.42bpw,0.6bpw,0.8bpw,1.0bpw")
LEARNS = replace(RECIPE, epochs=10)
PHASES = (Phase(SEARCH, 40, 200, 1, 1.0), Phase(CONFIRM, 12, 200, 2, 2.0))


@pytest.fixture(autouse=True)
def known_cost(monkeypatch):
    """A score takes 4 ms, whatever this machine does."""
    monkeypatch.setattr(strategy, "scoring_seconds", lambda measurer, space: 0.004)


def plan_for(space=SPACE, asked=BUDGET, trials=8):
    return SearchPlan(space, asked, trials, seed=0, timeout_seconds=1e9)


def course_for(measurer, asked="supernet", plan=None, trials_asked=8):
    return choose_course(asked, plan or plan_for(), trials_asked, PHASES, measurer)


def made_scores(space, loss, fingerprint=None):
    """As if a shared network had given every allocation this loss."""
    plan = SharedPlan(space, budgets("0.5bpw"), 0, 1.0)
    scores = tuple(SharedScore(p, 0.9, loss(space.allocation(p))) for p in first_profiles(plan))
    return Sensitivity(fingerprint or {"seed": "0"}, {"train_seconds": 1.0}, scores, complete=True)


def many_layers():
    widths = (40, 40, 100, 60, 200, 40, 80, 40, 20)
    return nn.Sequential(*(nn.Linear(a, b) for a, b in itertools.pairwise(widths)))


def worth(allocation):
    """Early layers matter most: a made truth that no rule of thumb knows."""
    named = [spec for spec in allocation.specs if not spec.is_kept]
    return sum(math.log(spec.rate) / (i + 1) for i, spec in enumerate(named))


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A whole route up to the finalists, on few digits."""
    torch.set_num_threads(1)
    measurer, observer = measurer_in(tmp_path_factory.mktemp("run") / "x", recipe=LEARNS), Recorder()
    course, found = follow(course_for(measurer), measurer, observer)
    named = search_by(course, found, measurer, observer)
    return measurer, observer, course, named


def test_one_shared_training_leads_to_finalists_that_fit(searched):
    measurer, observer, course, named = searched
    (chosen,) = named.values()
    assert all(BUDGET[0].fits(candidate.allocation) for candidate in chosen)
    assert chosen[0].kind == "uniform"
    digests = {candidate.allocation.digest for candidate in chosen}
    for gamma in GAMMAS:
        assert size_rule(SPACE, BUDGET[0], gamma).digest in digests
    assert len(measurer.run.measurements) == course.plan.trials == 8
    assert {m.phase for m in measurer.run.measurements} == {SEARCH}
    told = read_sensitivity(measurer.run.folder, SPACE, measurer.run.fingerprint)
    assert len(told.scores) == SPACE.size == 25
    assert told.network["training_equivalents"] > 0
    rows = told.model["sensitivities"]
    assert {(row["layer"], row["label"]) for row in rows} == {
        (variable.name, spec.label) for variable in SPACE.variables for spec in variable.menu
    }
    assert not list((measurer.run.folder / "trained").glob("unfinished-*"))
    assert any("scored in" in text for (text,) in observer.of("message"))


def test_the_file_says_what_the_model_of_the_run_predicts(searched):
    run = searched[0].run
    told = json.loads((run.folder / FILE).read_text())
    loss = {(row["layer"], row["label"]): row["loss"] for row in told["table"]}
    model = model_of_run(SPACE, run)
    for profile in ((0, 0), (1, 3), (4, 4)):
        entries = zip(SPACE.variables, profile, strict=True)
        expected = told["model"]["level"] - sum(loss[v.name, v.menu[index].label] for v, index in entries)
        additive = model.posterior.offset + sum(term[i] for term, i in zip(model.terms, profile, strict=True))
        assert additive == pytest.approx(expected, abs=1e-6)
    assert model.has_interactions == told["model"]["interactions"]


def test_a_run_without_measurements_predicts_nothing(tmp_path):
    run = measurer_in(tmp_path / "x").run
    with pytest.raises(RunError, match="is fitted to was measured; resume it first"):
        model_of_run(SPACE, run)


def test_a_later_budget_is_answered_without_the_shared_network(searched, monkeypatch):
    measurer = searched[0]
    monkeypatch.setattr(shared_scores, "train_shared", None)
    observer, plan = Recorder(), plan_for(asked=budgets("0.4bpw"))
    course = course_for(measurer, "auto", plan)
    assert "as this run was begun" in course.why
    before = len(measurer.run.measurements)
    course, found = follow(course, measurer, observer)
    named = search_by(course, found, measurer, observer)
    assert all(budgets("0.4bpw")[0].fits(candidate.allocation) for candidate in named["0.4bpw"])
    assert len(measurer.run.measurements) <= before + 8
    again = len(measurer.run.measurements)
    search_by(course, found, measurer, observer)
    assert len(measurer.run.measurements) == again  # all of it is looked up


def test_a_run_cut_off_while_scoring_trains_no_second_network(tmp_path, monkeypatch):
    whole, cut = (measurer_in(tmp_path / name, recipe=LEARNS) for name in ("whole", "cut"))
    expected = follow(course_for(whole), whole, Recorder())[1]
    calls = []

    class Cut(shared_scores.ProfileScorer):
        def __call__(self, profile):
            calls.append(profile)
            if len(calls) == 9:
                raise KeyboardInterrupt
            return super().__call__(profile)

    with monkeypatch.context() as patch:
        patch.setattr(shared_scores, "ProfileScorer", Cut)
        with pytest.raises(KeyboardInterrupt):
            follow(course_for(cut), cut, Recorder())
    kept = read_sensitivity(cut.run.folder, SPACE, cut.run.fingerprint)
    assert len(kept.scores) == 7  # one of the calls before was the check of the largest
    assert not kept.complete
    monkeypatch.setattr(shared_scores, "train_shared", None)
    observer = Recorder()
    found = follow(course_for(cut), cut, observer)[1]
    assert {s.profile: s for s in found.scores} == {s.profile: s for s in expected.scores}
    assert any("7 allocations are scored already" in text for (text,) in observer.of("message"))


def test_a_run_cut_off_while_training_goes_on(tmp_path, monkeypatch):
    from flexor_search.training import checkpoint

    monkeypatch.setattr(shared_scores, "check_learned", lambda *_: None)
    whole, cut = (replace(measurer_in(tmp_path / name), checkpoint_seconds=0.0) for name in ("whole", "cut"))
    expected = follow(course_for(whole), whole, Recorder())[1]
    write, count = checkpoint.write_atomically, []

    def counted(*args):
        write(*args)
        count.append(1)
        if len(count) == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_atomically", counted)
        with pytest.raises(KeyboardInterrupt):
            follow(course_for(cut), cut, Recorder())
    told = []
    found = follow(course_for(cut), replace(cut, tell=told.append), Recorder())[1]
    assert "goes on from there" in told[0]
    assert found.scores == expected.scores


def test_a_damaged_file_is_made_again_and_that_is_told(tmp_path, searched):
    measurer, observer = measurer_in(tmp_path / "x", recipe=LEARNS), Recorder()
    text = (searched[0].run.folder / FILE).read_text()
    (measurer.run.folder / FILE).write_text(text[: len(text) // 2])
    found = follow(course_for(measurer), measurer, observer)[1]
    assert found.complete
    assert any("cut short" in text and "trained once more" in text for (text,) in observer.of("message"))


def test_a_network_that_diverges_falls_back_to_direct_once_and_for_all(tmp_path, monkeypatch):
    recipe = replace(RECIPE, learning_rate=1e30, schedule="constant", warmup=0.0)
    measurer = measurer_in(tmp_path / "x", recipe=recipe)
    for attempt in range(2):
        observer = Recorder()
        course, found = follow(course_for(measurer), measurer, observer)
        assert (course.name, found) == ("direct", None)
        ((text,),) = observer.of("message")
        assert "does not learn" in text
        assert "going on with the direct strategy" in text
        if attempt == 0:
            monkeypatch.setattr(shared_scores, "train_shared", None)  # it is known by now


def test_a_network_at_chance_level_falls_back_too(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_scores, "check_learned", lambda *_: (_ for _ in ()).throw(SharedNetworkError("chance")))
    measurer, observer = measurer_in(tmp_path / "x"), Recorder()
    course, found = follow(course_for(measurer), measurer, observer)
    assert (course.name, found) == ("direct", None)
    assert observer.of("message") == [("chance; going on with the direct strategy",)]


CHOICES = {
    "as asked": ("direct", SPACE, 8, "direct", "as asked"),
    "pays": ("auto", space_of(), 40, "supernet", "one shared training of about 3 s"),
    "few allocations": ("auto", SPACE, 40, "direct", "all 25 allocations can be trained"),
    "one entry": ("supernet", space_of(default={"rates": ["8/20"]}), 40, "direct", "one entry"),
    "one entry, auto": ("auto", space_of(default={"rates": ["8/20"]}), 40, "direct", "one entry"),
    "one choice": ("auto", space_of(tie=[{"match": "*"}]), 4, "direct", "a single choice"),
    "dear": ("auto", space_of(), 3, "direct", "3 s of the 3 s"),
}


@pytest.mark.parametrize("name", CHOICES)
def test_auto_chooses_by_what_the_workload_costs_and_says_why(tmp_path, name):
    asked, space, trials, expected, why = CHOICES[name]
    phases = (replace(PHASES[0], trainings=trials), PHASES[1])
    course = choose_course(asked, plan_for(space, trials=trials), 0, phases, measurer_in(tmp_path / "x"))
    assert course.name == expected
    assert why in course.why
    assert "\n" not in course.why
    assert course.plan.trials == (min(TRIALS, trials) if expected == "supernet" else trials)


@pytest.mark.parametrize("asked", ["auto", "supernet"])
def test_workers_of_one_study_search_directly_and_why_is_said(tmp_path, asked):
    measurer = replace(measurer_in(tmp_path / "x"), agree=lambda _name, offer, _binds: offer())
    phases = (replace(PHASES[0], trainings=40), PHASES[1])
    course = choose_course(asked, plan_for(space_of(), trials=40), 0, phases, measurer)
    assert course.told.startswith("strategy direct: workers that share a storage train trials side by side")


def test_several_budgets_take_fewer_trials_unless_asked_otherwise(tmp_path):
    measurer, plan = measurer_in(tmp_path / "x"), plan_for(space_of(), SEVERAL, trials=40)
    phases = (PHASES[0], replace(PHASES[1], trainings=48))
    for asked, expected in ((0, TRIALS_FOR_MANY), (25, 25)):
        course = choose_course("supernet", plan, asked, phases, measurer)
        assert course.plan.trials == expected
        assert course.phases[-1].trainings == (5 * 2 + 1) * 3


def test_what_a_run_was_begun_with_stays(tmp_path, searched):
    measurer = measurer_in(tmp_path / "x")
    measurer.run.append(searched[0].run.measurements[0])
    course = choose_course("auto", plan_for(space_of()), 0, PHASES, measurer)
    assert (course.name, "as this run was begun" in course.why) == ("direct", True)
    Sensitivity(measurer.run.fingerprint, model={"values": {"trained": 1}}).write(measurer.run.folder)
    course = choose_course("auto", plan_for(space_of()), 0, PHASES, measurer)
    assert (course.name, "as this run was begun" in course.why) == ("direct", True)


def test_one_layer_can_be_asked_for(tmp_path):
    def one_layer():
        return nn.Sequential(nn.Conv2d(1, 40, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(1440, 10))

    space = space_of(one_layer, keep=["0"], default={"rates": ["4/20", "10/20"]})
    measurer, observer = measurer_in(tmp_path / "x", one_layer, LEARNS), Recorder()
    course = choose_course("supernet", plan_for(space), 2, PHASES, measurer)
    course, found = follow(course, measurer, observer)
    named = search_by(course, found, measurer, observer)
    assert len(found.scores) == 2
    assert all(BUDGET[0].fits(candidate.allocation) for candidate in named["0.6bpw"])


@pytest.mark.parametrize("end", ["cheapest", "dearest"])
def test_a_budget_at_either_end_of_the_space(tmp_path, end):
    space = space_of(many_layers)
    limit = getattr(space, end)
    asked = budgets(f"{limit.bits_per_weight:g}bpw")
    measurer = FakeMeasurer(tmp_path / "x", worth)
    named = supernet_search(plan_for(space, asked), made_scores(space, lambda a: -worth(a)), measurer, Recorder())
    assert [c.allocation for c in named[asked[0].text]] == [limit]


def test_the_best_is_found_where_no_rule_of_thumb_is(tmp_path):
    space, asked = space_of(many_layers), budgets("0.5bpw")
    measurer = FakeMeasurer(tmp_path / "x", lambda a: 0.9 + worth(a) / 100)
    plan = plan_for(space, asked, trials=6)
    named = supernet_search(plan, made_scores(space, lambda a: 1 - worth(a) / 40), measurer, Recorder())
    uniform, best, *rules = named["0.5bpw"]
    assert worth(best.allocation) > max(worth(c.allocation) for c in [uniform, *rules]) + 0.05
    seeds = (1000, 1001, 1002)
    confirm(space, asked, measurer, seeds, Recorder(), named=named)
    assert choose(space, asked[0], measurer.run, seeds).first.digest == best.allocation.digest


def test_five_budgets_train_at_most_half_as_much_again_as_one(tmp_path):
    space, seeds = space_of(many_layers), (1000, 1001, 1002)
    scores = made_scores(space, lambda a: 1 - worth(a) / 40)
    epochs, trained = {SEARCH: 15, CONFIRM: 30}, {}
    for asked, trials in ((budgets("0.6bpw"), TRIALS), (SEVERAL, TRIALS_FOR_MANY)):
        measurer = FakeMeasurer(tmp_path / str(len(asked)), lambda a: 0.9 + worth(a) / 100)
        plan = plan_for(space, asked, trials=trials)
        named = supernet_search(plan, scores, measurer, Recorder())
        assert list(named) == [budget.text for budget in asked]
        confirm(space, asked, measurer, seeds, Recorder(), named=named)
        for budget in asked:
            assert nearest_uniform(space, budget).digest in {c.allocation.digest for c in named[budget.text]}
        trained[len(asked)] = sum(epochs[m.phase] for m in measurer.run.measurements)
    assert trained[5] <= 1.5 * trained[1]


def test_more_trials_go_on_where_fewer_ended(tmp_path):
    space, asked = space_of(many_layers), budgets("0.5bpw")
    scores, plan = made_scores(space, lambda a: 1 - worth(a) / 40), plan_for(space, asked, trials=5)
    split = FakeMeasurer(tmp_path / "split", worth)
    for trials in (5, 24):
        supernet_search(replace(plan, trials=trials), scores, split, Recorder())
    at_once = FakeMeasurer(tmp_path / "once", worth)
    supernet_search(replace(plan, trials=24), scores, at_once, Recorder())
    assert [m.digest for m in split.run.measurements] == [m.digest for m in at_once.run.measurements]
    assert len({m.digest for m in at_once.run.measurements}) == 24


@pytest.mark.parametrize("content", [None, "{", "{}"])
@pytest.mark.parametrize("name", ["supernet", "direct"])
def test_a_run_stays_with_its_strategy_whatever_becomes_of_the_scores(tmp_path, monkeypatch, name, content):
    seconds = {"supernet": 0.0, "direct": 1e9}[name]
    monkeypatch.setattr(strategy, "scoring_seconds", lambda *_: seconds)
    measurer = measurer_in(tmp_path / "x", recipe=LEARNS)
    assert course_for(measurer, "auto").name == name
    measurer.run.begin_with(name)
    assert course_for(measurer, "auto").why != "as this run was begun"  # nothing was trained yet
    measurer.measure(rule_candidate(SPACE, BUDGET[0], 0.5), SEARCH, 0)
    monkeypatch.setattr(strategy, "scoring_seconds", lambda *_: 1e9 - seconds)
    path = measurer.run.folder / FILE
    if content is not None:
        path.write_text(content)
    course = course_for(measurer, "auto")
    assert (course.name, "as this run was begun" in course.why) == (name, True)
    assert ("shared network" in [phase.name for phase in course.phases]) == (name == "supernet")


def test_what_is_scored_first_is_a_small_space_whole_or_all_sizes_of_a_large_one():
    assert len(first_profiles(SharedPlan(SPACE, BUDGET, 0, 1.0))) == 25
    space = space_of(many_layers)
    plan = plan_for(space, budgets("0.5bpw"))
    found = first_profiles(SharedPlan(space, sizes(plan), 0, 1.0))
    assert len(found) == len(set(found)) == shared_scores.SCORES
    bits = sorted(space.allocation(profile).bits_per_weight for profile in found)
    assert (bits[0], bits[-1]) == (space.cheapest.bits_per_weight, space.dearest.bits_per_weight)
    assert sum(b <= 0.5 for b in bits) > len(bits) / 3


def pairs_of(plan, model):
    """For each budget the model's best and the rule of thumb that are trained."""
    first = list(itertools.islice(candidates(plan, model), 2 * len(plan.budgets)))
    assert {c.budget for c in first} == {budget.text for budget in plan.budgets}
    pairs = [[c for c in first if c.budget == budget.text] for budget in plan.budgets]
    assert all((best.kind, rule.kind.split()[0]) == ("proposed", "size") for best, rule in pairs)
    return pairs


def test_of_several_budgets_the_better_of_the_models_best_and_a_rule_is_confirmed():
    space = space_of(many_layers)
    plan = plan_for(space, SEVERAL)
    model = fit_accuracy_model(space, observations(space, made_scores(space, lambda a: 1 - worth(a) / 40)))
    pairs = pairs_of(plan, model)
    for choice in (0, 1):
        values = {pair[side].allocation.digest: 0.8 if side == choice else 0.7 for pair in pairs for side in (0, 1)}
        named = finalists(plan, model, Tried(values, 5_000))
        assert [named[budget.text][-1] for budget in SEVERAL] == [pair[choice] for pair in pairs]
    for tried in (Tried({}, 5_000), None):  # nothing of it was trained; as predicted
        assert [one[-1] for one in finalists(plan, model, tried).values()] == [best for best, _ in pairs]
    assert set(sizes(plan)) == {*SEVERAL, *ladder(space, SEVERAL)}


def test_for_one_budget_the_best_with_the_trainings_is_confirmed_beside_the_best_without():
    space = space_of(many_layers)
    plan = plan_for(space, budgets("0.5bpw"))
    few, other = (
        fit_accuracy_model(space, observations(space, made_scores(space, lambda a, s=sign: 1 - s * worth(a) / 40)))
        for sign in (1, -1)
    )
    tried = Tried({}, 5_000)
    (alone,), (beside,) = finalists(plan, few, tried).values(), finalists(plan, few, tried, other).values()
    (budget,) = plan.budgets
    assert other.best_under(budget).digest not in [c.allocation.digest for c in alone]
    assert [c.allocation.digest for c in beside if c not in alone] == [other.best_under(budget).digest]
    assert finalists(plan, few, tried, few) == finalists(plan, few, tried)  # where both find the same, once


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("leads", "images", "rules"),
    [
        ([0.01, 0.012, -0.002, 0.008, 0.01], 5_000, [True] * 5),  # one of them has been lucky
        ([0.01, 0.012, -0.002, 0.008, 0.01], 500_000, [True, True, False, True, True]),  # that is no luck
        ([0.01, 0.012, -0.3, 0.008, 0.01], 5_000, [True, True, False, True, True]),
        ([0.01, INF, -INF, 0.01, 0.01], 5_000, [True, True, False, True, True]),  # the other one has failed
        ([0.01, NAN, -0.002, 0.01, 0.01], 5_000, [True] * 5),  # not trained, or the same allocation
        ([-0.01, NAN, 0.002, -0.01, -0.01], 5_000, [False] * 5),
        ([NAN, NAN, 0.002, NAN, NAN], 5_000, [True] * 5),
        ([NAN] * 5, 5_000, [False] * 5),
        ([0.0] * 5, 5_000, [False] * 5),
        ([0.003, 0.0, 0.0, 0.0, 0.0], 350, [True] * 5),  # level pairs of different allocations say something, too
    ],
)
def test_pairs_of_all_budgets_say_together_whether_the_rules_are_better(leads, images, rules):
    def pair(lead):
        return (-INF, 0.8) if lead == INF else (0.8, 0.8 + lead)

    found = leads_of_rules([pair(lead) for lead in leads], images)
    assert [lead > 0 for lead in found] == rules
    assert all(not math.isnan(lead) for lead in found)
    assert leads_of_rules([(-INF, -INF), *map(pair, leads)], images)[1:] == found  # where both failed nothing is known


def test_what_failed_is_not_confirmed_where_the_other_one_can_be(tmp_path):
    space = space_of(many_layers)
    plan = plan_for(space, SEVERAL, trials=TRIALS_FOR_MANY)
    scores = made_scores(space, lambda a: 1 - worth(a) / 40)
    pairs = pairs_of(plan, fit_accuracy_model(space, observations(space, scores)))
    failing = {pairs[1][0].allocation.digest, pairs[3][1].allocation.digest}
    measurer = FakeMeasurer(tmp_path / "x", lambda a: 0.5, state=lambda a: FAILED if a.digest in failing else DONE)
    named = supernet_search(plan, scores, measurer, Recorder())
    assert named[SEVERAL[1].text][-1].allocation == pairs[1][1].allocation
    assert named[SEVERAL[3].text][-1].allocation == pairs[3][0].allocation


def test_a_search_of_several_budgets_mends_a_shared_network_that_is_wrong(tmp_path):
    space = space_of(many_layers)
    measurer = FakeMeasurer(tmp_path / "x", lambda a: 0.5 + a.bits_per_weight / 4 + min(0.0, -worth(a) / 1000))
    wrong = made_scores(space, lambda a: 1 + worth(a) / 40)  # what is worth most scores worst
    named = supernet_search(plan_for(space, SEVERAL, trials=TRIALS_FOR_MANY), wrong, measurer, Recorder())
    trained = {m.digest: m.val_accuracy for m in measurer.run.measurements}
    for budget in SEVERAL:
        ours = [m for m in measurer.run.measurements if m.budget == budget.text]
        assert named[budget.text][-1].allocation.digest == max(ours, key=lambda m: m.val_accuracy).digest
        assert named[budget.text][-1].allocation.digest in trained


def test_strategy_names_are_those_that_can_be_asked_for():
    from flexor_search.asking import STRATEGIES

    assert set(STRATEGIES) == {strategy.AUTO, strategy.SUPERNET, strategy.DIRECT}


def test_where_the_time_is_up_at_once_the_single_rates_are_scored_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_scores, "_PART", 6)
    measurer, observer = measurer_in(tmp_path / "x", recipe=LEARNS), Recorder()
    course = course_for(measurer, plan=replace(plan_for(), timeout_seconds=1e-9))
    course, found = follow(course, measurer, observer)
    assert len(found.scores) == 6
    assert {(i, i) for i in range(5)} < {score.profile for score in found.scores}
    assert any("the time for scoring is up after 6 of 25" in text for (text,) in observer.of("message"))
    named = search_by(course, found, measurer, observer)
    assert all(BUDGET[0].fits(candidate.allocation) for candidate in named[BUDGET[0].text])
    monkeypatch.setattr(shared_scores, "train_shared", None)
    observer = Recorder()
    assert follow(course, measurer, observer)[1].scores == found.scores
    assert "6 allocations are scored; the time for more is up" in observer.of("message")[-1][0]
    measurer.run.sweep(is_done=True)
    observer = Recorder()
    more = follow(course_for(measurer), measurer, observer)[1]  # with all the time that it takes
    assert (len(more.scores), more.complete) == (25, True)
    assert more.scores[:6] == found.scores
    assert not (measurer.run.folder / "trained" / "shared-network.safetensors").exists()


def test_what_the_shared_network_takes_counts_as_time_of_the_search(tmp_path, monkeypatch):
    measurer = measurer_in(tmp_path / "x", recipe=LEARNS)

    class Cut(shared_scores.ProfileScorer):
        def __call__(self, profile):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shared_scores, "ProfileScorer", Cut)
        with pytest.raises(KeyboardInterrupt):
            follow(course_for(measurer), measurer, Recorder())
    first = SearchClock(measurer.run).seconds
    assert first > 0
    course = course_for(measurer)
    follow(course, measurer, Recorder())
    second = SearchClock(measurer.run).seconds
    assert second > first + 0.01  # the scoring of the second call


def test_the_direct_search_in_its_place_has_its_own_number_of_trials(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_scores, "check_learned", lambda *_: (_ for _ in ()).throw(SharedNetworkError("chance")))
    measurer = measurer_in(tmp_path / "x")
    course = course_for(measurer, plan=plan_for(trials=40), trials_asked=0)
    assert course.plan.trials == TRIALS
    course, _ = follow(course, measurer, Recorder())
    assert (course.name, course.plan.trials, course.phases) == ("direct", 40, PHASES)


def test_memory_that_does_not_last_for_the_shared_network_falls_back_too(tmp_path, monkeypatch):
    def no_memory(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(shared_scores, "train_shared", no_memory)
    measurer, observer = measurer_in(tmp_path / "x"), Recorder()
    course, found = follow(course_for(measurer), measurer, observer)
    assert (course.name, found) == ("direct", None)
    assert "the memory does not last for training and scoring the shared network; going" in observer.of("message")[0][0]
    assert not (tmp_path / "x" / "sensitivity.json").exists()  # a larger machine may have it


def test_memory_that_does_not_last_for_scoring_keeps_the_scores(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_scores, "check_learned", lambda *_: None)
    scorer, made = shared_scores.ProfileScorer.__call__, []

    def short(self, profile):
        made.append(profile)
        if len(made) == 10:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return scorer(self, profile)

    measurer, observer = measurer_in(tmp_path / "x"), Recorder()
    with monkeypatch.context() as patch:
        patch.setattr(shared_scores.ProfileScorer, "__call__", short)
        course, _ = follow(course_for(measurer), measurer, observer)
    assert course.name == "direct"
    course, found = follow(course_for(measurer), measurer, observer)  # where there is more memory
    assert (course.name, found.failed, found.complete) == ("supernet", "", True)
    assert sum(text == "the shared network" for (text,) in observer.of("begin")) == 1


def test_no_training_begins_after_the_time_is_up(tmp_path, monkeypatch):
    from flexor_search.tuning import supernet_strategy

    class Clock:
        """A second a training."""

        def __init__(self, _run):
            pass

        @property
        def seconds(self):
            return float(len(measurer.trained))

        def write(self):
            pass

    monkeypatch.setattr(supernet_strategy, "SearchClock", Clock)
    measurer = FakeMeasurer(tmp_path / "x", worth)
    plan = replace(plan_for(asked=SEVERAL, trials=10), timeout_seconds=3.5)
    observer, scores = Recorder(), made_scores(SPACE, lambda one: -worth(one), measurer.run.fingerprint)
    first = supernet_search(plan, scores, measurer, observer)
    assert len(measurer.trained) == 4
    assert ("the time for the search is up after 4 of 10 trials",) in observer.of("message")
    again = supernet_search(plan, scores, measurer, observer)  # what is known takes no time, and counts
    assert len(measurer.trained) == 4
    assert {t: [c.allocation for c in some] for t, some in again.items()} == {
        t: [c.allocation for c in some] for t, some in first.items()
    }


def test_scores_count_in_the_order_of_their_profiles():
    scores = made_scores(SPACE, lambda one: -worth(one))
    turned = replace(scores, scores=scores.scores[::-1])
    assert observations(SPACE, turned) == observations(SPACE, scores)


def test_few_scores_of_an_interrupted_call_are_no_end_even_if_the_time_is_up(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_scores, "_PART", 6)
    measurer, calls = measurer_in(tmp_path / "x", recipe=LEARNS), []
    score = shared_scores.ProfileScorer.__call__

    def cut(self, profile):
        calls.append(profile)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return score(self, profile)

    with monkeypatch.context() as patch:
        patch.setattr(shared_scores.ProfileScorer, "__call__", cut)
        with pytest.raises(KeyboardInterrupt):
            follow(course_for(measurer), measurer, Recorder())
    monkeypatch.setattr(shared_scores, "train_shared", None)
    course = course_for(measurer, plan=replace(plan_for(), timeout_seconds=1e-9))
    found = follow(course, measurer, Recorder())[1]
    assert (len(found.scores), found.complete) == (6, False)
    assert {one.profile for one in found.scores} == set(
        first_profiles(SharedPlan(SPACE, sizes(plan_for()), 0, 1.0))[:6]
    )


def test_what_is_scored_later_may_let_other_layers_go(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_scores, "_PART", 6)
    measurer = measurer_in(tmp_path / "x", recipe=LEARNS)
    course = course_for(measurer, plan=replace(plan_for(), timeout_seconds=1e-9))
    found = follow(course, measurer, Recorder())[1]
    replace(found, own_rates={}).write(measurer.run.folder)
    assert follow(course, measurer, Recorder())[1].own_rates == {}  # nothing was added
    assert follow(course_for(measurer), measurer, Recorder())[1].own_rates is None


def test_a_network_that_does_not_learn_leaves_no_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_scores, "check_learned", lambda *_: (_ for _ in ()).throw(SharedNetworkError("chance")))
    measurer = measurer_in(tmp_path / "x")
    follow(course_for(measurer), measurer, Recorder())
    assert list((measurer.run.folder / "trained").iterdir()) == []
