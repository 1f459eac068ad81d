"""The search space: for each layer, or group of tied layers, the ordered menu of what it may be stored as.

A *profile* is one menu index per variable: ordered integers, which is what is proposed. What is wished for is
projected onto a budget before it is trained, so nothing over budget is ever measured; what is left over is spent.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from flexor_search.errors import UsageError
from flexor_search.planning.allocation import Allocation
from flexor_search.planning.budget import Budget
from flexor_search.planning.layer_spec import KEPT, LayerSpec
from flexor_search.planning.model_shape import ModelShape

Profile = tuple[int, ...]


@dataclass(frozen=True)
class Variable:
    """One choice of the search: the layers it sets, and the menu, cheapest first.

    Attributes:
        layers: names of the layers, one unless tied.
        menu: LayerSpecs ordered by stored bits per weight.
    """

    layers: tuple[str, ...]
    menu: tuple[LayerSpec, ...]

    @property
    def name(self) -> str:
        """The layers' names, joined."""
        return "+".join(self.layers)


@dataclass(frozen=True)
class SearchSpace:
    """Which allocations may be chosen.

    Attributes:
        model: the shapes.
        variables: every searched layer is in exactly one; the other layers are kept in kept_dtype.
        kept_dtype: dtype of scales and kept tensors.
        model_name: the built-in workload, "" for a user's own model; part of the file's header, so of its size.
        kept_reasons: why each layer that is not searched is kept; nothing is skipped in silence.
        found_ties: `layers` of the variables that were tied because the layers are alike, not because a file says so:
            measurements may let layers of these go.
    """

    model: ModelShape = field(repr=False)
    variables: tuple[Variable, ...]
    kept_dtype: str = "float16"
    model_name: str = ""
    kept_reasons: tuple[tuple[str, str], ...] = ()
    found_ties: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        if not self.variables:
            raise UsageError("space: no layer is left to search; let at least one layer have a rate")

    @cached_property
    def searched(self) -> tuple[bool, ...]:
        """Whether each layer of the model takes part in the search."""
        names = {name for variable in self.variables for name in variable.layers}
        return tuple(layer.name in names for layer in self.model.layers)

    @property
    def size(self) -> int:
        """How many allocations the space holds."""
        return math.prod(len(variable.menu) for variable in self.variables)

    @cached_property
    def cheapest(self) -> Allocation:
        """The smallest allocation."""
        return self.allocation((0,) * len(self.variables))

    @cached_property
    def dearest(self) -> Allocation:
        """The largest allocation."""
        return self.allocation(tuple(len(variable.menu) - 1 for variable in self.variables))

    def allocation(self, profile: Profile) -> Allocation:
        """The allocation of a profile."""
        entries = zip(self.variables, profile, strict=True)
        chosen = {name: variable.menu[index] for variable, index in entries for name in variable.layers}
        return self.allocation_of(chosen)

    def allocation_of(self, specs: dict[str, LayerSpec]) -> Allocation:
        """The allocation with these specs for the searched layers, from the menu or not."""
        all_specs = tuple(specs.get(layer.name, KEPT) for layer in self.model.layers)
        return Allocation(self.model, all_specs, self.searched, self.kept_dtype)

    def labelled(self, labels: Mapping[str, str]) -> Allocation:
        """The allocation whose searched layers have the menu entries of these labels.

        Args:
            labels: layer name -> label, such as "12/20" or "kept", for every searched layer; those of others are passed
                over. Of entries that differ by tap count or seed alone the first is meant.

        Raises:
            UsageError: a layer is missing, its menu has no such entry, or tied layers differ.
        """
        chosen = {}
        for variable in self.variables:
            menu = {spec.label: spec for spec in reversed(variable.menu)}
            for name in variable.layers:
                if labels.get(name) not in menu:
                    known, given = ", ".join(reversed(menu)), repr(labels[name]) if name in labels else "none"
                    raise UsageError(f"layers: {name!r} needs an entry of its menu ({known}), got {given}")
                chosen[name] = menu[labels[name]]
            if len({labels[name] for name in variable.layers}) > 1:
                given = ", ".join(labels[name] for name in variable.layers)
                raise UsageError(f"layers: {variable.name} are tied, so they need one entry, got {given}")
        return self.allocation_of(chosen)

    def holds(self, allocation: Allocation) -> bool:
        """Whether an allocation is one of the menus' exactly, tied layers alike."""
        return self.allocation(self.profile(allocation)) == allocation

    def held(self, allocations: Iterable[Allocation]) -> set[Profile]:
        """The profiles of those allocations that the menus hold exactly."""
        return {self.profile(allocation) for allocation in allocations if self.holds(allocation)}

    def profile(self, allocation: Allocation) -> Profile:
        """The profile whose menu entries are nearest in rate to the allocation's layers (exact ones preferred)."""
        return tuple(
            min(
                range(len(variable.menu)),
                key=lambda index, variable=variable: (
                    sum(variable.menu[index] != allocation.layers[name] for name in variable.layers),
                    sum(
                        abs(spec_rate(variable.menu[index]) - spec_rate(allocation.layers[name]))
                        for name in variable.layers
                    ),
                ),
            )
            for variable in self.variables
        )


