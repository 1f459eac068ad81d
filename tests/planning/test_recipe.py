import json
import math
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexor_search.errors import UsageError
from flexor_search.planning import Recipe

SCHEDULES = ("one-cycle", "cosine", "halve", "constant")


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("warmup", [0.0, 0.25])
def test_the_learning_rate_peaks_when_warm(schedule, warmup):
    recipe = Recipe(schedule=schedule, warmup=warmup, learning_rate=0.1)
    assert recipe.learning_rate_at(warmup) == pytest.approx(0.1)
    assert all(0 <= recipe.learning_rate_at(step / 100) <= 0.1 * (1 + 1e-9) for step in range(101))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_warm_up_is_linear_from_nearly_nothing(schedule):
    recipe = Recipe(schedule=schedule, warmup=0.5, learning_rate=0.1)
    assert recipe.learning_rate_at(0) <= 0.1 * 1e-3
    assert recipe.learning_rate_at(0.125) == pytest.approx(0.025)
    assert recipe.learning_rate_at(0.25) == pytest.approx(0.05)


@pytest.mark.parametrize(("schedule", "half", "end"), [("one-cycle", 0.5, 0), ("cosine", 0.5, 0), ("constant", 1, 1)])
def test_after_the_warm_up(schedule, half, end):
    recipe = Recipe(schedule=schedule, warmup=0.2, learning_rate=0.1)
    assert recipe.learning_rate_at(0.6) == pytest.approx(0.1 * half)
    assert recipe.learning_rate_at(1) == pytest.approx(0.1 * end)


def test_the_rate_is_halved_at_each_of_the_fractions():
    recipe = Recipe(schedule="halve", warmup=0, halve_at=(0.75, 0.875), learning_rate=0.1)
    rates = [recipe.learning_rate_at(progress) for progress in (0, 0.7499, 0.75, 0.8749, 0.875, 1)]
    assert rates == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.025, 0.025])


def test_s_tanh_rises_with_the_warm_up_and_stays():
    recipe = Recipe(s_tanh=10, s_tanh_start=5, warmup=0.25)
    assert [recipe.s_tanh_at(progress) for progress in (0, 0.125, 0.25, 1)] == pytest.approx([5, 7.5, 10, 10])
    assert Recipe(s_tanh=10, s_tanh_start=5, warmup=0).s_tanh_at(0) == 10


def test_s_tanh_doubles_where_the_rate_is_halved():
    """The paper's short recipe: 200 epochs, both at 150 and 175."""
    recipe = Recipe(schedule="halve", warmup=0, halve_at=(0.75, 0.875), s_tanh=10, s_tanh_doubles=True)
    epochs = (0, 149, 150, 174, 175, 200)
    assert [recipe.s_tanh_at(epoch / 200) for epoch in epochs] == [10, 10, 20, 20, 40, 40]


def test_the_papers_table_recipe_warms_both_up_and_doubles_nothing():
    """500 epochs, 100 of them warm-up from 5 to 10, halved at 350, 400 and 450."""
    recipe = Recipe(schedule="halve", learning_rate=0.1, warmup=0.2, halve_at=(0.7, 0.8, 0.9))
    epochs = (0, 50, 100, 349, 350, 400, 450)
    assert [recipe.s_tanh_at(epoch / 500) for epoch in epochs] == [5, 7.5, 10, 10, 10, 10, 10]
    rates = [recipe.learning_rate_at(epoch / 500) for epoch in epochs]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.1, 0.05, 0.025, 0.0125])


def test_a_search_trial_is_never_longer_than_the_training():
    assert Recipe(epochs=20, search_epochs=10).for_search() == Recipe(epochs=10, search_epochs=10)
    assert Recipe(epochs=5, search_epochs=10).for_search().epochs == 5


