"""Bayesian linear regression on several sources at once, its variances chosen by the marginal likelihood.

A value of the reference source is `offset + features . weights + noise`. A value of another source s is
`offset_s + factor_s * (features . weights) + features . deviation_s + noise_s`: a biased linear view of the first, with
a factor, an offset, a noise and a deviation of its own. Weights and deviations are Gaussian with a variance for
each group of features; variances, noises and factors maximize the marginal likelihood times a weak prior, by its
gradient.

Everything needed of the data is a few sums, so a fit costs the same for ten values and ten thousand.

Source: evidence maximization as in MacKay, "Bayesian interpolation" (1992); the gradient is Fisher's identity, the
posterior expectation of the gradient of the joint density.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.linalg
import scipy.optimize
from numpy.typing import NDArray

Floats = NDArray[np.float64]

PRIORS = {
    "common": (1.0, 3.0),
    "trend": (0.3, 3.0),
    "slope": (0.05, 3.0),
    "smooth": (0.05, 3.0),
    "kind": (0.05, 3.0),
    "pair": (0.005, 3.0),
    "noise": (0.1, 5.0),
    "factor": (1.0, 1.5),
    "deviation": (0.01, 2.0),
}
"""For each variance, noise variance and factor its middle, and how many times more or less is one standard deviation.
In units of the spread of the source whose values spread most."""
_OFFSET_VARIANCE = 100.0
_DEVIATING = ("common", "trend", "slope", "smooth")
"""The groups of features whose weight another source may see differently."""


@dataclass(frozen=True)
class SourceData:
    """The values of one source.

    Attributes:
        name: of the source.
        features: shape (n, n_features).
        values: greater is better, shape (n,).
        counts: how many measurements each value is the mean of, shape (n,).
        unit: how many units of this source one of the reference comes to, as far as is known beforehand.
    """

    name: str
    features: Floats
    values: Floats
    counts: Floats
    unit: float = 1.0


@dataclass(frozen=True)
class Posterior:
    """What is known after the fit, in the units of the reference source.

    Attributes:
        offset: value of the reference source at features of zero.
        weights: posterior mean, shape (n_features,).
        covariance: of offset and weights, shape (1 + n_features, 1 + n_features), the offset first.
        evidence: logarithm of the marginal likelihood times the prior of the variances.
        chosen: the variances, noises and factors by name.
    """

    offset: float
    weights: Floats
    covariance: Floats
    evidence: float
    chosen: dict[str, float]

    def predict(self, features: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation, without noise, of the reference source's values; each of shape (n,)."""
        extended = np.hstack([np.ones((len(features), 1)), features])
        mean = self.offset + features @ self.weights
        return mean, np.sqrt(np.maximum(np.einsum("ij,jk,ik->i", extended, self.covariance, extended), 0.0))

    def draw(self, random: np.random.Generator) -> "Posterior":
        """The same with offset and weights drawn from it.

        By a Cholesky factor, which changes little where the covariance does: eigenvectors of equal eigenvalues would
        depend on how a machine rounds, and the same seed would draw something else there.
        """
        size = len(self.covariance)
        jitter = 1e-9 * float(np.trace(self.covariance)) / size + 1e-300
        factor = np.linalg.cholesky((self.covariance + self.covariance.T) / 2 + jitter * np.eye(size))
        drawn = np.concatenate([[self.offset], self.weights]) + factor @ random.standard_normal(size)
        return replace(self, offset=float(drawn[0]), weights=drawn[1:])


def fit_evidence(
    sources: Sequence[SourceData], groups: NDArray[np.str_], start: dict[str, float] | None = None
) -> Posterior:
    """Fit weights, variances, noises and factors.

    Args:
        sources: the reference first; none is empty.
        groups: the group of each feature, a key of `PRIORS`.
        start: `chosen` of an earlier fit, where the search for the variances begins.

    Returns:
        The posterior, at the best variances found.
    """
    problem = _Problem(sources, groups)
    first = problem.pack(start or {})
    found = scipy.optimize.minimize(
        problem.loss, first, jac=True, method="L-BFGS-B", bounds=problem.bounds, options={"maxiter": 80, "ftol": 1e-7}
    )
    return problem.posterior(found.x)


