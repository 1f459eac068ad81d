"""The sampler in studies of its own: nothing of this project is in them."""

import math
import pickle

import numpy as np
import optuna
import pytest
from optuna.samplers import RandomSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from flexor_search.tuning.sampler import MOST_ENTRIES, AdditiveSampler

SLOPES = (0.1, 0.5, 1.0, 2.0)


@pytest.fixture(autouse=True)
def _quiet():
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(verbosity)


def value_and_size(trial):
    values = [trial.suggest_int(f"x{i}", 1, 10) for i in range(len(SLOPES))]
    noise = 0.2 * math.sin(1000 * sum(value * (i + 1.7) for i, value in enumerate(values)))
    return sum(slope * math.log(v) for slope, v in zip(SLOPES, values, strict=True)) + noise, sum(values)


def study_of(sampler, **more):
    return optuna.create_study(sampler=sampler, **({"direction": "maximize"} | more))


def run(sampler, trials=25, objective=lambda trial: value_and_size(trial)[0], **more):
    study = study_of(sampler, **more)
    study.optimize(objective, n_trials=trials)
    return study


def test_it_finds_what_random_does_not():
    ours = [run(AdditiveSampler(seed=seed)) for seed in range(3)]
    chance = [run(RandomSampler(seed=seed)) for seed in range(3)]
    top = sum(slope * math.log(10) for slope in SLOPES)
    assert min(study.best_value for study in ours) > top - 0.1
    assert max(study.best_value for study in chance) < top - 0.1


def test_minimizing_is_maximizing_the_other_way():
    study = run(AdditiveSampler(seed=0), direction="minimize", objective=lambda trial: -value_and_size(trial)[0])
    assert study.best_value < 0.1 - sum(slope * math.log(10) for slope in SLOPES)


def hypervolume(study):
    front = sorted((trial.values[1], trial.values[0]) for trial in study.best_trials)
    sizes = [size for size, _ in front] + [40]
    return sum((end - size) * value for (size, value), end in zip(front, sizes[1:], strict=True))


def test_with_two_objectives_the_front_is_covered():
    directions = {"direction": None, "directions": ["maximize", "minimize"]}
    ours = run(AdditiveSampler(seed=1), 40, value_and_size, **directions)
    chance = run(RandomSampler(seed=1), 40, value_and_size, **directions)
    assert hypervolume(ours) > 1.05 * hypervolume(chance)
    sizes = [trial.values[1] for trial in ours.best_trials]
    assert min(sizes) < 15
    assert max(sizes) > 30


def test_the_same_seed_proposes_the_same_and_another_something_else():
    same = [[trial.params for trial in run(AdditiveSampler(seed=seed), 10).trials] for seed in (3, 3, 4)]
    assert same[0] == same[1] != same[2]


def storages(kind, folder):
    if kind == "sqlite":
        return f"sqlite:///{folder / 'study.db'}"
    return JournalStorage(JournalFileBackend(str(folder / "study.log")))


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_a_study_read_again_goes_on_as_if_never_left(kind, tmp_path):
    def proposed(study):
        return study.ask({f"x{i}": optuna.distributions.IntDistribution(1, 10) for i in range(4)}).params

    study = run(AdditiveSampler(seed=5), 8, storage=storages(kind, tmp_path), study_name="one")
    del study
    again = [
        optuna.load_study(study_name="one", storage=storages(kind, tmp_path), sampler=AdditiveSampler(seed=5))
        for _ in range(2)
    ]
    straight = run(AdditiveSampler(seed=5), 8)
    assert proposed(again[0]) == proposed(straight)
    assert [trial.params for trial in again[1].trials[:8]] == [trial.params for trial in straight.trials[:8]]


def test_what_is_under_way_is_not_proposed_again():
    study = run(AdditiveSampler(seed=0), 10)
    known = {f"x{i}": optuna.distributions.IntDistribution(1, 10) for i in range(4)}
    asked = [tuple(study.ask(known).params.values()) for _ in range(12)]
    done = [tuple(trial.params.values()) for trial in study.trials[:10]]
    assert len(set(asked)) == 12
    assert set(asked).isdisjoint(done)


def test_a_space_tried_to_its_end_is_no_error():
    study = run(AdditiveSampler(seed=0), 12, lambda trial: trial.suggest_int("a", 0, 1) - trial.suggest_int("b", 0, 2))
    assert len({tuple(trial.params.values()) for trial in study.trials}) == 6


def test_other_parameters_failed_trials_and_single_values_do_not_disturb():
    def objective(trial):
        if trial.number == 6:
            raise optuna.TrialPruned
        trial.suggest_float("rate", 0.0, 1.0)
        trial.suggest_categorical("code", ["a", "b"])
        trial.suggest_int("one", 3, 3)
        if trial.number % 2:
            trial.suggest_int("sometimes", 0, 5)
        return math.nan if trial.number == 7 else trial.suggest_int("a", 0, 500, step=5)

    study = run(AdditiveSampler(seed=0), 30, objective)
    assert study.best_value == 500
    assert len(study.trials) == 30
    assert MOST_ENTRIES < 101  # so "a" has more values than the model tells apart