def spec_rate(spec: LayerSpec, kept_bits: int = 16) -> float:
    """Stored bits per weight of a menu entry, kept ones included, for ordering."""
    return float(kept_bits) if spec.is_kept else spec.rate


def spec_log_rate(spec: LayerSpec) -> float:
    """Logarithm of `spec_rate`: the scale on which rates are compared and shifted."""
    return math.log(max(spec_rate(spec), 1e-9))


def check_reachable(space: SearchSpace, budget: Budget) -> None:
    """Refuse a budget that even the cheapest allocation exceeds.

    Raises:
        UsageError: names the least reachable size, what sets it, and what to change.
    """
    cheapest = space.cheapest
    if budget.fits(cheapest, space.model_name):
        return
    least = budget.show(budget.size_of(cheapest, space.model_name))
    if budget.kind == "bpw":
        worst = max(space.variables, key=lambda variable: spec_rate(variable.menu[0]) * _weights(space, variable))
        cause = f"set by the lowest rates of the space, most by {worst.name} at {worst.menu[0].label}"
        remedy = "ask for more, or allow lower rates in --space"
    else:
        from flexor_search.planning.file_layout import file_layout

        layout = file_layout(cheapest, space.model_name)
        cause = (
            f"of which kept tensors take {layout.kept_bytes} B, scales {layout.scale_bytes} B, "
            f"header and codes {layout.container_bytes + layout.code_table_bytes} B, "
            f"encrypted weights {layout.payload_bits // 8} B"
        )
        remedy = "ask for more, or let --space keep fewer layers or allow lower rates"
    raise UsageError(f"budget: {budget.text} is below the least reachable size, {least}, {cause}; {remedy}")


def exceeds_space(space: SearchSpace, budget: Budget) -> bool:
    """Whether the budget is more than the dearest allocation can use."""
    return budget.fits(space.dearest, space.model_name) and budget.slack(space.dearest, space.model_name) > 0


def project(space: SearchSpace, allocation: Allocation, budget: Budget) -> Allocation:
    """Move an allocation onto a budget, keeping the proportions of its layers' rates.

    Args:
        space: the menus.
        allocation: any allocation of the space's model.
        budget: one that the space can reach.

    Returns:
        An allocation of the space that fits and to which no layer's next rate could be added. Projecting again changes
        nothing.

    Raises:
        UsageError: the budget is below the cheapest allocation.
    """
    check_reachable(space, budget)
    profile = space.profile(allocation)
    if space.holds(allocation) and budget.fits(allocation, space.model_name):
        raised = (space.allocation(one) for one in _raised(space, profile).values())
        if not any(budget.fits(one, space.model_name) for one in raised):
            return allocation  # said here, because file sizes are not strictly monotone (shared code tables)
    rates = [spec_log_rate(variable.menu[index]) for variable, index in zip(space.variables, profile, strict=True)]
    return space.allocation(project_log_rates(space, rates, budget))


def project_log_rates(space: SearchSpace, log_rates: Sequence[float], budget: Budget) -> Profile:
    """The profile nearest below wished-for rates, all shifted by one common factor until the budget is met.

    Args:
        space: the menus.
        log_rates: for each variable the logarithm of a wished-for rate; only differences between them matter.
        budget: one that the space can reach.

    Returns:
        A profile that fits and in which no single step up would fit.

    Raises:
        UsageError: the budget is below the cheapest allocation.
    """
    check_reachable(space, budget)
    menus = [[spec_log_rate(spec) for spec in variable.menu] for variable in space.variables]

    def at(shift: float) -> Profile:
        return tuple(
            max((i for i, rate in enumerate(menu) if rate <= wish + shift + 1e-9), default=0)
            for menu, wish in zip(menus, log_rates, strict=True)
        )

    def fits(profile: Profile) -> bool:
        return budget.fits(space.allocation(profile), space.model_name)

    # Every shift at which some layer steps up; sizes grow with the shift, so the last that fits is found by bisection.
    steps = sorted({rate - wish for menu, wish in zip(menus, log_rates, strict=True) for rate in menu})
    low, high = -1, len(steps) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if fits(at(steps[middle])):
            low = middle
        else:
            high = middle - 1
    profile = at(steps[low]) if low >= 0 else (0,) * len(menus)
    if not fits(profile):  # file sizes are not strictly monotone (shared code tables): fall back to the cheapest
        profile = (0,) * len(menus)
    # Spend what is left: of the steps that fit, always the one that the common shift would have taken first.
    while True:
        raised = [
            (menus[v][candidate[v]] - log_rates[v], v, candidate) for v, candidate in _raised(space, profile).items()
        ]
        fitting = next((candidate for _, _, candidate in sorted(raised) if fits(candidate)), None)
        if fitting is None:
            return profile
        profile = fitting


def _raised(space: SearchSpace, profile: Profile) -> dict[int, Profile]:
    """For each variable that is not at the end of its menu, the profile with its next entry."""
    return {
        v: (*profile[:v], profile[v] + 1, *profile[v + 1 :])
        for v, variable in enumerate(space.variables)
        if profile[v] + 1 < len(variable.menu)
    }


def _weights(space: SearchSpace, variable: Variable) -> int:
    return sum(space.model.by_name[name].n_weights for name in variable.layers)
