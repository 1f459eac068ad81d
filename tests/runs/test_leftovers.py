"""What a killed process left is taken away, and nothing else."""

import pytest

from flexor_search.runs import CONFIRM, Run

from .examples import FINGERPRINT, QUESTION, measured


@pytest.fixture
def run(tmp_path):
    run = Run.start(tmp_path / "run", QUESTION, FINGERPRINT)
    run.append(measured(0))
    run.append(measured(1, phase=CONFIRM, seed=7))
    return run


def names(run):
    return {path.relative_to(run.folder).as_posix() for path in run.folder.rglob("*") if path.is_file()}


def test_only_what_nobody_will_use_is_taken_away(run):
    done, under_way = measured(1, phase=CONFIRM, seed=7), measured(1, phase=CONFIRM, seed=8)
    kept = {"measurements.csv", "run.toml", ".lock", "summary.json", "model-0.7bpw.safetensors", "mine.tmp"}
    kept |= {"trained/0.safetensors", "trained/0.json", "trained/1.safetensors", "trained/notes.txt"}
    unfinished = f"trained/{run.unfinished_path(under_way.key).name}"
    swept = {".summary.json.123.tmp", "trained/.0.json.99.tmp", "trained/..unproven-4-9.safetensors.9.tmp"}
    swept |= {"trained/.unproven-3-77.safetensors", "trained/2.safetensors", "trained/3.json"}
    swept |= {f"trained/{run.unfinished_path(done.key).name}"}
    for name in kept | swept | {unfinished}:
        (run.folder / name).touch()
    run.sweep()
    assert names(run) == kept | {unfinished}
    run.sweep(is_done=True)
    assert names(run) == kept


def test_a_folder_without_leftovers_stays_as_it_is(run):
    before = names(run)
    run.sweep(is_done=True)
    assert names(run) == before
