"""Which layers the measurements let go of a tie that was found: one that is shown to differ gets a rate of its own."""

from collections.abc import Mapping, Sequence

import numpy as np

from flexor_search.tuning.accuracy_model import AccuracyModel

STANDARD_ERRORS = 3.0
"""By how many a layer must differ. More than the two that noise asks for: on deep networks what a rate is worth on the
shared network differs, layer by layer, from what it is worth in trainings, and no number of scores lessens that."""
_MOST_NAMED = 4


def own_rates(model: AccuracyModel, groups: Sequence[Sequence[str]]) -> dict[str, float]:
    """The layers for which what their rate is worth differs from the rest of their group.

    Args:
        model: fitted on a space in which each of these layers is a choice of its own, to values of allocations whose
            tied layers had different rates (scores of a shared network, say).
        groups: names of layers that are tied, each with the same menu.

    Returns:
        Those layers whose fall from the highest to the lowest rate differs from the mean of the others in their group
        by more than `STANDARD_ERRORS`, and by how many: above 0 where the layer's rate matters more. The layer that
        differs most goes first, and the others are compared again without it. A trend that all stages have does not
        count: it tells no layer from the others of its group by itself. None where the model has no terms of single
        layers.
    """
    if not model.features.own:
        return {}
    names = [variable.name for variable in model.space.variables]
    n = model.features.n_additive
    covariance, weights = model.posterior.covariance[1 : 1 + n, 1 : 1 + n], model.posterior.weights[:n]
    alone_in = model.features.groups[:n] != "trend"
    falls = {name: alone_in * (table[-1] - table[0]) for name, table in zip(names, model.features.tables, strict=True)}
    found: dict[str, float] = {}
    for group in groups:
        together, alone = list(group), {}
        while len(together) > 1:
            apart = {}
            for name in together:
                others = np.mean([falls[other] for other in together if other != name], axis=0)
                contrast = falls[name] - others
                error = float(np.sqrt(max(contrast @ covariance @ contrast, 1e-30)))
                apart[name] = float(contrast @ weights) / error
            most = max(apart, key=lambda name: abs(apart[name]))
            if abs(apart[most]) <= STANDARD_ERRORS:
                break
            together.remove(most)
            alone[most] = apart[most]
        found |= {name: round(alone[name], 2) for name in group if name in alone}
    return found


def told(own: Mapping[str, float], groups: Sequence[Sequence[str]]) -> str:
    """What became of ties that were found, in one line.

    Args:
        own: from `own_rates`.
        groups: the ties.
    """
    if not own:
        count = sum(map(len, groups))
        return f"{count} layers stay tied as found: none is worth more or less than those like it beyond doubt"
    most = sorted(own, key=lambda name: -abs(own[name]))
    first = own[most[0]]
    why = f"it matters {'more' if first > 0 else 'less'} than those like it, by {abs(first):.1f} standard errors"
    count = f"{len(most) - 1} other{'s' if len(most) > 2 else ''} too"
    others = f"; {count}: {', '.join(most[1:_MOST_NAMED])}" if len(most) > 1 else ""
    return f"{most[0]} gets a rate of its own: {why}{others}{', ...' if len(most) > _MOST_NAMED else ''}"
