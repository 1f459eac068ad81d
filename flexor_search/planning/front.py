"""The Pareto front of accuracy against size, and its hypervolume."""

from collections.abc import Sequence

Point = tuple[float, float]
"""(size, accuracy): less of the first and more of the second is better."""


def pareto_front(points: Sequence[Point]) -> list[int]:
    """Indices of the points that no other point dominates, by ascending size.

    A point dominates another if it is at least as small and at least as accurate, and better in one of the two.
    Of equal points the first is taken; points whose accuracy is not a number are left out.

    Example:
        >>> pareto_front([(2.0, 0.8), (1.0, 0.7), (3.0, 0.75), (2.0, 0.8)])
        [1, 0]
    """
    order = sorted(
        (i for i, point in enumerate(points) if point[1] == point[1]), key=lambda i: (points[i][0], -points[i][1], i)
    )
    front: list[int] = []
    for i in order:
        if not front or points[i][1] > points[front[-1]][1]:
            front.append(i)
    return front


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """Area between the front and a reference point that is larger and less accurate than all that count.

    Args:
        points: (size, accuracy).
        reference: (size, accuracy); points beyond it in either are left out.

    Example:
        >>> hypervolume([(1.0, 0.5), (2.0, 1.0)], (3.0, 0.0))
        1.5
    """
    inside = [point for point in points if point[0] <= reference[0] and point[1] >= reference[1]]
    front = [inside[i] for i in pareto_front(inside)]
    ends = [*(size for size, _ in front), reference[0]][1:]
    return sum((end - size) * (accuracy - reference[1]) for (size, accuracy), end in zip(front, ends, strict=True))
