"""The allocation of greatest additive value under a budget, in bits per weight or in bytes of the packed file.

Sizes are planning's: no formula is here. Bits per weight are a sum over layers, and dynamic programming is exact. A
file also holds each distinct code once and a header whose numbers have more or fewer digits: an integer program counts
layers and codes exactly and the digits at their least, what it finds is held against the true size, and what does not
fit after all is ruled out until something fits.
"""

import itertools
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp

from flexor_search.planning import Budget, LayerShape, LayerSpec, SearchSpace, check_reachable
from flexor_search.planning.allocation import weight_bits
from flexor_search.planning.file_layout import code_cost, file_layout, layer_bytes, stored_codes
from flexor_search.planning.space import Profile
from flexor_search.tuning.exact import best_other

Floats = NDArray[np.float64]

MOST_CUTS = 20
"""Solutions of the integer program that turn out too large by a few bytes before the rest is left to a smaller
limit."""
_LEAST_DIGITS, _EMPTY_PARTS = 40, 400
"""Bytes by which the header of a file may be shorter than another's: numbers and alignment; parts that hold nothing."""


def best_profile(space: SearchSpace, values: Sequence[Floats], budget: Budget) -> Profile:
    """The profile with the greatest sum of values that fits a budget.

    Args:
        space: the menus.
        values: for each variable the value of each menu entry.
        budget: one that the space can reach.

    Returns:
        A profile that fits. For bits per weight no other is better; for bytes no other is, unless more than `MOST_CUTS`
        better ones exceed the budget by their header's digits alone.

    Raises:
        UsageError: the budget is below the cheapest allocation.
    """
    check_reachable(space, budget)
    found = best_other_profile(space, values, budget)
    assert found is not None  # the cheapest fits
    return found


def best_other_profile(
    space: SearchSpace, values: Sequence[Floats], budget: Budget, known: Collection[Profile] = ()
) -> Profile | None:
    """The same of all but the known ones; None if no other fits, or none was found.

    Args:
        space, values, budget: as for `best_profile`.
        known: profiles that are not wanted.
    """
    if budget.kind != "bpw":
        return _best_file(space, values, budget, known)
    costs = [
        np.array([sum(weight_bits(layer, spec, space.kept_dtype) for layer in layers) for spec in menu], np.int64)
        for layers, menu in _layers_and_menus(space)
    ]
    return best_other(values, costs, budget.most_weight_bits(space.cheapest.n_searched_weights), known)


def _layers_and_menus(space: SearchSpace) -> list[tuple[list[LayerShape], tuple[LayerSpec, ...]]]:
    by_name = space.model.by_name
    return [([by_name[name] for name in variable.layers], variable.menu) for variable in space.variables]


class _FileProgram:
    """The integer program: an entry for each variable, and for each distinct code whether the file holds it."""

    def __init__(self, space: SearchSpace, values: Sequence[Floats]) -> None:
        sizes, needs = [], []
        for layers, menu in _layers_and_menus(space):
            for spec in menu:
                sizes.append(sum(layer_bytes(layer, spec, space.kept_dtype) for layer in layers))
                needs.append(set(stored_codes(spec)))
        codes = sorted(set().union(*needs), key=lambda code: (code.n_in, code.n_out, code.taps))
        self.starts = np.cumsum([0, *(len(variable.menu) for variable in space.variables)])
        self.sizes = np.array(sizes + [code_cost(code) for code in codes], float)
        entries, self.size = len(sizes), len(self.sizes)
        gains = np.concatenate([value - value.max() for value in values])
        self.objective = np.concatenate([-gains * 1e4 / (np.abs(gains).max() or 1.0), np.zeros(len(codes))])
        self.is_entry = np.arange(self.size) < entries
        one_each = sparse.lil_array((len(space.variables), self.size))
        for row, (first, end) in enumerate(itertools.pairwise(self.starts)):
            one_each[row, first:end] = 1
        pairs = [(entry, entries + codes.index(code)) for entry, need in enumerate(needs) for code in need]
        held = sparse.lil_array((len(pairs), self.size))
        for row, (entry, code) in enumerate(pairs):
            held[row, entry], held[row, code] = -1, 1
        self.rules = [LinearConstraint(one_each.tocsr(), 1, 1)]
        if pairs:
            self.rules.append(LinearConstraint(held.tocsr(), 0, np.inf))

    def solve(self, limit: float) -> Profile | None:
        """The best profile that takes no more bytes than the limit; None if there is none."""
        # sizes are whole: half a byte more lets nothing in, and keeps the solver's tolerance from shutting anything out
        scale = min(max(limit, 1.0), 1e5)
        result = milp(
            self.objective,
            integrality=self.is_entry.astype(int),
            bounds=Bounds(0, 1),
            constraints=[*self.rules, LinearConstraint(self.sizes[None, :] / scale, -np.inf, (limit + 0.5) / scale)],
            options={"mip_rel_gap": 0.0},
        )
        if result.x is None:
            return None
        return tuple(int(np.argmax(result.x[first:end])) for first, end in itertools.pairwise(self.starts))

    def counted(self, profile: Profile) -> float:
        """Bytes of a profile as the program counts them."""
        entries = np.array([first + index for first, index in zip(self.starts, profile, strict=False)])
        held = self.rules[1].A[:, entries].sum(axis=1) < 0 if len(self.rules) > 1 else np.zeros(0, bool)
        codes = np.unique(self.rules[1].A[held].nonzero()[1]) if held.any() else np.zeros(0, int)
        return float(self.sizes[entries].sum() + self.sizes[codes[codes >= self.starts[-1]]].sum())

    def rule_out(self, profile: Profile) -> None:
        """Never find this profile again."""
        row = np.zeros((1, self.size))
        row[0, [first + index for first, index in zip(self.starts, profile, strict=False)]] = 1
        self.rules.append(LinearConstraint(row, -np.inf, len(profile) - 1))


def _best_file(
    space: SearchSpace, values: Sequence[Floats], budget: Budget, known: Collection[Profile]
) -> Profile | None:
    program, limit = _FileProgram(space, values), budget.most_file_bytes(space.model.float_bytes)
    cheapest = (0,) * len(space.variables)
    # the base has codes wherever it can, so that it holds every part that the file of another allocation may hold
    base = tuple(
        next((i for i, spec in enumerate(variable.menu) if not spec.is_kept), 0) for variable in space.variables
    )
    could_be_kept = all(any(spec.is_kept for spec in variable.menu) for variable in space.variables)
    slack = _LEAST_DIGITS + (_EMPTY_PARTS if could_be_kept else 0)

    def file_bytes(profile: Profile) -> int:
        return file_layout(space.allocation(profile), space.model_name).file_bytes

    for profile in known:
        program.rule_out(profile)
    left = limit - (file_bytes(base) - program.counted(base) - slack)
    for cut in range(2 * MOST_CUTS):
        profile = program.solve(left)
        if profile is None:
            break
        over = file_bytes(profile) - limit
        if over <= 0:
            return profile
        program.rule_out(profile)
        if cut >= MOST_CUTS:
            left -= over
    return cheapest if cheapest not in known and file_bytes(cheapest) <= limit else None
