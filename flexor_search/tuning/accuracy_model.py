"""A smooth model of accuracy: what every layer's rate is worth, from shared-network scores and trainings together.

Additive: one curve per layer over its log rate, with a common rise and bend that all layers share (the rules of thumb
"every layer alike" and "larger layers lower rates" are what it believes before any measurement), and a trend from the
first to the last layer of a stage. What single layers differ by besides is dropped where the evidence (the marginal
likelihood times the prior of the variances) is better without: some dozens of trainings show what layers have in
common, and single layers mostly their own noise. Interactions between layers are in only where it is better with
them. A shared-network score is a biased linear view of the trained accuracy, with its own offset, factor, noise and
per-layer deviation; each source is weighed by the noise found for it.

Why not the best measurement: a single training or score is lucky or not, and the best of many is lucky. The posterior
mean is not, and since it is additive the best allocation under any budget is found exactly.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexor_search.errors import UsageError
from flexor_search.planning import Allocation, Budget, SearchSpace
from flexor_search.planning.space import Profile, spec_rate
from flexor_search.tuning.axes import Features, kind_of, space_axes
from flexor_search.tuning.best_under import best_other_profile, best_profile
from flexor_search.tuning.evidence import Posterior, SourceData, fit_evidence

Floats = NDArray[np.float64]

TRAINED, SHARED, SHARED_LOSS = "trained", "shared", "shared loss"
"""Sources: accuracies of trainings, the unit of the model; accuracies of a shared-weight network, or minus its losses.
Any other name is one more source of accuracies."""
UNITS = {SHARED_LOSS: 2.5}
"""Units of a source that one unit of accuracy comes to, roughly: 0.01 of accuracy goes with 0.02 to 0.03 of loss."""
_TRIFLE = 1e-4
"""Of the largest difference between two entries of a layer: what a bit more is worth where curves are level."""
_ENOUGH = 1.0
"""By how much the logarithm of the evidence must be better: with interactions, or without layers' own terms."""


@dataclass(frozen=True)
class Observation:
    """One value of an allocation.

    Attributes:
        allocation: what was measured. One outside the menus counts as the nearest of the space.
        value: greater is better: an accuracy (0 to 1), or minus a loss.
        source: what measured it. Values of one source share their unit, noise, offset and factor.
        count: of how many measurements the value is the mean; its noise is less by that.
    """

    allocation: Allocation
    value: float
    source: str = TRAINED
    count: float = 1.0


@dataclass(frozen=True)
class Sensitivity:
    """What a layer at a rate is predicted to lose.

    Attributes:
        layer: of the search, or tied layers joined by "+".
        label: the menu entry.
        bits_per_weight: its rate.
        loss: predicted value less, against the layer's best entry, all else equal; in the unit of the model (accuracy:
        0.01
            is one point).
        uncertainty: standard deviation of that difference.
    """

    layer: str
    label: str
    bits_per_weight: float
    loss: float
    uncertainty: float


