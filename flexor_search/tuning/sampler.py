"""An Optuna sampler that believes in one smooth curve per parameter, for ordered integers such as menu indices.

It fits the additive model of `evidence` to the finished trials, draws one set of curves from the posterior (Thompson
sampling: what may well be the best is tried as often as it may be) and takes their best point. With two objectives, a
value and a size, it aims at a size drawn anew for every trial and takes the best point that is no larger, exactly.

It needs nothing of this project: any study with integer parameters can use it, and Ray's `OptunaSearch(sampler=...)`.
Other parameters are sampled at random.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from flexor_search.tuning.axes import Axis, Features
from flexor_search.tuning.evidence import Floats, Posterior, SourceData, fit_evidence
from flexor_search.tuning.exact import best_choice

MOST_ENTRIES = 64
"""Values of one parameter that the model tells apart; of more, so many evenly spread ones are proposed."""
_DRAWS = 8
_RANDOM_POINTS = 256
_SIZE_STEPS = 1_000_000


class AdditiveSampler(BaseSampler):
    """Thompson sampling from a smooth additive model of one or two objectives.

    Args:
        seed: of everything that is drawn; the same study and seed give the same proposals. None: a seed of its own.
        places: for a parameter the place of each of its values on the scale on which the first objective is smooth,
        such as
            the log rates of a menu; without it the logarithm of the value where all are above zero, else the value.
        weights: for a parameter how much it may matter, such as a number of weights; without it all alike.
        n_startup_trials: finished trials before the model is used; until then at random.

    Example:
        >>> import optuna
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> study = optuna.create_study(direction="maximize", sampler=AdditiveSampler(seed=0))
        >>> study.optimize(lambda trial: trial.suggest_int("a", 0, 9) - trial.suggest_int("b", 0, 9), n_trials=20)
        >>> study.best_params
        {'a': 9, 'b': 0}
    """

    def __init__(
        self,
        seed: int | None = None,
        places: Mapping[str, Sequence[float]] | None = None,
        weights: Mapping[str, float] | None = None,
        n_startup_trials: int = 4,
    ) -> None:
        self._places, self._weights = dict(places or {}), dict(weights or {})
        self._n_startup_trials = n_startup_trials
        self._independent = RandomSampler(seed)
        self._seed = seed if seed is not None else int(np.random.SeedSequence().generate_state(1)[0])
        self._search_space = IntersectionSearchSpace()

    def reseed_rng(self) -> None:
        """Draw otherwise from now on, as Optuna asks of each of several threads."""
        self._independent.reseed_rng()
        self._seed = int(np.random.SeedSequence().generate_state(1)[0])

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The integer parameters that all finished trials have; those with a single value are left out."""
        found = self._search_space.calculate(study)
        return {
            name: known for name, known in found.items() if isinstance(known, IntDistribution) and not known.single()
        }

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A value for each parameter of `search_space`; none before `n_startup_trials` trials are finished.

        Raises:
            ValueError: the study has more than two objectives.
        """
        directions = study.directions
        if len(directions) > 2:
            raise ValueError(f"AdditiveSampler: needs one or two objectives (value, size), got {len(directions)}")
        names = list(search_space)
        done = [
            one
            for one in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            if one.values is not None and np.isfinite(one.values).all() and all(name in one.params for name in names)
        ]
        if not names or len(done) < max(self._n_startup_trials, 1):
            return {}
        entries = [_entries(search_space[name]) for name in names]
        features = Features(
            tuple(
                self._axis(name, known, values)
                for (name, known), values in zip(search_space.items(), entries, strict=True)
            )
        )
        profiles = [
            tuple(
                int(np.argmin(np.abs(values - one.params[name]))) for name, values in zip(names, entries, strict=True)
            )
            for one in done
        ]
        rows = features.of(profiles)
        signs = [1.0 if direction == StudyDirection.MAXIMIZE else -1.0 for direction in directions]
        values = np.array([one.values for one in done]) * signs
        random = np.random.Generator(np.random.PCG64([self._seed, trial.number]))
        gains = _fit(features, rows, values[:, 0])
        sizes = _tables(features, _ridge(rows, -values[:, 1])) if len(directions) > 1 else None
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        begun = {tuple(one.params.get(name) for name in names) for one in running if one.number != trial.number}
        begun |= {tuple(one.params[name] for name in names) for one in done}
        chosen = _choose(features, gains, sizes, random, lambda profile: _params(entries, profile) in begun)
        return dict(zip(names, _params(entries, chosen), strict=True))

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A value at random: for the first trials, and for parameters that are no integers or not always there."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def _axis(self, name: str, known: BaseDistribution, values: "np.ndarray") -> Axis:
        places = self._places.get(name)
        if places is None:
            places = np.log(values) if values[0] > 0 else values.astype(float)
        else:
            assert isinstance(known, IntDistribution)
            every = range(known.low, known.high + 1, known.step)
            if len(places) != len(every):
                raise ValueError(f"places: {name!r} has {len(every)} values, got {len(places)} places")
            places = [places[every.index(int(value))] for value in values]
        return Axis(name, tuple(float(place) for place in places), ("",) * len(values), self._weights.get(name, 1.0))


def _entries(known: BaseDistribution) -> "np.ndarray":
    assert isinstance(known, IntDistribution)
    every = np.arange(known.low, known.high + 1, known.step)
    few = np.unique(np.linspace(0, len(every) - 1, min(len(every), MOST_ENTRIES)).round().astype(int))
    return every[few]


def _params(entries: Sequence["np.ndarray"], profile: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(values[index]) for values, index in zip(entries, profile, strict=True))


def _fit(features: Features, rows: Floats, values: Floats) -> Posterior:
    return fit_evidence([SourceData("trials", rows, values, np.ones(len(values)))], features.groups)


def _ridge(rows: Floats, values: Floats) -> Floats:
    """Weights for sizes, which have no noise worth a model: the least that explain them."""
    centred = rows - rows.mean(axis=0)
    gram = centred.T @ centred + 1e-6 * len(rows) * np.eye(rows.shape[1])
    return np.linalg.solve(gram, centred.T @ (values - values.mean()))


def _tables(features: Features, weights: Floats) -> list[Floats]:
    return [table @ weights for table in features.tables]


def _choose(features: Features, gains: Posterior, sizes: list[Floats] | None, random, is_known) -> tuple[int, ...]:
    """The best point of a draw, new if one of a few draws has a new one, else the best new one of random points."""
    values, vectors = np.linalg.eigh(gains.covariance[1:, 1:])
    scales = vectors * np.sqrt(np.maximum(values, 0.0))
    terms, limit, profile = [], math.inf, ()
    for _ in range(_DRAWS):
        terms = _tables(features, gains.weights + scales @ random.standard_normal(len(values)))
        if sizes is None:
            profile = tuple(int(np.argmax(term)) for term in terms)
        else:
            profile, limit = _largest_within(terms, sizes, random)
        if not is_known(profile):
            return profile
    points = random.integers(0, [axis.size for axis in features.axes], (_RANDOM_POINTS, len(features.axes)))

    def worth(point) -> tuple[bool, float]:
        size = sum(table[i] for table, i in zip(sizes, point, strict=True)) if sizes is not None else 0.0
        return bool(size <= limit), float(sum(term[i] for term, i in zip(terms, point, strict=True)))

    new = [point for point in map(tuple, points.tolist()) if not is_known(point)]
    return max(new, key=worth, default=profile)


def _largest_within(terms: list[Floats], sizes: list[Floats], random) -> tuple[tuple[int, ...], float]:
    """The best point no larger than a size drawn between the least and the greatest, and that size."""
    least, most = sum(float(one.min()) for one in sizes), sum(float(one.max()) for one in sizes)
    limit = least + (most - least) * random.random()
    step = (most - least) / _SIZE_STEPS or 1.0
    costs = [np.ceil((one - one.min()) / step).astype(np.int64) for one in sizes]
    chosen = best_choice(terms, costs, int((limit - least) / step))
    assert chosen is not None  # costs begin at zero
    return chosen, limit
