from hypothesis import given
from hypothesis import strategies as st

from flexor_search.planning import hypervolume, pareto_front

small = st.integers(0, 9)
points = st.lists(st.tuples(small, small), max_size=12)
SIDE = 10


def dominates(one, other):
    return one != other and one[0] <= other[0] and one[1] >= other[1]


def area(found, reference):
    """Cells of a grid that some point is at least as small and as accurate as: the union of rectangles, exactly."""
    return sum(
        any(size <= x and accuracy >= y + 1 for size, accuracy in found)
        for x in range(reference[0])
        for y in range(reference[1], SIDE)
    )


@given(points)
def test_the_front_is_every_point_that_no_other_dominates(found):
    front = [found[i] for i in pareto_front(found)]
    assert set(front) == {one for one in found if not any(dominates(other, one) for other in found)}
    assert front == sorted(set(front))


@given(points, st.data())
def test_the_front_does_not_depend_on_the_order(found, data):
    shuffled = data.draw(st.permutations(found))
    assert [found[i] for i in pareto_front(found)] == [shuffled[i] for i in pareto_front(shuffled)]


@given(points)
def test_of_equal_points_the_first_is_taken(found):
    assert all(found.index(found[i]) == i for i in pareto_front(found))


@given(points, small, small)
def test_the_hypervolume_is_the_area_of_the_rectangles(found, size, accuracy):
    assert hypervolume(found, (size, accuracy)) == area(found, (size, accuracy))


@given(points, small, small, small, small)
def test_one_more_point_never_lowers_the_hypervolume(found, size, accuracy, more_size, more_accuracy):
    reference = (size, accuracy)
    more = [*found, (more_size, more_accuracy)]
    assert hypervolume(more, reference) >= hypervolume(found, reference)