@given(
    st.builds(
        Recipe,
        optimizer=st.sampled_from(["adam", "sgd"]),
        schedule=st.sampled_from(SCHEDULES),
        learning_rate=st.floats(1e-6, 10),
        warmup=st.floats(0, 0.99),
        halve_at=st.lists(st.floats(0, 1)).map(tuple),
        epochs=st.integers(1, 1000),
        memory_format=st.sampled_from(["auto", "contiguous", "channels_last"]),
        augmentation=st.sampled_from(["none", "flip", "crop-flip"]),
    )
)
def test_json_round_trip(recipe):
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_json()))) == recipe
    left_out = {name for name in ("distillation", "from_teacher") if not getattr(recipe, name)}
    assert recipe.to_json().keys() == {field.name for field in fields(Recipe)} - left_out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": "adamw"}, "optimizer must be one of adam, sgd, got 'adamw'"),
        ({"schedule": "linear"}, "schedule must be one of"),
        ({"decay": "some"}, "decay must be one of"),
        ({"precision": "float16"}, "precision must be one of"),
        ({"surrogate": "tanh"}, "surrogate must be one of"),
        ({"clip": -1.0}, "clip must not be negative"),
        ({"s_tanh_doubles": True}, "s_tanh_doubles goes with schedule = \"halve\", got 'one-cycle'"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"search_epochs": -1}, "search_epochs must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be above zero, got 0"),
        ({"learning_rate": math.nan}, "learning_rate must be above zero, got nan"),
        ({"s_tanh": math.inf}, "s_tanh must be above zero, got inf"),
        ({"s_tanh_start": -5.0}, "s_tanh_start must be above zero"),
        ({"warmup": 1.0}, "warmup and label_smoothing must be in"),
        ({"warmup": -0.1}, "warmup and label_smoothing must be in"),
        ({"label_smoothing": 1.0}, "warmup and label_smoothing must be in"),
        ({"weight_decay": -1e-5}, "weight_decay not negative"),
        ({"weight_decay": math.nan}, "weight_decay not negative"),
        ({"search_images": -1}, "search_images must not be negative, got -1"),
        ({"halve_at": (0.5, 1.5)}, "halve_at must hold fractions"),
        ({"halve_at": ("0.5",)}, "halve_at must hold fractions"),
    ],
)
def test_values_out_of_range_are_refused(change, message):
    with pytest.raises(UsageError, match=f"recipe: .*{message}"):
        Recipe(**change)
    with pytest.raises(UsageError, match=f"recipe: .*{message}"):
        Recipe.from_dict({key: list(value) if key == "halve_at" else value for key, value in change.items()})


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"epoch": 5}, "unknown key 'epoch'; did you mean 'epochs'"),
        ({"epochs": 5.0}, "epochs must be of type int, got 5.0"),
        ({"epochs": True}, "epochs must be of type int, got True"),
        ({"learning_rate": "0.1"}, "learning_rate must be of type float, got '0.1'"),
        ({"learning_rate": True}, "learning_rate must be of type float"),
        ({"memory_format": 1}, "memory_format must be of type str"),
        ({"halve_at": 0.5}, "halve_at must be of type tuple"),
    ],
)
def test_unknown_keys_and_wrong_types_are_refused(body, message):
    with pytest.raises(UsageError, match=message):
        Recipe.from_dict(body)


def test_a_whole_number_will_do_for_a_float_and_the_base_gives_the_rest():
    base = Recipe(epochs=7, s_tanh=100)
    recipe = Recipe.from_dict({"learning_rate": 1, "s_tanh": 7.5}, base)
    assert (recipe.learning_rate, recipe.s_tanh, recipe.epochs) == (1, 7.5, 7)


def test_a_file_is_read_onto_the_base(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text('optimizer = "sgd"\nhalve_at = [0.75, 0.875]\n', encoding="utf-8")
    assert Recipe.read(path, Recipe(epochs=3)) == Recipe(optimizer="sgd", halve_at=(0.75, 0.875), epochs=3)


@pytest.mark.parametrize("content", [None, b"epochs = ", b"\xff"])
def test_a_file_that_cannot_be_read_is_refused(tmp_path, content):
    path = tmp_path / "recipe.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"recipe\.toml is not a readable TOML file"):
        Recipe.read(path)
