"""One process at a time; a dead one holds nothing."""

import contextlib
import signal
import subprocess
import sys

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
    with held_by_another(run.folder):
        torn = path.read_bytes() + b"1,search,uni"  # as if that process were writing a line right now
        path.write_bytes(torn)
        with pytest.raises(RunError, match="in use by another process"):
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
        run.unlock()


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
