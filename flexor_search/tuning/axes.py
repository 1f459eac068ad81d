"""What the model of accuracy sees of a search space: one axis per choice, and the features that its curves are made of.

A *profile* is one index per axis. Every feature is a function of one axis alone, or a sum of such functions, but for
the products of pairs of axes; so whatever is linear in the rest is additive over the axes.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from flexor_search.planning import LayerSpec, SearchSpace
from flexor_search.planning.space import spec_log_rate
from flexor_search.planning.ties import has_number, stage_of

Floats = NDArray[np.float64]

MOST_PAIRED_AXES = 24
"""Up to so many axes every pair may interact; above it only neighbours in the order of the network."""
_SMOOTH_LENGTH = 1.0
_SMOOTH_TERMS = 5


@dataclass(frozen=True)
class Axis:
    """One choice of the search.

    Attributes:
        name: of the layer or the tied layers.
        places: for each entry its logarithm of the rate, or whatever it is a smooth function of.
        kinds: for each entry the name of its kind (code family and planes); entries of another kind may lie off the
            curve.
        weight: how much the axis may matter: the number of weights, or 1.
        depth: where in its stage the axis stands, from -1, the first, to 1, the last; 0 if it is alone there. A stage
            is what one name before its first number holds, `layer2` of a ResNet; a name without a number is in none.
    """

    name: str
    places: tuple[float, ...]
    kinds: tuple[str, ...]
    weight: float = 1.0
    depth: float = 0.0

    @property
    def size(self) -> int:
        """How many entries there are."""
        return len(self.places)


def space_axes(space: SearchSpace) -> tuple[Axis, ...]:
    """The axes of a search space, one for each variable: log rate, code family and planes, number of weights, depth."""
    weights = {layer.name: layer.n_weights for layer in space.model.layers}
    stages: dict[str, list[int]] = {}
    for i, variable in enumerate(space.variables):
        name = variable.layers[0]
        stages.setdefault(stage_of(name) if has_number(name) else name, []).append(i)
    depths = {i: d for some in stages.values() for i, d in zip(some, _spread(len(some)), strict=True)}
    return tuple(
        Axis(
            variable.name,
            tuple(spec_log_rate(spec) for spec in variable.menu),
            tuple(kind_of(spec) for spec in variable.menu),
            float(sum(weights[name] for name in variable.layers)),
            depths[i],
        )
        for i, variable in enumerate(space.variables)
    )


def _spread(count: int) -> list[float]:
    return np.linspace(-1, 1, count).tolist() if count > 1 else [0.0] * count


def kind_of(spec: LayerSpec) -> str:
    """What a menu entry is besides its rate: entries of one kind lie on one curve."""
    if spec.is_kept:
        return "kept"
    return f"{spec.family}, {spec.n_tap} taps, {spec.n_planes} planes, {spec.n_out} outputs"


@dataclass(frozen=True)
class Features:
    """The features of a profile, in groups that have one prior variance each.

    The groups: `common`, what all axes do alike (a rise with the rate, of the same height everywhere or larger where
    there are more weights: the rules of thumb are among these; and its bend); `trend`, how much steeper the later axes
    of a stage are than the earlier ones; `slope`, how much steeper an axis is than all that; `smooth`, how else it
    bends; `kind`, what another code family is worth; `pair`, products of two axes.

    Attributes:
        axes: the choices.
        paired: whether products are among the features.
        own: whether `slope`, `smooth` and `kind` are, by which every axis may differ from the others.
    """

    axes: tuple[Axis, ...]
    paired: bool = False
    own: bool = True

    @cached_property
    def _scale(self) -> tuple[float, float]:
        places = np.concatenate([axis.places for axis in self.axes if axis.size > 1] or [[0.0]])
        return float(places.mean()), float(places.std()) or 1.0

    @cached_property
    def tables(self) -> list[Floats]:
        """For each axis the features of each of its entries, shape (size, n_additive)."""
        return [np.hstack([self._common[i], self._trend[i], *self._own_blocks(i)]) for i in range(len(self.axes))]

    @cached_property
    def groups(self) -> NDArray[np.str_]:
        """The group of each feature, in order."""
        names = ["common"] * self._common[0].shape[1] + ["trend"] * self._trend[0].shape[1]
        for own in self._own:
            names += [name for name, block in own.items() for _ in range(block.shape[1])]
        return np.array(names + ["pair"] * len(self.pairs))

    @cached_property
    def pairs(self) -> list[tuple[int, int]]:
        """The pairs of axes that may interact."""
        if not self.paired:
            return []
        free = [i for i, axis in enumerate(self.axes) if np.ptp(axis.places) > 0]
        near = itertools.combinations(free, 2) if len(free) <= MOST_PAIRED_AXES else itertools.pairwise(free)
        return list(near)

    @property
    def n_additive(self) -> int:
        """How many features are additive; those of pairs come after them."""
        return self.tables[0].shape[1]

    def of(self, profiles: Sequence[Sequence[int]]) -> Floats:
        """The features of profiles, shape (len(profiles), n_features)."""
        index = np.asarray(profiles, dtype=int).reshape(len(profiles), len(self.axes))
        additive = np.zeros((len(index), self.tables[0].shape[1]))
        for i, table in enumerate(self.tables):
            additive += table[index[:, i]]
        lines = np.stack([self.lines[i][index[:, i]] for i in range(len(self.axes))])
        products = [lines[i] * lines[j] for i, j in self.pairs]
        return np.hstack([additive, np.stack(products, axis=1)]) if products else additive

    @cached_property
    def lines(self) -> list[Floats]:
        """For each axis the places of its entries in standard deviations of all places."""
        mean, spread = self._scale
        return [(np.asarray(axis.places) - mean) / spread for axis in self.axes]

    @cached_property
    def _common(self) -> list[Floats]:
        weights = np.array([axis.weight for axis in self.axes])
        shares = [weights**power / np.mean(weights**power) for power in (0.0, 0.5, 1.0)]
        kinds = sorted({kind for axis in self.axes for kind in axis.kinds} - {self._usual_kind})
        count = math.sqrt(len(self.axes))
        blocks = []
        for i, axis in enumerate(self.axes):
            line = self.lines[i]
            columns = [share[i] * line for share in shares] + [share[i] * (line**2 - 1) / 2 for share in shares[:2]]
            columns += [np.array([kind == other for kind in axis.kinds], float) for other in kinds]
            blocks.append(np.stack(columns, axis=1) / count)
        return blocks

    @cached_property
    def _trend(self) -> list[Floats]:
        if not any(axis.depth for axis in self.axes):
            return [np.zeros((axis.size, 0)) for axis in self.axes]
        count = math.sqrt(len(self.axes))
        return [axis.depth * line[:, None] / count for axis, line in zip(self.axes, self.lines, strict=True)]

    @property
    def _usual_kind(self) -> str:
        kinds = [kind for axis in self.axes for kind in axis.kinds]
        return max(sorted(set(kinds)), key=kinds.count)

    @cached_property
    def _own(self) -> list[dict[str, Floats]]:
        if not self.own:
            return []
        return [
            {"slope": self._slope(i), "smooth": _smooth(self.lines[i]), "kind": self._kinds(axis)}
            for i, axis in enumerate(self.axes)
        ]

    def _slope(self, i: int) -> Floats:
        line = self.lines[i]
        return line[:, None] if np.ptp(line) > 0 else np.zeros((len(line), 0))

    def _kinds(self, axis: Axis) -> Floats:
        others = sorted(set(axis.kinds), key=lambda kind: (-axis.kinds.count(kind), kind))[1:]
        return np.array([[float(kind == other) for other in others] for kind in axis.kinds]).reshape(axis.size, -1)

    def _own_blocks(self, i: int) -> list[Floats]:
        """The features of axis i alone, zeros where those of other axes stand."""
        rows = self.axes[i].size
        return [
            block if j == i else np.zeros((rows, block.shape[1]))
            for j, own in enumerate(self._own)
            for block in own.values()
        ]


def _smooth(line: Floats) -> Floats:
    """A smooth curve of unit variance, less its mean and its straight part, as few independent terms.

    Args:
        line: places of the entries, in standard deviations.

    Returns:
        Terms, shape (len(line), few): the sum of their outer products is the curve's covariance, a squared-exponential
        kernel projected off constants and straight lines.
    """
    different = np.unique(line)
    if len(different) < 3:
        return np.zeros((len(line), 0))
    kernel = np.exp(-((different[:, None] - different) ** 2) / (2 * _SMOOTH_LENGTH**2))
    straight, _ = np.linalg.qr(np.stack([np.ones_like(different), different], axis=1))
    off = np.eye(len(different)) - straight @ straight.T
    values, vectors = np.linalg.eigh(off @ kernel @ off)
    few = np.flatnonzero(values > 1e-3 * values[-1])[::-1][:_SMOOTH_TERMS]
    terms = vectors[:, few] * np.sqrt(values[few])
    return terms[np.searchsorted(different, line)]
