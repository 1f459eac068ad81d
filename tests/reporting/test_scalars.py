"""TensorBoard scalars, read back by TensorBoard itself."""

import warnings

import pytest

from flexor_search.errors import RunError
from flexor_search.live import scalars_too
from flexor_search.reporting.scalars import ScalarWriter, write_scalars
from flexor_search.runs import Run

from .made_run import confirmed, example, failed, made_run, measured, stopped


def scalars(folder):
    """Tag -> (step, value) of every event in a folder, as TensorBoard reads them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own, on being imported
        accumulator = pytest.importorskip(
            "tensorboard.backend.event_processing.event_accumulator",
            reason="needs tensorboard: pip install 'flexor-search[live]'",
        )
        found = accumulator.EventAccumulator(str(folder))
        found.Reload()
        return {
            tag: [(event.step, pytest.approx(event.value, abs=1e-6)) for event in found.Scalars(tag)]
            for tag in found.Tags()["scalars"]
        }


MADE = (
    measured(0, 0.80, 0.7, rungs="1:0.5 2:0.8"),
    measured(1, 0.75, 0.5, rungs="1:0.6", epochs=3),
    stopped(2, 0.4, 0.3),
    failed(3, 0.2),
    measured(4, 0.9, 0.4),
    *confirmed(5, (0.95,), 0.5),
)


def test_every_training_has_its_curve(tmp_path):
    folder = write_scalars(made_run(tmp_path, list(MADE)))
    assert folder == tmp_path / "tensorboard"
    assert scalars(folder / "trial-00000")["validation/accuracy"] == [(1, 0.5), (2, 0.8)]
    second = scalars(folder / "trial-00001")
    assert second["validation/accuracy"] == [(1, 0.6), (3, 0.75)]  # the last score is at the end
    assert second["validation/loss"] == [(3, 0.25)]
    assert second["size/bits_per_weight"] == [(3, 0.5)]
    assert second["size/file_bytes"] == [(3, 262)]
    assert "validation/accuracy" not in scalars(folder / "trial-00003")  # it failed: there is none
    assert len(list(folder.glob("trial-*"))) == len(MADE)


def test_the_search_as_a_whole_has_the_best_so_far(tmp_path):
    whole = scalars(write_scalars(made_run(tmp_path, list(MADE))) / "search")
    assert whole["search/accuracy"] == [(0, 0.80), (1, 0.75), (4, 0.9)]
    assert whole["search/best_accuracy"] == [(0, 0.80), (1, 0.80), (4, 0.9)]
    assert whole["search/bits_per_weight"] == [(0, 0.7), (1, 0.5), (4, 0.4)]


def test_writing_again_changes_nothing_that_is_shown(tmp_path):
    run = made_run(tmp_path, list(MADE))
    folder = write_scalars(run)
    before = {path.name: scalars(path) for path in folder.iterdir() if path.is_dir()}
    write_scalars(run)
    assert {path.name: scalars(path) for path in folder.iterdir() if path.is_dir()} == before


def test_a_search_writes_each_training_as_it_ends(tmp_path):
    told = []

    class Watcher:
        def measured(self, measurement, best):
            told.append((measurement.number, best))

        def message(self, text):
            told.append(text)

    run = made_run(tmp_path, [MADE[0]])  # a run that goes on: what it had is written, too
    with scalars_too(Watcher(), tmp_path) as observer:
        observer.message("hello")
        assert not (tmp_path / "tensorboard").exists()
        for measurement in MADE[1:]:
            run.append(measurement)
            observer.measured(measurement, "best")
            observer.measured(measurement, "best")  # found done already
            assert (tmp_path / "tensorboard" / f"trial-{measurement.number:05d}").is_dir()
    assert told == ["hello", *((m.number, "best") for m in MADE[1:] for _ in range(2))]
    assert scalars(tmp_path / "tensorboard" / "search")["search/best_accuracy"] == [(0, 0.80), (1, 0.80), (4, 0.9)]
    assert {path.name: scalars(path) for path in (tmp_path / "tensorboard").iterdir()} == {
        path.name: scalars(path) for path in write_scalars(Run.open(tmp_path)).iterdir()
    }


def test_without_anyone_watching_it_is_silent(tmp_path):
    run = made_run(tmp_path, [])
    with scalars_too(None, tmp_path) as observer:
        run.append(MADE[0])
        observer.measured(MADE[0], "")
        observer.begin("x")
        observer.phase("search", 3)
        observer.planned([])
    assert (tmp_path / "tensorboard" / "trial-00000").is_dir()


def test_a_folder_that_cannot_be_written_is_an_error_in_words(tmp_path):
    run = example(tmp_path)
    (tmp_path / "tensorboard").write_text("in the way")
    with pytest.raises(RunError, match="cannot write"):
        ScalarWriter(run)


def test_a_search_that_is_going_on_keeps_its_own_files(tmp_path):
    run = made_run(tmp_path, MADE)
    folder = write_scalars(run)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("events*")}
    with ScalarWriter(run):
        writing = {path: path.stat().st_mtime_ns for path in folder.rglob("events*")}
        assert write_scalars(Run.open(tmp_path)) == folder
        assert {path: path.stat().st_mtime_ns for path in folder.rglob("events*")} == writing
    run.lock()  # of a search that writes no scalars
    write_scalars(Run.open(tmp_path))
    run.unlock()
    assert {path.parent.name for path in folder.rglob("events*")} == {path.parent.name for path in before}
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("events*")} not in (before, writing)
