"""What a recipe leaves open is measured once for a run, and stays as it was when the run goes on."""

from dataclasses import replace
from importlib import import_module

import pytest
import torch

from flexor_search.errors import TrainingError
from flexor_search.runs import Run
from flexor_search.training import is_open
from flexor_search.tuning import Silent, closed_recipe
from flexor_search.tuning.time_plan import seconds_per_image

from .models import RECIPE, few_images, new_run, small_net, space_of

SPACE = space_of()
MODULE = import_module("flexor_search.tuning.time_plan")  # the package has a function of that name
OPEN = replace(RECIPE, precision="auto", memory_format="auto")


class Told(Silent):
    def __init__(self):
        self.messages = []

    def message(self, text):
        self.messages.append(text)


def closed(recipe, earlier, observer=None):
    return closed_recipe(small_net, few_images(), recipe, "cpu", SPACE.dearest, earlier, observer or Told())


def test_it_is_measured_on_the_model_and_told():
    told = Told()
    found = closed(OPEN, {}, told)
    assert not is_open(found)
    assert replace(found, precision="auto", memory_format="auto") == OPEN
    (line,) = told.messages
    assert "float32 contiguous" in line
    assert "float32 channels_last" in line
    assert line.endswith(f"chosen: {found.precision} {found.memory_format}")


def test_a_run_goes_on_as_it_was_begun():
    told = Told()
    earlier = OPEN.to_json() | {"precision": "bfloat16", "memory_format": "channels_last"}
    found = closed(OPEN, earlier, told)
    assert (found.precision, found.memory_format) == ("bfloat16", "channels_last")
    assert told.messages == []


def test_what_the_recipe_says_counts_more_than_what_the_run_was_begun_with():
    fixed = replace(OPEN, precision="float32", memory_format="contiguous")
    assert closed(fixed, OPEN.to_json() | {"precision": "bfloat16"}) == fixed


def test_the_recipe_of_a_folder(tmp_path):
    assert Run.recipe_of(tmp_path / "none") == {}
    new_run(tmp_path / "old")
    assert Run.recipe_of(tmp_path / "old") == {}
    Run.start(tmp_path / "new", {"recipe_fields": {"precision": "bfloat16"}}, {})
    assert Run.recipe_of(tmp_path / "new") == {"precision": "bfloat16"}
    (tmp_path / "new" / "run.toml").write_text("[[[")
    assert Run.recipe_of(tmp_path / "new") == {}


def test_memory_that_does_not_last_is_timed_with_half_the_batch(monkeypatch):
    asked, largest = [], 40

    def train(model, data, recipe, **_):
        asked.append(recipe.batch_size)
        if recipe.batch_size > largest:
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(MODULE, "train", train)
    data, allocation = few_images(), SPACE.cheapest
    assert seconds_per_image(small_net, data, replace(RECIPE, batch_size=64), "cpu", allocation) > 0
    assert list(dict.fromkeys(asked)) == [64, 32]
    largest = 20
    with pytest.raises(TrainingError, match="last for a batch of 64 images, nor for half of it; give a recipe"):
        seconds_per_image(small_net, data, replace(RECIPE, batch_size=64), "cpu", allocation)

    def broken(*_, **__):
        raise RuntimeError("something else")

    monkeypatch.setattr(MODULE, "train", broken)
    with pytest.raises(RuntimeError, match="something else"):
        seconds_per_image(small_net, data, RECIPE, "cpu", allocation)
