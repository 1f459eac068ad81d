"""What a recipe leaves open is closed by the fastest of what was measured, if it is clearly faster."""

import pytest

from flexor_search.planning import Recipe
from flexor_search.training import choice, choose, is_open

OPEN = Recipe(precision="auto", memory_format="auto")
SLOW, FAST = 2.0, 1.0


@pytest.fixture
def native(monkeypatch):
    monkeypatch.setattr(choice, "resolve_precision", lambda precision, device: "bfloat16")


@pytest.fixture
def emulated(monkeypatch):
    monkeypatch.setattr(choice, "resolve_precision", lambda precision, device: "float32")


def times(**fast):
    """Fast is what has all of these values."""
    return lambda recipe: FAST if all(getattr(recipe, name) == value for name, value in fast.items()) else SLOW


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
def test_the_fastest_combination_is_chosen(precision, memory_format):
    closed, measured = choose(OPEN, "cpu", times(precision=precision, memory_format=memory_format))
    assert (closed.precision, closed.memory_format) == (precision, memory_format)
    assert not is_open(closed)
    assert len(measured) == 4
    assert measured[f"{precision} {memory_format}"] == FAST


@pytest.mark.usefixtures("emulated")
def test_bfloat16_is_not_even_tried_where_the_device_does_not_multiply_in_it():
    closed, measured = choose(OPEN, "cpu", times(precision="bfloat16"))
    assert closed.precision == "float32"
    assert list(measured) == ["float32 contiguous", "float32 channels_last"]


@pytest.mark.usefixtures("native")
def test_what_the_recipe_says_is_not_measured():
    closed, measured = choose(Recipe(precision="bfloat16", memory_format="auto"), "cpu", times(precision="float32"))
    assert closed.precision == "bfloat16"
    assert len(measured) == 2
    only = Recipe(precision="float32", memory_format="channels_last")
    assert choose(only, "cpu", times()) == (only, {})
    assert not is_open(only)


@pytest.mark.usefixtures("native")
def test_what_is_hardly_faster_is_not_worth_it():
    closed, _ = choose(OPEN, "cpu", lambda recipe: 1.0 if recipe.precision == "bfloat16" else 1.05)
    assert (closed.precision, closed.memory_format) == ("float32", "contiguous")
