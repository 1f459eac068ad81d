"""An Optuna sampler that believes in one smooth curve per parameter, for ordered integers such as menu indices.

It fits the additive model of `evidence` to the finished trials, draws one set of curves from the posterior (Thompson
sampling: what may well be the best is tried as often as it may be) and takes their best point. With two objectives, a
value and a size, it aims at a size drawn anew for every trial and takes the best point that is no larger, exactly.

The study need know nothing of this project: any with integer parameters can use it, and Ray's
`OptunaSearch(sampler=...)`. Other parameters are sampled at random. Values of a cheaper kind, such as the scores of a
shared network, can be given beside the trials, and the fit is to both.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
            such as the log rates of a menu; without it the logarithm of the value where all are above zero, else the
            value.
        weights: for a parameter how much it may matter, such as a number of weights; without it all alike.
        n_startup_trials: finished trials before the model is used; until then at random. With scores one is enough,
            which tells the parameters.
        scores: (parameters, value) of what was measured in another, cheaper way, in the direction of the first
            objective: a biased linear view of it, with a factor, an offset and a noise of its own, which are fitted.

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
        scores: Sequence[tuple[Mapping[str, int], float]] = (),
    ) -> None:
        self._places, self._weights = dict(places or {}), dict(weights or {})
        self._scores = [(dict(params), float(value)) for params, value in scores]
        self._n_startup_trials = 1 if self._scores else max(n_startup_trials, 1)
        self._independent = RandomSampler(seed)
        self._seed = seed if seed is not None else int(np.random.SeedSequence().generate_state(1)[0])
        self._search_space = IntersectionSearchSpace()

    def reseed_rng(self) -> None:
        """Draw otherwise from now on, as Optuna asks of each of several threads."""
        self._independent.reseed_rng()
        self._seed = int(np.random.SeedSequence().generate_state(1)[0])

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The integer parameters that all finished trials have; those with a single value are left out."""
        return self._integers(study)

    def _integers(self, study: Study) -> dict[str, BaseDistribution]:
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
        fitted = self._fitted(study, search_space)
        if fitted is None:
            return {}
        random = np.random.Generator(np.random.PCG64([self._seed, trial.number]))
        sizes = None
        if len(directions) > 1:
            values = np.array([one.values[1] for one in fitted.done]) * _sign(directions[1])
            sizes = _tables(fitted.features, _ridge(fitted.rows, -values))
        names = list(search_space)
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        begun = {tuple(one.params.get(name) for name in names) for one in running if one.number != trial.number}
        begun |= {tuple(one.params[name] for name in names) for one in fitted.done}
        chosen = _choose(
            fitted.features, fitted.gains, sizes, random, lambda profile: _params(fitted.entries, profile) in begun
        )
        return dict(zip(names, _params(fitted.entries, chosen), strict=True))

    def predict(self, study: Study, points: Sequence[Mapping[str, int]]) -> tuple[Floats, Floats]:
        """What the first objective is believed to be.

        Args:
            study: whose finished trials the model is fitted to, and to the scores.
            points: values of all integer parameters.

        Returns:
            Mean and standard deviation of the objective without its noise, each of shape (len(points),).

        Raises:
            ValueError: no trial is finished, or a point lacks a parameter.
        """
        search_space = self._integers(study)
        fitted = self._fitted(study, search_space, least=1)
        if fitted is None:
            raise ValueError("study: needs a finished trial with integer parameters before anything can be predicted")
        for point in points:
            if missing := search_space.keys() - point.keys():
                raise ValueError(f"points: {dict(point)} lacks {', '.join(sorted(missing))}")
        profiles = [_profile(point, search_space, fitted.entries) for point in points]
        mean, deviation = fitted.gains.predict(fitted.features.of(profiles))
        return mean * _sign(study.directions[0]), deviation

    def _fitted(
        self, study: Study, search_space: Mapping[str, BaseDistribution], least: int | None = None
    ) -> "_Fitted | None":
        """The model, fitted to what is finished; None where that is too little."""
        done = [
            one
            for one in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            if one.values is not None
            and np.isfinite(one.values).all()
            and all(name in one.params for name in search_space)
        ]
        if not search_space or len(done) < (least or self._n_startup_trials):
            return None
        entries = [_entries(known) for known in search_space.values()]
        axes = [
            self._axis(name, known, values) for (name, known), values in zip(search_space.items(), entries, strict=True)
        ]
        features, sign = Features(tuple(axes)), _sign(study.directions[0])
        rows = features.of([_profile(one.params, search_space, entries) for one in done])
        values = np.array([one.values[0] for one in done])
        sources = [SourceData("trials", rows, values * sign, np.ones(len(done)))]
        known = [(params, value) for params, value in self._scores if search_space.keys() <= params.keys()]
        if known:
            others = features.of([_profile(params, search_space, entries) for params, _ in known])
            values = np.array([value for _, value in known]) * sign
            sources.append(SourceData("scores", others, values, np.ones(len(known))))
        return _Fitted(entries, features, done, rows, fit_evidence(sources, features.groups))

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


@dataclass(frozen=True)
class _Fitted:
    """The model of a study: values of each parameter, features, finished trials with theirs, and what is believed."""

    entries: list["np.ndarray"]
    features: Features
    done: list[FrozenTrial]
    rows: Floats
    gains: Posterior


def _sign(direction: StudyDirection) -> float:
    return 1.0 if direction == StudyDirection.MAXIMIZE else -1.0


def _profile(
    params: Mapping[str, Any], search_space: Mapping[str, BaseDistribution], entries: Sequence["np.ndarray"]
) -> tuple[int, ...]:
    """The nearest of the values that the model tells apart, by index."""
    return tuple(
        int(np.argmin(np.abs(values - params[name]))) for name, values in zip(search_space, entries, strict=True)
    )


def _entries(known: BaseDistribution) -> "np.ndarray":
    assert isinstance(known, IntDistribution)
    count = (known.high - known.low) // known.step + 1
    few = np.unique(np.linspace(0, count - 1, min(count, MOST_ENTRIES)).round().astype(int))
    return known.low + known.step * few


def _params(entries: Sequence["np.ndarray"], profile: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(values[index]) for values, index in zip(entries, profile, strict=True))


def _ridge(rows: Floats, values: Floats) -> Floats:
    """Weights for sizes, which have no noise worth a model: the least that explain them."""
    centred = rows - rows.mean(axis=0)
    gram = centred.T @ centred + 1e-6 * len(rows) * np.eye(rows.shape[1])
    return np.linalg.solve(gram, centred.T @ (values - values.mean()))


def _tables(features: Features, weights: Floats) -> list[Floats]:
    return [table @ weights for table in features.tables]


def _choose(features: Features, gains: Posterior, sizes: list[Floats] | None, random, is_known) -> tuple[int, ...]:
    """The best point of a draw, new if one of a few draws has a new one, else the best new one of random points."""
    terms, limit, profile = [], math.inf, ()
    for _ in range(_DRAWS):
        terms = _tables(features, gains.draw(random).weights)
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
