"""Several trainings at a time, as a user asks for them and as they are chosen."""

import shutil
import signal

from flexor_search.runs import DONE, Run

from .helpers import QUESTION, end, leftovers, lines_of, run_apart, start, wait_for_lines
from .own import MODULE


def without_time(run):
    """All that does not depend on who trained it and how long that took."""
    frame = run.frame().sort_values("number", ignore_index=True)
    return frame.drop(columns=["train_seconds", "worker"])


def test_a_model_of_ones_own_trains_in_processes_as_it_does_here(tmp_path):
    (tmp_path / "mine.py").write_text(MODULE)
    asked = ("--budget", "0.6bpw", "--model", "mine:build", "--data", "mine:loaders")
    asked += ("--trials", "6", "--epochs", "2", "--seeds", "2", "--device", "cpu")
    ended = run_apart(*asked, "--jobs", "2", "--out", "run", cwd=tmp_path)
    assert ended.code == 0, ended.err
    assert "2 trainings at a time, a process each" in ended.err
    run = Run.open(tmp_path / "run")
    assert (run.question["jobs"], run.question["ahead"]) == (2, 2)
    assert [m.number for m in run.measurements] == list(range(len(run.measurements)))
    assert {m.state for m in run.measurements} == {DONE}
    assert {m.worker for m in run.measurements} == {"1", "2"}
    assert leftovers(tmp_path / "run") == []
    # The plan of two at a time, carried out one at a time.
    shutil.copytree(tmp_path / "run", tmp_path / "alone")
    for name in ("measurements.csv", "summary.json", "study.db", "test_readings.json"):
        (tmp_path / "alone" / name).unlink()
    again = run_apart("resume", "alone", "--jobs", "1", cwd=tmp_path)
    assert again.code == 0, again.err
    assert "a process each" not in again.err
    assert without_time(Run.open(tmp_path / "alone")).equals(without_time(run))
    assert Run.open(tmp_path / "alone").summary() == run.summary()


def test_interrupted_processes_leave_nothing_behind_and_the_run_goes_on(tmp_path):
    folder = tmp_path / "run"
    process = start(*QUESTION, "--jobs", "2", "--trials", "40", "--out", folder, cwd=tmp_path)
    try:
        wait_for_lines(folder, 3, process)
        process.send_signal(signal.SIGTERM)
        ended = end(process)
    finally:
        process.kill()
    assert ended.code == 130
    assert "Traceback" not in ended.err
    assert leftovers(folder) == []
    run = Run.open(folder)
    assert run.summary()["state"] == "interrupted"
    before = lines_of(folder)
    resumed = run_apart("resume", folder, "--trials", len(before) + 1, "--seeds", "1", cwd=tmp_path)
    assert resumed.code == 0, resumed.err
    assert lines_of(folder)[: len(before)] == before
    assert Run.open(folder).summary()["state"] == "complete"


def test_a_number_of_jobs_is_not_negative(command):
    ended = command("--budget", "0.7bpw", "--jobs", "-1")
    assert ended.code == 2
    assert "jobs: must not be negative, got -1" in ended.err