def test_places_and_weights_are_what_it_believes_first():
    def objective(trial):  # a tenth of the trials is measured; all else is the prior
        return float(trial.suggest_int("a", 0, 4) + trial.suggest_int("b", 0, 4))

    places = {"a": [0.0, 1.0, 2.0, 3.0, 4.0], "b": [0.0, 1.0, 2.0, 3.0, 4.0]}
    study = run(AdditiveSampler(0, places, {"a": 9.0, "b": 1.0}), 12, objective)
    assert study.best_value == 8.0
    with pytest.raises(ValueError, match="places: 'a' has 5 values, got 2 places"):
        run(AdditiveSampler(0, {"a": [0.0, 1.0]}), 6, objective)


def scored(count=60, seed=3):
    """What a cheap and biased measurement has: half the slopes, shifted, with noise of its own."""
    random = np.random.default_rng(seed)
    points = [{f"x{i}": int(v) for i, v in enumerate(random.integers(1, 11, 4))} for _ in range(count)]
    truth = [sum(slope * math.log(p[f"x{i}"]) for i, slope in enumerate(SLOPES)) for p in points]
    return [(p, 7 + 0.5 * value + 0.1 * random.standard_normal()) for p, value in zip(points, truth, strict=True)]


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_scores_of_a_cheaper_kind_save_trials(direction):
    sign = 1 if direction == "maximize" else -1
    scores = [(point, sign * value) for point, value in scored()]
    top = sum(slope * math.log(10) for slope in SLOPES)
    for seed in range(3):
        study = run(
            AdditiveSampler(seed, scores=scores), 4, lambda trial: sign * value_and_size(trial)[0], direction=direction
        )
        assert sign * study.best_value > top - 0.5
    alone = [run(AdditiveSampler(seed), 4) for seed in range(3)]
    assert max(study.best_value for study in alone) < top - 0.5


def test_it_predicts_with_an_uncertainty_that_shrinks_and_holds():
    points = [point for point, _ in scored(40, seed=9)]
    truth = np.array([sum(slope * math.log(p[f"x{i}"]) for i, slope in enumerate(SLOPES)) for p in points])
    widths = []
    for trials in (4, 40):
        sampler = AdditiveSampler(seed=0)
        study = run(sampler, trials)
        mean, deviation = sampler.predict(study, points)
        widths.append(deviation.mean())
        assert (np.abs(mean - truth) < 3 * np.hypot(deviation, 0.2)).mean() > 0.9
    assert widths[1] < 0.5 * widths[0]
    assert np.corrcoef(mean, truth)[0, 1] > 0.98


def test_nothing_is_predicted_of_nothing():
    sampler = AdditiveSampler(seed=0)
    with pytest.raises(ValueError, match="needs a finished trial"):
        sampler.predict(study_of(sampler), [{"x0": 1}])
    with pytest.raises(ValueError, match=r"points: \{'x0': 1\} lacks x1, x2, x3"):
        sampler.predict(run(sampler, 2), [{"x0": 1}])


def test_three_objectives_are_refused():
    directions = {"direction": None, "directions": ["maximize"] * 3}
    with pytest.raises(ValueError, match="one or two objectives"):
        run(AdditiveSampler(0), 6, lambda trial: (trial.suggest_int("a", 0, 3),) * 3, **directions)


def test_it_can_be_pickled():
    sampler = AdditiveSampler(7, {"x0": [float(i) for i in range(10)]}, {"x0": 2.0})
    copy = pickle.loads(pickle.dumps(sampler))
    assert run(copy, 8).trials[-1].params == run(sampler, 8).trials[-1].params


def test_ray_asks_it_as_it_asks_any_sampler():
    pytest.importorskip("ray.tune.search.optuna", reason="Ray is not installed")
    from ray.tune.search.optuna import OptunaSearch

    def best(search):
        values = []
        for number in range(20):
            config = search.suggest(str(number))
            values.append(sum(slope * math.log(1 + config[f"x{i}"]) for i, slope in enumerate(SLOPES)))
            search.on_trial_complete(str(number), {"accuracy": values[-1]})
        return max(values)

    space = {f"x{i}": optuna.distributions.IntDistribution(0, 9) for i in range(4)}
    search = OptunaSearch(space, sampler=AdditiveSampler(seed=0), metric="accuracy", mode="max")
    assert best(pickle.loads(pickle.dumps(search))) == pytest.approx(sum(SLOPES) * math.log(10))


def test_it_proposes_from_the_first_trial_on_where_that_is_asked_for():
    study = run(AdditiveSampler(seed=3, n_startup_trials=1), 3)
    known = {f"x{i}": optuna.distributions.IntDistribution(1, 10) for i in range(4)}
    assert all(1 <= value <= 10 for value in study.ask(known).params.values())


def test_a_range_of_billions_takes_no_memory():
    study = optuna.create_study(direction="maximize", sampler=AdditiveSampler(seed=0, n_startup_trials=2))
    study.optimize(lambda trial: float(trial.suggest_int("seed", -(2**40), 2**40 - 2, step=3)), n_trials=4)
    assert all((value + 2**40) % 3 == 0 for value in (trial.params["seed"] for trial in study.trials))