class _Problem:
    """The sums of the data in standard units, and the loss of a vector of logarithms of hyperparameters."""

    def __init__(self, sources: Sequence[SourceData], groups: NDArray[np.str_]) -> None:
        self.sources, self.groups = sources, groups
        self.n = len(groups)
        self.deviating = np.flatnonzero(np.isin(groups, _DEVIATING))
        # trainings of a few good allocations spread little, and mostly by noise: that would be no unit for a model
        self.unit = max(float(np.std(one.values)) / one.unit for one in sources) or 1.0
        self.centre = [float(np.average(one.values, weights=one.counts)) for one in sources]
        self.sums = []
        for one, centre in zip(sources, self.centre, strict=True):
            extended = np.hstack([np.ones((len(one.values), 1)), one.features])
            weighted = extended * one.counts[:, None]
            y = (one.values - centre) / (self.unit * one.unit)
            self.sums.append((weighted.T @ extended, weighted.T @ y, float(one.counts @ y**2), len(y)))
        self.names = [f"variance of {group}" for group in sorted(set(groups))]
        self.names += [f"noise of {one.name}" for one in sources]
        for one in sources[1:]:
            self.names += [f"factor of {one.name}", f"deviation of {one.name}"]
        self.priors = np.array([PRIORS[self._kind(name)] for name in self.names])
        # unknowns: weights, then for each source its offset, then the deviations of all but the first
        self.size = self.n + len(sources) + len(self.deviating) * (len(sources) - 1)

    @staticmethod
    def _kind(name: str) -> str:
        kind, _, of = name.partition(" of ")
        return of if kind == "variance" else kind

    @property
    def bounds(self) -> list[tuple[float, float]]:
        middle, width = np.log(self.priors).T
        return [(m - 6 * w, m + 6 * w) for m, w in zip(middle, width, strict=True)]

    def pack(self, chosen: dict[str, float]) -> Floats:
        """Logarithms of hyperparameters, the middle of the prior where none is given."""
        given = [chosen.get(name, float(prior[0])) for name, prior in zip(self.names, self.priors, strict=True)]
        bounds = np.array(self.bounds)
        return np.clip(np.log(np.maximum(given, 1e-300)), bounds[:, 0], bounds[:, 1])

    def _maps(self, chosen: dict[str, float]) -> list[Floats]:
        """For each source the matrix from all unknowns to the coefficients of (1, features)."""
        maps = []
        for s, one in enumerate(self.sources):
            matrix = np.zeros((1 + self.n, self.size))
            matrix[0, self.n + s] = 1.0
            matrix[1:, : self.n] = np.eye(self.n) * chosen.get(f"factor of {one.name}", 1.0)
            if s:
                matrix[1 + self.deviating, self._deviations(s)] = 1.0
            maps.append(matrix)
        return maps

    def _deviations(self, s: int) -> NDArray[np.int64]:
        count = len(self.deviating)
        return self.n + len(self.sources) + (s - 1) * count + np.arange(count)

    def _solve(self, x: Floats):
        chosen = dict(zip(self.names, np.exp(x), strict=True))
        variances = np.full(self.size, _OFFSET_VARIANCE)
        for group in set(self.groups):
            variances[: self.n][self.groups == group] = chosen[f"variance of {group}"]
        for s, one in enumerate(self.sources[1:], start=1):
            variances[self._deviations(s)] = chosen[f"deviation of {one.name}"]
        precision, right, fit = np.diag(1 / variances), np.zeros(self.size), 0.0
        maps = self._maps(chosen)
        for one, matrix, (gram, cross, square, count) in zip(self.sources, maps, self.sums, strict=True):
            noise = chosen[f"noise of {one.name}"]
            precision += matrix.T @ gram @ matrix / noise
            right += matrix.T @ cross / noise
            fit += square / noise + count * math.log(2 * math.pi * noise)
        lower = scipy.linalg.cholesky(precision, lower=True)
        mean = scipy.linalg.cho_solve((lower, True), right)
        covariance = scipy.linalg.cho_solve((lower, True), np.eye(self.size))
        log_determinant = 2 * np.log(np.diag(lower)).sum() + np.log(variances).sum()
        evidence = -0.5 * (fit + log_determinant - right @ mean)
        return chosen, variances, maps, mean, covariance, evidence

    def loss(self, x: Floats) -> tuple[float, Floats]:
        """Minus the logarithm of evidence times prior, and its gradient by the logarithms."""
        chosen, variances, maps, mean, covariance, evidence = self._solve(x)
        moment = covariance + np.outer(mean, mean)
        pull = 0.5 * (np.diag(moment) / variances - 1)
        gradient = {f"variance of {group}": pull[: self.n][self.groups == group].sum() for group in set(self.groups)}
        for s, (one, matrix, (gram, cross, square, count)) in enumerate(
            zip(self.sources, maps, self.sums, strict=True)
        ):
            noise = chosen[f"noise of {one.name}"]
            seen = gram @ matrix @ moment
            residual = square - 2 * cross @ matrix @ mean + np.sum(seen * matrix)
            gradient[f"noise of {one.name}"] = 0.5 * (residual / noise - count)
            if s:
                scaled = np.zeros_like(matrix)
                scaled[:, : self.n] = matrix[:, : self.n]
                slope = cross @ scaled @ mean - np.sum(seen * scaled)
                gradient[f"factor of {one.name}"] = slope / noise
                gradient[f"deviation of {one.name}"] = pull[self._deviations(s)].sum()
        middle, width = np.log(self.priors).T
        away = (x - middle) / width
        value = evidence - 0.5 * away @ away
        return -value, -(np.array([gradient[name] for name in self.names]) - away / width)

    def posterior(self, x: Floats) -> Posterior:
        """The posterior at given logarithms of hyperparameters, in the units of the reference."""
        chosen, _, _, mean, covariance, _ = self._solve(x)
        order = np.array([self.n, *range(self.n)])
        unit = self.unit * self.sources[0].unit
        return Posterior(
            offset=self.centre[0] + unit * mean[self.n],
            weights=unit * mean[: self.n],
            covariance=unit**2 * covariance[np.ix_(order, order)],
            evidence=-self.loss(x)[0],
            chosen={name: float(value) for name, value in chosen.items()},
        )
