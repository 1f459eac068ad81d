"""One process at a time; a dead one holds nothing."""

import contextlib
import os
import signal
import subprocess
import sys
from socket import gethostname

import pytest

from flexor_search.errors import RunError
from flexor_search.runs import Run

from .examples import FINGERPRINT, QUESTION, measured

HOLD = """
import sys, time
from flexor_search.runs import Run
run = Run.open(sys.argv[1])
run.lock()
print("held", flush=True)
time.sleep(60)
"""


@contextlib.contextmanager
def held_by_another(folder):
    with subprocess.Popen([sys.executable, "-c", HOLD, folder], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


@pytest.fixture
def run(tmp_path):
    return Run.start(tmp_path / "run", QUESTION, FINGERPRINT)


def test_a_second_process_is_refused_and_changes_nothing(run):
    run.append(measured(0))
    path, toml = run.folder / "measurements.csv", (run.folder / "run.toml").read_bytes()
    with held_by_another(run.folder) as other:
        torn = path.read_bytes() + b"1,search,uni"  # as if that process were writing a line right now
        path.write_bytes(torn)
        with pytest.raises(RunError, match=rf"in use by another process, process {other.pid} on {gethostname()}; wait"):
            run.lock()
        with pytest.raises(RunError, match="in use by another process"):
            Run.start(run.folder, QUESTION | {"trials": 99}, FINGERPRINT)
        assert [m.number for m in Run.open(run.folder).measurements] == [0]  # reading is free
        assert path.read_bytes() == torn
        assert (run.folder / "run.toml").read_bytes() == toml


def test_the_lock_of_a_killed_process_is_free_again(run):
    with held_by_another(run.folder) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        run.lock()
        assert run.notices == [
            f"process {process.pid} on {gethostname()} ended without letting go of {run.folder}; it is taken over"
        ]
        with pytest.raises(RunError, match=f"process {os.getpid()} on "):
            Run.open(run.folder).lock()
        run.unlock()
        assert (run.folder / ".lock").read_text() == ""


def test_the_lock_ends_with_unlock(run):
    run.lock()
    with pytest.raises(RunError, match="in use"):
        Run.open(run.folder).lock()
    run.unlock()
    run.unlock()
    other = Run.open(run.folder)
    other.lock()
    other.unlock()


def test_locking_reads_what_another_process_has_measured_meanwhile(run):
    late = Run.open(run.folder)
    run.append(measured(0))
    late.lock()
    assert [m.number for m in late.measurements] == [0]
    late.unlock()


def test_a_run_that_was_let_go_is_not_taken_over(run):
    run.lock()
    run.unlock()
    other = Run.open(run.folder)
    other.lock()
    other.unlock()
    assert run.notices == other.notices == []


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"x" * 10_000])
def test_what_the_file_says_is_no_lock(run, content):
    (run.folder / ".lock").write_bytes(content)
    run.lock()
    run.unlock()
