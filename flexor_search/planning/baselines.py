"""The rules of thumb that every search must be measured against: uniform rates, and larger layers lower rates."""

import math
from collections import Counter
from dataclasses import replace

from flexor_search.planning.allocation import Allocation
from flexor_search.planning.budget import Budget
from flexor_search.planning.layer_spec import LayerSpec
from flexor_search.planning.space import SearchSpace, project_log_rates

GAMMAS = (0.25, 0.5, 1.0)


def uniform_allocations(space: SearchSpace) -> list[Allocation]:
    """All uniform allocations, smallest first: one rate for every searched layer, n_in from 1 to n_out.

    They need not be in the menu. A layer keeps the family and the fixed rate that the space gives it; the number of
    planes goes up to the largest of the space.
    """
    layers = [variable for variable in space.variables for _ in variable.layers]  # the same whatever is tied
    menus = [spec for variable in layers for spec in variable.menu if not spec.is_kept]
    n_out = Counter(spec.n_out for spec in menus).most_common(1)[0][0]
    planes = max(spec.n_planes for spec in menus)
    found = []
    for count in range(1, planes + 1):
        for n_in in range(1, n_out + 1):
            specs = {}
            for variable in space.variables:
                first = _usual(variable.menu)
                fixed = len(variable.menu) == 1 or first.is_kept or first.family == "matrix"
                one = first if fixed else replace(first, n_in=n_in, n_out=n_out, n_planes=count)
                specs |= dict.fromkeys(variable.layers, one)
            found.append(space.allocation_of(specs))
    return sorted(found, key=lambda allocation: allocation.weight_bits)


def _usual(menu: tuple[LayerSpec, ...]) -> LayerSpec:
    """The first entry of the family that most entries have; a kept one if there is no other."""
    coded = [spec for spec in menu if not spec.is_kept]
    kinds = Counter((spec.family, spec.n_tap, spec.code_seed) for spec in coded)
    return max(coded, key=lambda spec: kinds[spec.family, spec.n_tap, spec.code_seed], default=menu[0])


def nearest_uniform(space: SearchSpace, budget: Budget) -> Allocation | None:
    """The largest uniform allocation that fits the budget; None if none does."""
    fitting = [allocation for allocation in uniform_allocations(space) if budget.fits(allocation, space.model_name)]
    return fitting[-1] if fitting else None


def size_rule(space: SearchSpace, budget: Budget, gamma: float) -> Allocation:
    """The allocation whose rates are proportional to weights ** -gamma, projected onto the budget.

    For tied layers the weights of one layer count, on (geometric) average.
    """
    log_rates = [
        -gamma * sum(math.log(space.model.by_name[name].n_weights) for name in variable.layers) / len(variable.layers)
        for variable in space.variables
    ]
    return space.allocation(project_log_rates(space, log_rates, budget))
