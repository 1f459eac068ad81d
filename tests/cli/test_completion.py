"""What a shell is told when it asks for completion, in typer's protocol, as the scripts that it installs ask."""

import pytest
from typer.testing import CliRunner

from flexor_search.asking import STRATEGIES, WORKLOADS
from flexor_search.cli import app
from flexor_search.planning import shipped_spaces


@pytest.fixture
def completed(tmp_path, monkeypatch):
    """A function of the line typed so far: what its last word may become, in a folder with runs and a space."""
    monkeypatch.chdir(tmp_path)
    for name in ("first", "second"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "run.toml").touch()
    (tmp_path / "runs" / "none").mkdir()
    (tmp_path / "mine.toml").touch()

    def ask(line):
        words = line.split(" ")
        asking = {"_FLEXOR_SEARCH_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
        done = CliRunner().invoke(app, [], prog_name="flexor-search", env=asking)
        assert done.exit_code == 0, done.output
        return done.stdout.split()

    return ask


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("flexor-search --workload ", list(WORKLOADS)),
        ("flexor-search plan --workload lenet5-m", ["lenet5-mnist"]),
        ("flexor-search --strategy ", list(STRATEGIES)),
        ("flexor-search --strategy s", ["supernet"]),
        ("flexor-search --space ", [*shipped_spaces(), "mine.toml"]),
        ("flexor-search --device c", ["cpu", "cuda"]),
        ("flexor-search --budget 0.4bpw,0.7", ["0.4bpw,0.7bpw"]),
        ("flexor-search resume ", ["runs/"]),
        ("flexor-search resume runs/", ["runs/first", "runs/second"]),
        ("flexor-search report runs/first runs/s", ["runs/second"]),
        ("flexor-search export runs/x", []),
        ("flexor-search --tens", ["--tensorboard"]),
        ("flexor-search insp", ["inspect"]),
    ],
)
def test_values_are_completed(completed, line, found):
    assert completed(line) == found
