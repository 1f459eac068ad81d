"""Killed, interrupted, out of time, out of disk: what was found stays, and is gone on with."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from flexor_search import api
from flexor_search.packing import load_packed, verify_file
from flexor_search.runs import CONFIRM, SEARCH, Run

from .helpers import QUESTION, RUN, end, leftovers, lines_of, start, wait_for_lines
from .own import MODULE


def without_time(run):
    return run.frame().drop(columns=["train_seconds", "worker"])


def killed(*args, folder, lines):
    """Start the command and kill it, as a power cut would, when it has measured so much."""
    process = start(*args, cwd=folder.parent)
    try:
        wait_for_lines(folder, lines, process)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    return lines_of(folder)


def test_killed_twice_a_run_comes_to_what_it_would_have_come_to(real_run, tmp_path, command):
    folder = tmp_path / "run"
    in_search = killed(*QUESTION, "--out", folder, folder=folder, lines=4)
    assert not (folder / "summary.json").exists()
    in_confirmation = killed("resume", folder, folder=folder, lines=9)
    assert in_confirmation[: len(in_search)] == in_search
    ended = command("resume", folder, "--json", "--quiet")
    assert (ended.code, ended.err) == (0, "")
    assert lines_of(folder)[: len(in_confirmation)] == in_confirmation
    whole, again = Run.open(real_run.folder), Run.open(folder)
    assert len({m.key for m in again.measurements}) == len(again.measurements)  # nothing was trained twice
    assert without_time(again).equals(without_time(whole))
    for name in ("summary.json", "model-0.7bpw.safetensors", "test_readings.json"):
        assert (folder / name).read_bytes() == (whole.folder / name).read_bytes()


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """Two runs at once, one ended by Ctrl+C, one by SIGTERM."""
    folder = tmp_path_factory.mktemp("interrupted")
    asked = ("--budget", "0.7bpw,0.5bpw", "--trials", "40", "--epochs", "4", "--device", "cpu")
    signals = {"SIGINT": signal.SIGINT, "SIGTERM": signal.SIGTERM}
    started = {name: start(*asked, "--out", folder / name, cwd=folder) for name in signals}
    try:
        for name, process in started.items():
            wait_for_lines(folder / name, 3, process)
            process.send_signal(signals[name])
        return {name: (folder / name, end(process)) for name, process in started.items()}
    finally:
        for process in started.values():
            process.kill()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupted_run_packs_verifies_and_reports_what_it_found(interrupted, name):
    folder, ended = interrupted[name]
    assert ended.code == 130
    assert ended.out == ""
    assert "Traceback" not in ended.err
    assert ended.last_line == (
        f"flexor-search: interrupted; what was found is in {folder}; go on with: flexor-search resume {folder}"
    )
    run = Run.open(folder)
    summary = run.summary()
    assert summary["state"] == "interrupted"
    assert [entry["budget"] for entry in summary["budgets"]] == ["0.7bpw", "0.5bpw"]
    for entry in summary["budgets"]:
        path = folder / f"model-{entry['budget']}.safetensors"
        verify_file(path)
        load_packed(path)
        assert path.stat().st_size == entry["file_bytes"]
        assert entry["bits_per_weight"] <= float(entry["budget"].removesuffix("bpw"))
        assert entry["test_accuracy"] is None
        assert json.loads((folder / f"allocation-{entry['budget']}.json").read_text()) == entry["allocation"]
    assert not (folder / "test_readings.json").exists()  # the test set is for the end
    assert (folder / "report.html").stat().st_size > 10_000
    assert (folder / "front.csv").stat().st_size > 0
    assert 3 <= len(run.measurements) < 40
    assert {m.phase for m in run.measurements} == {SEARCH}
    assert leftovers(folder) == []


def test_an_interrupted_run_is_gone_on_with(interrupted, tmp_path, command):
    folder = tmp_path / "run"
    shutil.copytree(interrupted["SIGINT"][0], folder)
    before = lines_of(folder)
    ended = command("resume", folder, "--trials", len(before), "--seeds", "1", "--budget", "0.7bpw")
    assert ended.code == 0
    assert lines_of(folder)[: len(before)] == before
    run = Run.open(folder)
    assert run.summary()["state"] == "complete"
    assert run.summary()["budgets"][0]["test_accuracy"] is not None
    assert {m.phase for m in run.measurements} == {SEARCH, CONFIRM}


def test_interrupted_before_anything_was_measured(command, monkeypatch, tmp_path):
    def interrupt(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "follow", interrupt)
    ended = command(*QUESTION, "--out", "run")
    assert ended.code == 130
    assert "Traceback" not in ended.err
    assert "no training that fits 0.7bpw has finished (none was begun)" in ended.err
    assert ended.last_line.endswith("go on with: flexor-search resume run")
    assert Run.open(tmp_path / "run").summary() is None


def test_interrupted_before_the_run_began(command, monkeypatch, tmp_path):
    def interrupt(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "check_fits", interrupt)
    ended = command(*QUESTION, "--out", "run")
    assert (ended.code, ended.err) == (130, "flexor-search: interrupted; nothing was begun\n")
    assert list(tmp_path.iterdir()) == []


def test_when_the_time_is_up_the_best_is_kept_and_confirmed(command, tmp_path):
    (tmp_path / "mine.py").write_text(MODULE)
    ended = command(
        *("--budget", "0.6bpw", "--model", "mine:build", "--data", "mine:loaders", "--out", "run"),
        *("--timeout", "0.001", "--trials", "30", "--epochs", "1", "--seeds", "2"),
    )
    assert ended.code == 0
    assert "the time for the search is up after 1 of 30 trials" in ended.err
    run = Run.open(tmp_path / "run")
    assert [m.phase for m in run.measurements] == [SEARCH, *[CONFIRM] * 4]  # uniform and full precision, two seeds each
    (entry,) = run.summary()["budgets"]
    assert run.summary()["state"] == "complete"
    assert entry["val_accuracy"]["seeds"] == [1000, 1001]
    assert entry["test_accuracy"] is not None
    verify_file(tmp_path / "run" / "model-0.6bpw.safetensors")
    (tmp_path / "mine.py").write_text(f"{MODULE}\n# another one\n")
    refused = command("resume", "run", "--quiet")
    assert refused.code == 1
    assert "run belongs to another question; what differs: source of mine (there " in refused.last_line


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "/there/x"),
            "cannot write /there/x: No space left on device",
        ),
        (OSError(errno.EROFS, "Read-only file system"), "cannot write: Read-only file system; free space or"),
        (MemoryError(), "the memory does not last"),
    ],
)
def test_a_machine_that_gives_out_anywhere_is_told_in_one_line(command, monkeypatch, error, words):
    def give_out(*_args):
        raise error

    monkeypatch.setattr(api, "check_fits", give_out)
    ended = command(*QUESTION, "--out", "run")
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert words in ended.err


def test_a_disk_that_is_full_ends_the_run_in_words(tmp_path):
    folder = tmp_path / "run"
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000)); {RUN}"
    process = subprocess.run(
        [sys.executable, "-c", limited, *QUESTION, "--out", folder],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert process.returncode == 1
    assert "Traceback" not in process.stderr
    assert process.stderr.splitlines()[-1].startswith("flexor-search: cannot write ")
    assert leftovers(folder) == []
    for path in (folder / "trained").iterdir():
        verify_file(path)
    Run.open(folder)
