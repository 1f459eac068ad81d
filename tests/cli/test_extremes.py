"""Spaces and budgets that leave next to nothing to search, by the whole command: they end as any other run does."""

import json
import shutil

import pytest

from flexor_search.runs import Run

from .helpers import leftovers, lines_of
from .own import MODULE

SHORT = ("--trials", "3", "--epochs", "1", "--seeds", "1", "--jobs", "1", "--data", "mine:loaders", "--out", "run")
SINGLE = """

def single():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))


def three():
    return nn.Sequential(nn.Flatten(), *(nn.Linear(a, b) for a, b in ((64, 100), (100, 40), (40, 4))))
"""
FIVE = 'rates = ["4/20", "8/20", "12/20", "16/20", "20/20"]'
CASES = {
    "a menu with one entry": (
        ("--model", "mine:three", "--budget", "0.7bpw", "--strategy", "supernet"),
        '[default]\nrates = ["8/20"]',
        "strategy direct",
        1,
    ),
    "one layer": (
        ("--model", "mine:single", "--budget", "0.7bpw"),
        f"keep = []\n[default]\n{FIVE}",
        "strategy direct: there is a single choice",
        3,
    ),
    "one layer and one entry": (
        ("--model", "mine:single", "--budget", "1.25bpw"),
        'keep = []\n[default]\nrates = ["20/20"]',
        "strategy direct",
        1,
    ),
    "the cheapest allocation": (
        ("--model", "mine:three", "--budget", "0.2bpw", "--strategy", "supernet"),
        f"[default]\n{FIVE}",
        "strategy supernet",
        1,
    ),
    "the dearest allocation": (
        ("--model", "mine:three", "--budget", "1bpw", "--strategy", "supernet"),
        f"[default]\n{FIVE}",
        "strategy supernet",
        None,
    ),
    "more than the dearest": (
        ("--model", "mine:three", "--budget", "3bpw", "--strategy", "direct"),
        f"[default]\n{FIVE}",
        "3bpw is more than this space can use",
        None,
    ),
}


@pytest.mark.parametrize(("args", "space", "words", "most"), CASES.values(), ids=CASES)
def test_a_search_with_next_to_nothing_to_choose_ends_whole(tmp_path, command, args, space, words, most):
    (tmp_path / "mine.py").write_text(MODULE + SINGLE)
    (tmp_path / "space.toml").write_text(space)
    ended = command(*args, *SHORT, "--space", "space.toml")
    assert ended.code == 0, ended.err
    run = Run.open(tmp_path / "run")
    assert words in (run.folder / "run.log").read_text() + ended.err
    (entry,) = run.summary()["budgets"]
    assert run.summary()["state"] == "complete"
    assert entry["verified"]
    assert len({m.digest for m in run.measurements if m.kind != "full precision"}) <= (most or 99)
    assert entry["bits_per_weight"] <= float(args[3].removesuffix("bpw"))
    assert leftovers(run.folder) == []
    assert command("verify", f"run/model-{entry['budget']}.safetensors").code == 0


@pytest.fixture
def copied(real_run, tmp_path):
    """A copy of the real run, whose shared network is not trained again by who has its scores."""
    shutil.copytree(real_run.folder, tmp_path / "copy")
    return tmp_path / "copy"


def test_scores_of_another_model_are_refused_and_nothing_is_lost(copied, command):
    path = copied / "sensitivity.json"
    body = json.loads(path.read_text())
    theirs = body["fingerprint"]["model"]
    path.write_text(json.dumps(body | {"fingerprint": body["fingerprint"] | {"model": "0123456789ab"}}))
    kept = {one.name: one.read_bytes() for one in copied.iterdir() if one.suffix in (".csv", ".json", ".safetensors")}
    ended = command("resume", "copy", "--budget", "0.5bpw", "--quiet")
    assert ended.code == 1
    assert f"is of another search; what differs: model (there 0123456789ab, here {theirs})" in ended.last_line
    assert "Delete it to train the shared network again" in ended.last_line
    summary = json.loads(kept.pop("summary.json"))
    assert {name: (copied / name).read_bytes() for name in kept} == kept
    assert Run.open(copied).chosen() == summary["budgets"]  # as an earlier budget now


def test_scores_that_were_cut_short_are_made_again(copied, command):
    path = copied / "sensitivity.json"
    whole, before = json.loads(path.read_text()), lines_of(copied)
    path.write_bytes(path.read_bytes()[:1000])
    ended = command("resume", "copy", "--budget", "0.5bpw", "--trials", "7")
    assert ended.code == 0, ended.err
    assert "it is made again, for which the shared network is trained once more" in (copied / "run.log").read_text()
    again = json.loads(path.read_text())
    assert again["complete"]
    assert again["fingerprint"] == whole["fingerprint"]
    assert len(again["scores"]) >= 240
    assert lines_of(copied)[: len(before)] == before
