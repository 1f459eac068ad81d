"""The best choice of one entry per axis under a limit on the sum of costs: exact, by dynamic programming in whole
numbers.

States that cannot reach the best known solution, by the Lagrangian bound, are dropped on the way; what is left are a
few hundred even for many layers, so nothing is rounded and no tolerance is needed. Sizes of files are not such a sum:
for them `best_under` uses an integer program.
"""

import heapq
import itertools
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]


def best_choice(values: Sequence[Floats], costs: Sequence[Whole], limit: int) -> tuple[int, ...] | None:
    """Choose one entry of each axis with the greatest sum of values whose costs do not exceed the limit.

    Args:
        values: for each axis the value of each entry.
        costs: for each axis the cost of each entry, whole numbers not below zero.
        limit: the most that the costs may sum to.

    Returns:
        The index of an entry for each axis; None if even the cheapest entries exceed the limit. Of equally good ones a
        cheapest.

    Example:
        >>> best_choice([np.array([0.0, 1.0]), np.array([0.0, 3.0])], [np.array([1, 2]), np.array([1, 4])], 5)
        (0, 1)
    """
    values, costs = [np.asarray(v, float) for v in values], [np.asarray(c, np.int64) for c in costs]
    floor = [int(c.min()) for c in costs]
    if sum(floor) > limit:
        return None
    price, known = _price(values, costs, limit)
    # what the axes after each one can add at most, at that price, and cost at least
    most = np.cumsum([0.0, *(float((v - price * c).max()) for v, c in zip(values[::-1], costs[::-1], strict=True))])[
        ::-1
    ]
    least = np.cumsum([0, *floor[::-1]])[::-1]
    tolerance = 1e-9 * (1 + abs(known))
    cost, value = np.zeros(1, np.int64), np.zeros(1)
    steps: list[tuple[NDArray[np.intp], NDArray[np.intp]]] = []
    for axis, (v, c) in enumerate(zip(values, costs, strict=True)):
        new_cost = (cost[:, None] + c).ravel()
        new_value = (value[:, None] + v).ravel()
        bound = new_value + price * (limit - new_cost) + most[axis + 1]
        alive = np.flatnonzero((new_cost + least[axis + 1] <= limit) & (bound >= known - tolerance))
        order = alive[np.lexsort((-new_value[alive], new_cost[alive]))]
        best = np.maximum.accumulate(new_value[order])
        kept = order[np.concatenate([[True], new_value[order][1:] > best[:-1]])]
        steps.append((kept // len(v), kept % len(v)))
        cost, value = new_cost[kept], new_value[kept]
    state, chosen = int(np.argmax(value)), []
    for parents, entries in reversed(steps):
        chosen.append(int(entries[state]))
        state = int(parents[state])
    return tuple(reversed(chosen))


def best_other(
    values: Sequence[Floats], costs: Sequence[Whole], limit: int, known: Collection[tuple[int, ...]]
) -> tuple[int, ...] | None:
    """The best choice under a limit that is not among the known ones; None if there is none.

    Choices come in their order, best first: the set that a choice was the best of is split into parts without it, and
    the best of each part is found (Lawler, "A procedure for computing the K best solutions to discrete optimization
    problems", 1972).

    Args:
        values, costs, limit: as for `best_choice`.
        known: choices that are not wanted.

    Example:
        >>> best_other([np.array([0.0, 1.0])], [np.array([1, 2])], 5, {(1,)})
        (0,)
    """
    waiting: list[tuple[float, int, tuple[int, ...], int, frozenset[int]]] = []
    numbers = itertools.count()

    def add(first: tuple[int, ...], barred: frozenset[int]) -> None:
        """The best choice that begins so, and goes on with none of the barred entries."""
        axis = len(first)
        left = limit - sum(int(c[index]) for c, index in zip(costs, first, strict=False))
        entries = np.setdiff1d(np.arange(len(values[axis])), sorted(barred))
        if not len(entries):
            return
        found = best_choice(
            [np.asarray(values[axis])[entries], *values[axis + 1 :]],
            [np.asarray(costs[axis])[entries], *costs[axis + 1 :]],
            left,
        )
        if found is not None:
            choice = (*first, int(entries[found[0]]), *found[1:])
            value = sum(float(v[index]) for v, index in zip(values, choice, strict=True))
            heapq.heappush(waiting, (-value, next(numbers), choice, axis, barred))

    add((), frozenset())
    while waiting:
        _, _, choice, length, barred = heapq.heappop(waiting)
        if choice not in known:
            return choice
        for axis in range(length, len(values)):
            add(choice[:axis], (barred if axis == length else frozenset()) | {choice[axis]})
    return None


def _price(values: Sequence[Floats], costs: Sequence[Whole], limit: int) -> tuple[float, float]:
    """A price of a unit of cost whose bound is near the least, and the value of a choice that fits.

    At a price every axis chooses for itself, by value less price times cost; the dearer, the less it costs.
    """

    def at(price: float) -> tuple[int, float]:
        # of equally good entries the cheapest
        chosen = [int(np.lexsort((c, -(v - price * c)))[0]) for v, c in zip(values, costs, strict=True)]
        pairs = list(zip(chosen, values, costs, strict=True))
        return sum(int(c[i]) for i, _, c in pairs), sum(float(v[i]) for i, v, _ in pairs)

    cost, value = at(0.0)
    if cost <= limit:
        return 0.0, value
    cheapest = [int(np.lexsort((-v, c))[0]) for v, c in zip(values, costs, strict=True)]
    known = sum(float(v[i]) for i, v in zip(cheapest, values, strict=True))
    low, high = 0.0, 1e-12
    while at(high)[0] > limit and high < 1e12:
        low, high = high, high * 4
    for _ in range(60):
        middle = (low + high) / 2
        cost, value = at(middle)
        low, high = (middle, high) if cost > limit else (low, middle)
        if cost <= limit:
            known = max(known, value)
    return high, known
