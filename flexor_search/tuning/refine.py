"""Which ties between layers the measurements support: a layer that is shown to differ gets a rate of its own."""

from collections.abc import Sequence

import numpy as np

from flexor_search.tuning.accuracy_model import AccuracyModel

STANDARD_ERRORS = 2.0


def supported_ties(model: AccuracyModel, groups: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """Split layers off their group where what their rate is worth differs from the rest of the group.

    Args:
        model: fitted on a space in which every layer is a choice of its own, to values of allocations whose tied layers
            had different rates (scores of a shared network, say).
        groups: names of layers that are tied, each with the same menu.

    Returns:
        The groups, those layers in groups of their own whose fall from the highest to the lowest rate differs from the
        mean of the others in their group by more than two standard errors. The layer that differs most goes first, and
        the others are compared again without it.
    """
    names = [variable.name for variable in model.space.variables]
    n = model.features.n_additive
    covariance, weights = model.posterior.covariance[1 : 1 + n, 1 : 1 + n], model.posterior.weights[:n]
    falls = {name: table[-1] - table[0] for name, table in zip(names, model.features.tables, strict=True)}
    found: list[tuple[str, ...]] = []
    for group in groups:
        together, alone = list(group), []
        while len(together) > 1:
            apart = {}
            for name in together:
                others = np.mean([falls[other] for other in together if other != name], axis=0)
                contrast = falls[name] - others
                error = float(np.sqrt(max(contrast @ covariance @ contrast, 1e-30)))
                apart[name] = abs(float(contrast @ weights)) / error
            most = max(apart, key=lambda name: apart[name])
            if apart[most] <= STANDARD_ERRORS:
                break
            together.remove(most)
            alone.append(most)
        found += [tuple(together), *((name,) for name in sorted(alone, key=list(group).index))]
    return found
