"""`--train` and `--metric`: a user's package with a training loop and a metric of its own, through the whole route."""

import json
import re

import pytest

from flexor_search.packing import load_packed
from flexor_search.runs import Run

from .test_bad_input import is_one_line

PACKAGE = '''
"""A regression: two sums of an input's numbers, predicted by a small net, learned in a loop of its own."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def build():
    return nn.Sequential(nn.Linear(12, 40), nn.ReLU(), nn.Linear(40, 80), nn.ReLU(), nn.Linear(80, 2))


def part(count, seed):
    inputs = torch.randn(count, 12, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(inputs, torch.stack([inputs[:, :3].sum(1), inputs[:, 3:6].sum(1)], 1))


def loaders():
    return part(240, 0), part(80, 1), part(80, 2)


def fit(model, train, validation, recipe, seed, report):
    optimizer = torch.optim.AdamW(model.parameters(), recipe.learning_rate)
    for _ in range(recipe.epochs):
        for inputs, targets in DataLoader(train, batch_size=recipe.batch_size, shuffle=True):
            optimizer.zero_grad()
            nn.functional.smooth_l1_loss(model(inputs), targets).backward()
            optimizer.step()
        if report():
            break


def r2(outputs, targets):
    return 1 - float((outputs - targets).square().sum() / (targets - targets.mean(0)).square().sum())


def negative_error(outputs, targets):
    return -100 * float((outputs - targets).abs().mean())


def as_tensor(outputs, targets):
    return outputs.mean()


def not_a_number(outputs, targets):
    return float("nan")


def few(model, train):
    """Of another signature."""


def broken(model, train, validation, recipe, seed, report):
    train.loader()
'''
ASKED = ("--budget", "0.6bpw", "--model", "mine.work:build", "--data", "mine.work:loaders", "--space", "all.toml")
SHORT = ("--trials", "2", "--epochs", "8", "--seeds", "1", "--device", "cpu", "--out", "out")


@pytest.fixture
def package(tmp_path, command):
    """A user's package in the current folder."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text("")
    (tmp_path / "mine" / "work.py").write_text(PACKAGE)
    (tmp_path / "all.toml").write_text('keep = []\n[default]\nrates = ["4-20/20"]\n')
    (tmp_path / "recipe.toml").write_text("learning_rate = 0.02\nbatch_size = 24\n")
    return tmp_path


def test_a_regression_with_a_loop_and_a_metric_of_its_own(package, command):
    asked = (*ASKED, "--train", "mine.work:fit", "--metric", "mine.work:r2", "--recipe", "recipe.toml", *SHORT)
    ended = command(*asked)
    assert ended.code == 0, ended.err
    assert "training by mine.work:fit, which is told: 8 epochs, batch 24, learning rate 0.02" in ended.err
    assert "test r2" in ended.out
    assert "%" not in ended.out
    page = (package / "out" / "report.html").read_text(encoding="utf-8")
    body = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    assert "validation r2" in body
    assert "validation accuracy" not in body
    import mine.work as work

    run = Run.open(package / "out")
    entry = run.summary()["budgets"][0]
    inputs, targets = work.part(80, 2).tensors
    outputs = load_packed(package / "out" / "model-0.6bpw.safetensors", model=work.build())(inputs)
    assert entry["test_accuracy_shipped"] == pytest.approx(work.r2(outputs, targets), abs=1e-5)
    assert entry["test_accuracy_shipped"] > 0.3  # it has learned
    assert entry["verified"]
    assert (run.question["train"], run.question["metric"]) == ("mine.work:fit", "mine.work:r2")
    assert (run.fingerprint["train"], run.fingerprint["metric"]) == ("mine.work:fit", "mine.work:r2")
    again = command("resume", "out", "--trials", "3")
    assert again.code == 0, again.err
    assert len([m for m in Run.open(package / "out").measurements if m.phase == "search"]) == 3
    alone = command(*ASKED, *SHORT, "--metric", "mine.work:r2", "--quiet")
    is_one_line(alone, 1, "train (there mine.work:fit, here absent)")
    is_one_line(
        command(*asked, "--metric", "mine.work:negative_error", "--quiet"),
        1,
        "metric (there mine.work:r2, here mine.work:negative_error)",
    )


def test_a_metric_below_zero_is_searched_too(package, command):
    ended = command(*ASKED, "--metric", "mine.work:negative_error", *SHORT, "--quiet", "--json")
    assert (ended.code, ended.err) == (0, "")
    entry = json.loads(ended.out)["budgets"][0]
    assert -200 < entry["val_accuracy"]["mean"] < 0
    assert entry["val_accuracy"]["mean"] >= entry["uniform"]["val_accuracy"]["mean"]


def test_processes_train_by_an_own_loop(package, command):
    asked = (*ASKED, "--train", "mine.work:fit", "--metric", "mine.work:r2", "--recipe", "recipe.toml", *SHORT)
    ended = command(*asked, "--epochs", "2", "--jobs", "2")
    assert ended.code == 0, ended.err
    assert "2 trainings at a time, a process each" in ended.err
    done = [m for m in Run.open(package / "out").measurements if m.state == "done"]
    assert all(-2 < m.val_accuracy <= 1 for m in done)
    assert len(done) >= 4


USAGE = {
    "no such function": (("--train", "mine.work:fitt"), "train: module mine.work has no function 'fitt'"),
    "no such module": (("--metric", "mine.wrk:r2"), "metric: importing mine.wrk from "),
    "no function named": (("--metric", "mine.work"), "metric: 'mine.work' must have the form module:function"),
    "a loop of other parameters": (
        ("--train", "mine.work:few"),
        "train: mine.work:few(model, train) must take (model,",
    ),
    "a metric of other parameters": (
        ("--metric", "mine.work:build"),
        "metric: mine.work:build() must take (outputs, t",
    ),
}
FAILED = {
    "floats without a metric": ((), "train labels must be one integer an image, got torch.float32; for float targets"),
    "a metric that gives a tensor": (("--metric", "mine.work:as_tensor"), "must return a number, got Tensor; end it"),
    "a metric that gives NaN": (("--metric", "mine.work:not_a_number"), "must return a finite number, got nan"),
    "a loop that raises": (
        ("--metric", "mine.work:r2", "--train", "mine.work:broken"),
        "train: mine.work:broken raised AttributeError: 'Split' object has no attribute 'loader'",
    ),
}


@pytest.mark.parametrize(("args", "words"), USAGE.values(), ids=USAGE)
def test_a_wrong_name_or_signature_is_refused_at_once(package, command, args, words):
    is_one_line(command(*ASKED, *args, *SHORT, "--quiet"), 2, words)
    assert not (package / "out").exists()


@pytest.mark.parametrize(("args", "words"), FAILED.values(), ids=FAILED)
def test_own_code_that_does_not_work_is_told_in_a_line_before_anything_is_trained(package, command, args, words):
    is_one_line(command(*ASKED, *args, *SHORT, "--quiet"), 1, words)
    assert not (package / "out").exists()
