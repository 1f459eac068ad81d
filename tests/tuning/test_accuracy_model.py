"""The model of accuracy: recovers what made the data, weighs its sources, and chooses by what is smooth."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st
from planning.strategies import LENET5, layer, model_of

from flexor_search.errors import UsageError
from flexor_search.planning import Budget, make_space, read_space_file
from flexor_search.planning.space_file import SpaceFile
from flexor_search.tuning import SHARED, Observation, fit_accuracy_model
from flexor_search.tuning.accuracy_model import SHARED_LOSS, UNITS
from flexor_search.tuning.axes import Axis, Features
from flexor_search.tuning.evidence import Posterior, SourceData, _Problem, fit_evidence

SPACE = make_space(LENET5, read_space_file("lenet5"))
SLOPES = (0.2, 1.0, 2.0, 0.4)


def truth(profile, pull=0.0):
    """Accuracy rises with every log rate; `pull` lets the first two layers need each other."""
    logs = [math.log((index + 1) / 20) for index in profile]
    return 0.92 + 0.01 * sum(s * log for s, log in zip(SLOPES, logs, strict=True)) + pull * logs[0] * logs[1]


def sample(count, seed, noise=0.0, pull=0.0, source="trained", seen=lambda value: value):
    random = np.random.default_rng(seed)
    profiles = [tuple(int(i) for i in random.integers(0, 20, 4)) for _ in range(count)]
    return [
        Observation(SPACE.allocation(p), seen(truth(p, pull)) + noise * random.standard_normal(), source)
        for p in profiles
    ]


TEST = [tuple(int(i) for i in row) for row in np.random.default_rng(99).integers(0, 20, (200, 4))]
TRUE = np.array([truth(profile) for profile in TEST])


def correlation(a, b):
    return float(np.corrcoef(a, b)[0, 1])


def test_forty_noisy_trainings_tell_every_allocation():
    model = fit_accuracy_model(SPACE, sample(40, 0, noise=0.003))
    mean, std = model.predict_profiles(TEST)
    assert np.sqrt(np.mean((mean - TRUE) ** 2)) < 0.003  # closer than a training of each of the 200
    assert 0.8 < np.mean(np.abs(mean - TRUE) <= 2 * std) <= 1.0
    assert not model.has_interactions


def test_shared_scores_order_what_a_few_trainings_scale():
    def seen(value):  # another unit, another offset
        return 3 * value - 4

    few = sample(8, 1, noise=0.003)
    alone = fit_accuracy_model(SPACE, few)
    both = fit_accuracy_model(SPACE, few + sample(200, 2, noise=0.03, source=SHARED_LOSS, seen=seen))
    mean, std = both.predict_profiles(TEST)
    error, error_alone = (np.sqrt(np.mean((one - TRUE) ** 2)) for one in (mean, alone.predict_profiles(TEST)[0]))
    assert error < 0.6 * error_alone
    assert correlation(mean, TRUE) > 0.99
    assert std.mean() < alone.predict_profiles(TEST)[1].mean()
    assert both.reference == "trained"
    assert both.counts == {"trained": 8, SHARED_LOSS: 200}
    assert both.posterior.chosen[f"factor of {SHARED_LOSS}"] * UNITS[SHARED_LOSS] == pytest.approx(3.0, rel=0.25)


def test_noisy_trainings_do_not_outvote_smooth_scores():
    scores = sample(200, 3, noise=0.001, source=SHARED)
    for seed in range(4):
        fitted = fit_accuracy_model(SPACE, scores + sample(12, seed, noise=0.01))
        assert correlation(fitted.predict_profiles(TEST)[0], TRUE) > 0.95


def test_scores_alone_are_a_unit_of_their_own():
    model = fit_accuracy_model(SPACE, sample(100, 5, source=SHARED, seen=lambda value: 0.5 - 10 * value))
    assert model.reference == SHARED
    assert correlation(model.predict_profiles(TEST)[0], -TRUE) > 0.99


def test_interactions_are_in_only_where_the_data_want_them():
    none, some = (fit_accuracy_model(SPACE, sample(150, 6, 0.001, pull)) for pull in (0.0, -0.004))
    assert not none.has_interactions
    assert some.has_interactions
    assert some.interaction_evidence > 10
    wanted = np.array([truth(profile, -0.004) for profile in TEST])
    assert correlation(some.predict_profiles(TEST)[0], wanted) > 0.99
    best = some.best_under(Budget.parse("0.4bpw"))
    additive = SPACE.allocation(tuple(int(np.argmax(term)) for term in some.terms))
    assert Budget.parse("0.4bpw").fits(best)
    assert some.predict([additive])[0].shape == (1,)


def test_before_anything_is_known_of_layers_the_rules_of_thumb_are_the_answer():
    uniform = [Observation(SPACE.allocation((i,) * 4), truth((i,) * 4)) for i in (3, 7, 11, 15, 19)]
    best = fit_accuracy_model(SPACE, uniform).best_under(Budget.parse("0.4bpw"))
    rates = [spec.n_in for spec in best.specs]
    assert rates[2] < 8 < min(rates[0], rates[1], rates[3])  # the layer with nearly all weights pays


@pytest.mark.parametrize("text", ["0.3bpw", "0.6bpw", "30000B", "0.02x"])
def test_the_best_under_a_budget_fits_and_no_other_seen_is_predicted_better(text):
    model, budget = fit_accuracy_model(SPACE, sample(60, 7, noise=0.002)), Budget.parse(text)
    best = model.best_under(budget)
    assert budget.fits(best)
    fitting = [profile for profile in TEST if budget.fits(SPACE.allocation(profile))]
    assert model.predict([best])[0][0] >= model.predict_profiles(fitting)[0].max()


def test_draws_differ_as_much_as_the_model_is_unsure():
    model = fit_accuracy_model(SPACE, sample(30, 8, noise=0.003))
    mean, std = model.predict_profiles(TEST[:20])
    drawn = np.array([model.draw(seed).predict_profiles(TEST[:20])[0] for seed in range(200)])
    assert np.allclose(drawn.std(axis=0), std, rtol=0.25)
    assert np.abs(drawn.mean(axis=0) - mean).max() < 0.3 * std.max()
    assert np.array_equal(model.draw(3).predict_profiles(TEST)[0], model.draw(3).predict_profiles(TEST)[0])


def test_sensitivities_are_the_curves():
    model = fit_accuracy_model(SPACE, sample(150, 9, noise=0.0005))
    rows = {(row.layer, row.label): row for row in model.sensitivities()}
    assert len(rows) == 80
    for name, slope in zip(("conv1", "conv2", "fc1", "fc2"), SLOPES, strict=True):
        row = rows[name, "4/20"]
        assert row.loss == pytest.approx(0.01 * slope * math.log(5), abs=4 * row.uncertainty + 1e-3)
        assert row.bits_per_weight == 0.2
        assert min(rows[name, f"{n}/20"].loss for n in range(1, 21)) == 0.0
    body = model.to_json()
    assert len(body["sensitivities"]) == 80
    assert body["values"] == {"trained": 150}
    assert body["doubts"] == model.doubts() == []


def test_it_says_what_it_is_unsure_of():
    few = fit_accuracy_model(SPACE, sample(3, 10, noise=0.003) + sample(2, 11, source=SHARED))
    text = " ".join(few.doubts())
    assert "rules of thumb" in text
    assert "at 1/20 loses" in text
    only = fit_accuracy_model(SPACE, sample(1, 10) + sample(50, 11, source=SHARED))
    assert "only 1 values of trained" in only.doubts()[0]


@pytest.mark.parametrize(
    ("model", "file"),
    [
        (model_of(layer("only", 40, 40)), {"keep": []}),
        (model_of(layer("a", 40, 40), layer("b", 40, 40)), {"keep": [], "default": {"rates": ["8/20"]}}),
        (
            model_of(layer("a", 40, 40), layer("b", 40, 40)),
            {"keep": [], "layer": [{"match": "a", "rates": ["8/20", "kept"]}], "tie": [{"match": "b"}]},
        ),
        (
            model_of(layer("a", 40, 40), layer("b", 40, 40)),
            {"keep": [], "default": {"families": ["systematic", "taps"], "planes": [1, 2]}},
        ),
    ],
)
def test_spaces_of_one_layer_one_entry_and_many_kinds(model, file):
    space = make_space(model, SpaceFile.model_validate(file))
    random = np.random.default_rng(0)
    profiles = [tuple(int(random.integers(len(v.menu))) for v in space.variables) for _ in range(12)]
    observed = [Observation(space.allocation(p), 0.5 + 0.01 * sum(p)) for p in profiles]
    fitted = fit_accuracy_model(space, observed)
    mean, std = fitted.predict_profiles(profiles)
    assert np.isfinite([*mean, *std]).all()
    assert Budget.parse("0.9bpw").fits(fitted.best_under(Budget.parse("0.9bpw")))
    assert fitted.sensitivities()


def test_an_entry_of_another_code_owes_its_worth_to_its_own_kind_alone():
    menu = {"rates": ["4/20", "5/20"], "families": ["systematic", "dense"]}
    file = SpaceFile.model_validate({"keep": [], "default": menu, "layer": [{"match": "b", "rates": ["8/20", "kept"]}]})
    space = make_space(model_of(layer("a", 400, 400), layer("b", 40, 40)), file)
    first = space.variables[0].menu
    worth = {"4/20": 0.80, "5/20": 0.82, "4/20 dense": 0.90, "5/20 dense": 0.91}
    assert {spec.label for spec in first} == worth.keys()
    profiles = list(itertools.product(range(len(first)), range(len(space.variables[1].menu)))) * 5
    observed = [Observation(space.allocation(p), worth[first[p[0]].label]) for p in profiles]
    chosen = fit_accuracy_model(space, observed).choices[0]
    by_label = dict(zip((spec.label for spec in first), chosen, strict=True))
    assert by_label["4/20 dense"] > by_label["5/20"] + 0.03  # which stores more, and cannot say the same
    assert by_label["4/20"] < by_label["5/20"] < by_label["5/20 dense"]


def test_a_draw_is_from_the_posterior_and_does_not_depend_on_how_a_machine_rounds():
    root = np.array([[1.0, 0.0, 0.0, 0.0], [0.3, 1.0, 0.0, 0.0], [0.0, 0.0, 0.5, 0.0], [0.0, 0.0, 0.0, 0.5]])
    posterior = Posterior(2.0, np.array([1.0, -1.0, 0.0]), root @ root.T, 0.0, {})
    random = np.random.default_rng(0)
    drawn = [posterior.draw(random) for _ in range(4000)]
    values = np.array([[one.offset, *one.weights] for one in drawn])
    assert values.mean(axis=0) == pytest.approx([2.0, 1.0, -1.0, 0.0], abs=0.08)
    assert np.cov(values.T) == pytest.approx(posterior.covariance, abs=0.08)
    rounded = replace(posterior, covariance=posterior.covariance + 1e-13 * np.random.default_rng(1).normal(size=(4, 4)))
    once, again = (one.draw(np.random.default_rng(5)).weights for one in (posterior, rounded))
    assert once == pytest.approx(again, abs=1e-9)


def test_one_value_alone_leaves_the_rules_of_thumb_and_not_the_cheapest():
    fitted = fit_accuracy_model(SPACE, [Observation(SPACE.cheapest, 0.7)])
    assert fitted.best_under(Budget.parse("0.6bpw")).bits_per_weight > 0.5


def test_values_that_are_no_numbers_are_left_out_and_none_at_all_is_an_error():
    good = sample(20, 0)
    lost = [Observation(good[0].allocation, math.nan), Observation(good[1].allocation, -math.inf, SHARED)]
    assert fit_accuracy_model(SPACE, good + lost).counts == {"trained": 20}
    with pytest.raises(UsageError, match="at least one finite value"):
        fit_accuracy_model(SPACE, lost)


def test_all_values_alike_is_no_error():
    same = [Observation(one.allocation, 0.5) for one in sample(10, 0)]
    mean, std = fit_accuracy_model(SPACE, same).predict_profiles(TEST)
    assert np.allclose(mean, 0.5)
    assert np.isfinite(std).all()


@settings(max_examples=10)
@given(st.integers(0, 1000), st.booleans())
def test_the_gradient_of_the_evidence_is_its_slope(seed, paired):
    random = np.random.default_rng(seed)
    axes = tuple(
        Axis(name, tuple(np.log([0.2, 0.4, 0.6, 1.0])), ("a", "a", "b", "b"), w)
        for name, w in zip("xyz", (1, 5, 30), strict=True)
    )
    features = Features(axes, paired)
    sources = [
        SourceData(name, features.of(random.integers(0, 4, (n, 3))), random.normal(size=n), random.integers(1, 4, n))
        for name, n in (("trained", 9), ("shared", 40))
    ]
    problem = _Problem(sources, features.groups)
    at = problem.pack({}) + random.normal(size=len(problem.names))
    slope = scipy.optimize.approx_fprime(at, lambda x: problem.loss(x)[0], 1e-6)
    assert problem.loss(at)[1] == pytest.approx(slope, rel=1e-3, abs=1e-3)


def test_the_evidence_is_the_density_of_the_values():
    """Against the same integral done the other way: the covariance of the values themselves."""
    random = np.random.default_rng(0)
    features = Features((Axis("x", (-1.0, 0.0, 1.0, 2.0), ("a",) * 4), Axis("y", (0.0, 1.0), ("a",) * 2)))
    rows = features.of([(i % 4, i % 2) for i in range(8)])
    y = random.normal(size=8)
    y = (y - y.mean()) / y.std()
    fitted = fit_evidence([SourceData("trained", rows, y, np.ones(8))], features.groups)
    chosen = fitted.chosen
    variances = np.array([chosen[f"variance of {group}"] for group in features.groups])
    covariance = rows * variances @ rows.T + 100.0 + chosen["noise of trained"] * np.eye(8)
    density = -0.5 * (y @ np.linalg.solve(covariance, y) + np.linalg.slogdet(2 * math.pi * covariance)[1])
    problem = _Problem([SourceData("trained", rows, y, np.ones(8))], features.groups)
    assert problem._solve(np.log(list(chosen.values())))[-1] == pytest.approx(density)
    cross = rows * variances @ rows.T + 100.0
    assert fitted.predict(rows)[0] == pytest.approx(cross @ np.linalg.solve(covariance, y))


def test_a_choice_never_leaves_bits_unused_for_curves_that_fall():
    """Noise makes a fit fall towards more bits; the choice is by curves that do not."""
    falling = [replace(one, value=0.9 - one.allocation.bits_per_weight / 50) for one in sample(60, 8)]
    model = fit_accuracy_model(SPACE, falling)
    assert any(np.any(np.diff(term) < 0) for term in model.terms)
    assert model.choices[2].argmax() == 19  # of the layer with nearly all weights
    for choice, term in zip(model.choices, model.terms, strict=True):
        assert np.all(np.diff(choice) > 0)
        assert np.allclose(choice, np.maximum.accumulate(term), atol=1e-3 * max(map(np.ptp, model.terms)))
    assert model.best_under(Budget.parse("1bpw")) == SPACE.dearest


def stages_of(layers=6, stages=3):
    """A space of equal layers in stages, and for each variable its depth in the stage from -1 to 1."""
    shapes = [layer(f"stage{s}.{i}.conv", 32, 32, 3, 3) for s in range(stages) for i in range(layers)]
    space = make_space(model_of(*shapes), SpaceFile.model_validate({"keep": [], "default": {"rates": ["1-20/20"]}}))
    return space, [2 * i / (layers - 1) - 1 for _ in range(stages) for i in range(layers)]


def trained_in(space, slopes, count, noise, seed=0):
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        profile = tuple(int(i) for i in random.integers(0, 20, len(slopes)))
        logs = [math.log((index + 1) / 20) for index in profile]
        value = 0.9 + float(np.dot(slopes, logs)) + noise * random.standard_normal()
        found.append(Observation(space.allocation(profile), value))
    return found


def test_a_trend_within_stages_is_found_where_single_layers_are_noise():
    space, depths = stages_of()
    slopes = [0.002 * (1 - 0.8 * depth) for depth in depths]
    model = fit_accuracy_model(space, trained_in(space, slopes, 60, noise=0.006))
    assert not model.features.own
    rates = np.array([spec.n_in for spec in model.best_under(Budget.parse("0.4bpw")).specs])
    assert correlation(rates, slopes) > 0.9  # the best rates are proportional to the slopes
    losses = [row.loss for row in model.sensitivities() if row.label == "1/20"]
    assert correlation(losses, slopes) > 0.99


def test_what_single_layers_differ_by_stays_where_the_data_want_it():
    space, _ = stages_of()
    slopes = [0.004 * (i % 2) for i in range(18)]
    model = fit_accuracy_model(space, trained_in(space, slopes, 200, noise=0.002))
    assert model.features.own
    rates = np.array([spec.n_in for spec in model.best_under(Budget.parse("0.4bpw")).specs])
    assert correlation(rates, slopes) > 0.9