@dataclass(frozen=True)
class AccuracyModel:
    """The fitted model.

    Attributes:
        space: the menus.
        features: what its curves are made of.
        posterior: weights and their covariance.
        reference: the source whose unit predictions have.
        counts: values of each source that it was fitted to.
        interaction_evidence: logarithm of the evidence with interactions less that without; above 1 they are in.
        chosen_from: the space that `best_under` chooses from; None: `space`.
    """

    space: SearchSpace = field(repr=False)
    features: Features = field(repr=False)
    posterior: Posterior = field(repr=False)
    reference: str
    counts: dict[str, int]
    interaction_evidence: float
    chosen_from: SearchSpace | None = field(default=None, repr=False)

    @property
    def has_interactions(self) -> bool:
        """Whether the data support interactions between layers."""
        return self.features.paired

    def predict(self, allocations: Sequence[Allocation]) -> tuple[Floats, Floats]:
        """Mean and standard deviation for each allocation, in the unit of the reference source.

        The standard deviation is of what many seeds would average to: the noise of a single training is not in it.

        Returns:
            Two arrays of shape (len(allocations),).
        """
        return self.predict_profiles([self.space.profile(allocation) for allocation in allocations])

    def predict_profiles(self, profiles: Sequence[Profile]) -> tuple[Floats, Floats]:
        """The same for profiles of the space."""
        return self.posterior.predict(self.features.of(profiles))

    def best_under(self, budget: Budget) -> Allocation:
        """The allocation that fits a budget and has the greatest sum of rising layer curves, found exactly.

        Interactions, where there are any, are in what is predicted and not in what is chosen: choosing by them gave
        worse allocations (docs/log.md).

        Raises:
            UsageError: the budget is below the cheapest allocation.
        """
        space = self.chosen_from or self.space
        return space.allocation(best_profile(space, self.choices, budget))

    def best_other_under(self, budget: Budget, known: Collection[Allocation]) -> Allocation | None:
        """The same of all allocations but these; None if no other fits, or none was found.

        Args:
            budget: any.
            known: those that are not wanted; others than the menus' are passed over.
        """
        space = self.chosen_from or self.space
        found = best_other_profile(space, self.choices, budget, space.held(known))
        return space.allocation(found) if found is not None else None

    def choosing_from(self, space: SearchSpace) -> "AccuracyModel":
        """The same model, whose best allocation is the best of a space with more ties; what it predicts stays.

        Args:
            space: each of its variables holds whole variables of the model's space, with their menu.
        """
        return replace(self, chosen_from=space)

    def draw(self, seed: int) -> "AccuracyModel":
        """A model drawn from the posterior: its best allocation is one that may well be the best (Thompson sampling).

        Args:
            seed: of the draw.
        """
        return replace(self, posterior=self.posterior.draw(np.random.Generator(np.random.PCG64(seed))))

    @cached_property
    def terms(self) -> list[Floats]:
        """For each variable the additive value of each menu entry."""
        additive = self.posterior.weights[: self.features.n_additive]
        return [table @ additive for table in self.features.tables]

    @cached_property
    def choices(self) -> list[Floats]:
        """The same as a choice is made by, for each variable of the space that it is made from: curves that never fall.

        An entry is worth no less than any cheaper one of its kind (code family, planes, outputs) in its layer, for who
        stores more bits can say what the other says; a fit to noisy values can still fall, and would leave a budget
        unused (docs/log.md). Plain weights are worth no less than anything. Of equals the one that stores more is worth
        a trifle more.
        """
        space = self.chosen_from or self.space
        terms = self._terms_of(space)
        trifle = _TRIFLE * (max((float(np.ptp(term)) for term in terms), default=0.0) or 1.0)
        found = []
        for variable, term in zip(space.variables, terms, strict=True):
            rates = np.array([spec_rate(spec) for spec in variable.menu])
            kinds = np.array([kind_of(spec) for spec in variable.menu])
            rising = np.empty_like(term)
            for kind in dict.fromkeys(kinds):
                order = [i for i in np.argsort(rates, kind="stable") if kinds[i] == kind]
                rising[order] = np.maximum.accumulate(term[order])
            kept = [i for i, spec in enumerate(variable.menu) if spec.is_kept]
            rising[kept] = term.max()
            found.append(rising + trifle * np.log(rates))
        return found

    def _terms_of(self, space: SearchSpace) -> list[Floats]:
        """For each variable of a space with more ties the sum of the terms of the variables that it holds."""
        place = {name: i for i, variable in enumerate(self.space.variables) for name in variable.layers}
        held = [dict.fromkeys(place[name] for name in variable.layers) for variable in space.variables]
        return [np.sum([self.terms[i] for i in places], axis=0) for places in held]

    def sensitivities(self) -> list[Sensitivity]:
        """What every layer loses at every entry of its menu, in the order of the space."""
        rows = []
        additive = self.features.n_additive
        covariance = self.posterior.covariance[1 : 1 + additive, 1 : 1 + additive]
        for variable, table, term in zip(self.space.variables, self.features.tables, self.terms, strict=True):
            best = int(np.argmax(term))
            apart = table - table[best]
            deviation = np.sqrt(np.maximum(np.einsum("ij,jk,ik->i", apart, covariance, apart), 0.0))
            rows += [
                Sensitivity(variable.name, spec.label, spec_rate(spec), float(term[best] - value), float(std))
                for spec, value, std in zip(variable.menu, term, deviation, strict=True)
            ]
        return rows

    def doubts(self) -> list[str]:
        """What the model is unsure of, in words, the gravest first; empty if nothing stands out."""
        from flexor_search.tuning.doubts import doubts

        return doubts(self)

    def to_json(self) -> dict[str, Any]:
        """What was found, as plain data: variances, noises and factors, sensitivities, doubts.

        Interactions apart, an allocation is predicted to have the `level` less the losses of its entries.
        """
        return {
            "reference": self.reference,
            "values": self.counts,
            "hyperparameters": self.posterior.chosen,
            "own_terms": self.features.own,
            "interactions": self.has_interactions,
            "interaction_evidence": self.interaction_evidence,
            "level": self.posterior.offset + sum(float(term.max()) for term in self.terms),
            "sensitivities": [vars(row) for row in self.sensitivities()],
            "doubts": self.doubts(),
        }


def fit_accuracy_model(
    space: SearchSpace, observations: Sequence[Observation], reference: str = TRAINED
) -> AccuracyModel:
    """Fit the model to everything that was measured.

    Args:
        space: the menus.
        observations: of any sources; values that are not finite are left out.
        reference: the source whose unit the predictions have; without values of it, the source with the most values.

    Returns:
        The model. With very few values it is the rules of thumb.

    Raises:
        UsageError: no finite value at all.

    Example:
        fit_accuracy_model(space, [Observation(a, score, SHARED), ..., Observation(b, accuracy), ...])
    """
    usable = [one for one in observations if np.isfinite(one.value)]
    if not usable:
        raise UsageError(
            "accuracy model: needs at least one finite value, got none; train or score an allocation first"
        )
    counts = {name: sum(one.source == name for one in usable) for name in dict.fromkeys(one.source for one in usable)}
    if reference not in counts:
        reference = max(counts, key=lambda name: counts[name])
    order = sorted(counts, key=lambda name: (name != reference, name))
    profiles = [space.profile(one.allocation) for one in usable]

    def fitted(features: Features) -> Posterior:
        sources = []
        for name in order:
            rows = [i for i, one in enumerate(usable) if one.source == name]
            sources.append(
                SourceData(
                    name,
                    features.of([profiles[i] for i in rows]),
                    np.array([usable[i].value for i in rows]),
                    np.array([usable[i].count for i in rows], float),
                    UNITS.get(name, 1.0),
                )
            )
        return fit_evidence(sources, features.groups)

    features = Features(space_axes(space))
    posterior = fitted(features)
    alike = replace(features, own=False)
    without = fitted(alike)
    if without.evidence - posterior.evidence > _ENOUGH:
        features, posterior = alike, without
    gain, paired = 0.0, replace(features, paired=True)
    if paired.pairs:
        interacting = fitted(paired)
        gain = interacting.evidence - posterior.evidence
        if gain > _ENOUGH:
            features, posterior = paired, interacting
    return AccuracyModel(space, features, posterior, reference, counts, gain)
