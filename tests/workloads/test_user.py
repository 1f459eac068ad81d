"""A user's own model and data by `module:function`: found in the current folder, copied, and blamed when they fail."""

import importlib
import sys

import pytest
import torch
from torch import nn

from flexor_search.errors import DataError, ModelError, UsageError
from flexor_search.planning import Recipe
from flexor_search.workloads import user_workload

MINE = """
import torch
from torch import nn
from torch.utils.data import TensorDataset

ONE = nn.Linear(2, 3)
HOOKED = nn.Linear(2, 3)
HOOKED.weight.data.mul_(2)
HOOKED.late = HOOKED.weight * 1  # a tensor with a history cannot be copied

def fresh(): return nn.Linear(2, 3)
def same(): return ONE
def uncopyable(): return HOOKED
def number(): return 3
def fails(): raise ValueError("out of cheese")
def needs(argument): return ONE
def loaders():
    part = TensorDataset(torch.arange(40.0).view(20, 2), torch.arange(20) % 3)
    return part, part
def wrong(): return None
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The user's folder, which is the current one; what importing from it leaves behind is undone."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "broken.py").write_text("import nothing_of_this_name\n")
    (tmp_path / "typo.py").write_text("def build(:\n")
    importlib.invalidate_caches()
    yield tmp_path
    for name in ("mine", "broken", "typo"):
        sys.modules.pop(name, None)


def task(model="mine:fresh", data="mine:loaders", seed=0):
    return user_workload(model, data, Recipe(), seed)


def test_it_is_a_workload_like_any_other():
    mine = task()
    assert (mine.name, mine.recipe) == ("", Recipe())
    assert not torch.equal(mine.build().weight, mine.build().weight)
    data = mine.load(None)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [18, 2, 20]
    assert torch.equal(data.validation.images, task().load(None).validation.images)
    assert not torch.equal(data.validation.images, task(seed=1).load(None).validation.images)


def test_one_instance_returned_every_time_is_not_changed_by_training():
    mine = task("mine:same")
    first = mine.build()
    with torch.no_grad():
        first.weight.zero_()
    assert mine.build().weight.abs().sum() > 0


@pytest.mark.parametrize("reference", ["mine", "mine:", ":build", "", "mine.build"])
def test_the_form_of_the_name(reference):
    with pytest.raises(UsageError, match=r"model: .* must have the form module:function"):
        task(reference)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("absent_module:build", "model: importing absent_module from .* failed: ModuleNotFoundError"),
        ("broken:build", "importing broken from .* failed: ModuleNotFoundError.*nothing_of_this_name"),
        ("typo:build", "importing typo from .* failed: SyntaxError"),
        ("mine:absent", "module mine has no function 'absent'"),
        ("mine:MINE", "module mine has no function 'MINE'"),
    ],
)
def test_a_function_that_cannot_be_found(reference, message):
    with pytest.raises(UsageError, match=message):
        task(reference)
    with pytest.raises(UsageError, match=message.replace("model: ", "data: ")):
        task(data=reference)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("fails", r"model: mine:fails\(\) raised ValueError: out of cheese"),
        ("needs", r"mine:needs\(\) raised TypeError"),
        ("number", r"mine:number\(\) must return a torch.nn.Module, got int"),
        ("uncopyable", r"what mine:uncopyable\(\) returned cannot be copied"),
    ],
)
def test_a_model_that_cannot_be_built(function, message):
    mine = task(f"mine:{function}")
    with pytest.raises(ModelError, match=message):
        mine.build()


@pytest.mark.parametrize(
    ("function", "message"),
    [("fails", r"data: mine:fails\(\) raised ValueError"), ("wrong", r"must return \(train, validation, test\)")],
)
def test_data_that_cannot_be_loaded(function, message):
    with pytest.raises(DataError, match=message):
        task(data=f"mine:{function}").load(None)


def test_any_module_class_is_a_function_too():
    assert isinstance(task("torch.nn:Flatten").build(), nn.Flatten)
