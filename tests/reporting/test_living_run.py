"""The report of a run that another process is at work in: at any time, and without touching what is not ours."""

import subprocess
import sys

import pytest

from flexor_search.cli import main
from flexor_search.runs import Run

from .made_run import example, measured
from .test_page import text_of

HOLD = """
import sys
from flexor_search.runs import Run
run = Run.open(sys.argv[1])
run.lock()
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def living(tmp_path):
    """A run that another process has locked, in the middle of writing its last line."""
    run = example(tmp_path / "run")
    (run.folder / "summary.json").unlink()
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run.folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "locked\n"
        with (run.folder / "measurements.csv").open("a") as file:
            file.write('13,search,proposed,d9,"9/20 9')
        yield run
    finally:
        process.communicate()


def reported(monkeypatch, *args):
    monkeypatch.setattr(sys, "argv", ["flexor-search", "report", *map(str, args)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def test_the_report_is_written_while_the_run_goes_on(living, monkeypatch, capsys):
    path = living.folder / "measurements.csv"
    before = path.read_bytes()
    assert reported(monkeypatch, living.folder, "--tensorboard") == 0
    assert capsys.readouterr().out.split() == [
        str(living.folder / "tensorboard"),
        str(living.folder / "report.html"),
    ]
    text = text_of((living.folder / "report.html").read_text(encoding="utf-8"))
    assert "Not finished: nothing was chosen yet" in text
    assert "13 trainings (6 in the search, 7 to confirm, 1 stopped early, 1 failed)" in text
    assert path.read_bytes() == before  # the line that is being written is not ours to cut
    path.write_bytes(before[: before.rindex(b"\n") + 1])
    living.append(measured(13, 0.93, 0.6))  # the line is whole now
    assert reported(monkeypatch, living.folder) == 0
    text = text_of((living.folder / "report.html").read_text(encoding="utf-8"))
    assert "14 trainings (7 in the search" in text
    assert "Best so far under the first budget: 93.00 %" in text


def test_runs_are_compared_while_one_goes_on(living, tmp_path, monkeypatch, capsys):
    other = example(tmp_path / "other")
    assert reported(monkeypatch, living.folder, other.folder) == 0
    assert reported(monkeypatch, living.folder, other.folder, "--out", tmp_path / "both.html") == 0
    assert capsys.readouterr().out.split() == [str(living.folder / "comparison.html"), str(tmp_path / "both.html")]
    assert (tmp_path / "both.html").read_bytes() == (living.folder / "comparison.html").read_bytes()
    assert len(Run.open(living.folder).measurements) == 13


def test_an_out_for_one_run_is_refused(tmp_path, monkeypatch, capsys):
    run = example(tmp_path / "run")
    assert reported(monkeypatch, run.folder, "--out", "x.html") == 2
    assert "--out is for a comparison of several" in capsys.readouterr().err
