"""study.db mirrors measurements.csv, for those who look with optuna's own tools."""

import math
import sqlite3

import optuna
import pytest
from optuna.trial import TrialState

from flexor_search.errors import RunError
from flexor_search.planning import Variable
from flexor_search.runs import CONFIRM, DONE, FAILED, STOPPED, Run
from flexor_search.tuning.optuna_backend import STUDY_NAME, StudyRecord, parameter

from .models import measured, new_run, space_of, uniform_at

SPACE = space_of()
ROWS = (
    measured(uniform_at(SPACE, 14), 0, 0.75, kind="uniform"),
    measured(SPACE.allocation((4, 9)), 1, 0.5, state=STOPPED, reason="weak after epoch 3"),
    measured(SPACE.allocation((2, 3)), 2, state=FAILED),
    measured(uniform_at(SPACE, 14), 3, 0.9, phase=CONFIRM, seed=1000),
    measured(SPACE.allocation((19, 0)), 4, 0.625),
)


def study_of(run):
    return optuna.load_study(study_name=STUDY_NAME, storage=f"sqlite:///{run.folder / 'study.db'}")


def check(run):
    """The study holds the search's measurements and nothing else."""
    rows = [m for m in run.measurements if m.phase != CONFIRM]
    study = study_of(run)
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    states = {DONE: TrialState.COMPLETE, STOPPED: TrialState.PRUNED, FAILED: TrialState.FAIL}
    assert [trial.state for trial in study.trials] == [states[m.state] for m in rows]
    for m, trial in zip(rows, study.trials, strict=True):
        assert trial.values == ([m.val_accuracy, m.bits_per_weight] if m.state == DONE else None)
        assert trial.params.keys() == {"3", "7"}
        assert SPACE.allocation((trial.params["3"], trial.params["7"])).digest == m.digest
        assert (trial.user_attrs["number"], trial.user_attrs["kind"]) == (m.number, m.kind)
        assert trial.user_attrs["reason"] == m.reason
        assert ("val_loss" in trial.user_attrs) != math.isnan(m.val_loss)


@pytest.fixture
def run(tmp_path):
    run = new_run(tmp_path / "run")
    record = StudyRecord(run, SPACE)
    for row in ROWS:
        run.append(row)
        record.add(row)
    return run


def test_the_study_opens_with_optuna_and_holds_every_trial(run):
    check(run)
    assert {trial.user_attrs["number"] for trial in study_of(run).best_trials} == {
        0,
        4,
    }  # its front, as the dashboard shows it


def test_opening_it_again_adds_nothing(run):
    before = (run.folder / "study.db").read_bytes()
    StudyRecord(run, SPACE)
    check(run)
    assert (run.folder / "study.db").read_bytes() == before


def lose_a_table(path):
    with sqlite3.connect(path) as connection:
        connection.execute("drop table trial_values")
    connection.close()


def one_trial_less(path):
    with sqlite3.connect(path) as connection:
        connection.execute("delete from trials where number = 3")
    connection.close()


def other_trials(path):
    with sqlite3.connect(path) as connection:
        connection.execute("update trial_user_attributes set value_json = '77' where key = 'number'")
    connection.close()


DAMAGES = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "not a database": lambda path: path.write_bytes(b"hello world" * 1000),
    "cut in the middle": lambda path: path.write_bytes(path.read_bytes()[:50_000]),
    "zeros at its end": lambda path: path.write_bytes(path.read_bytes()[:60_000] + bytes(50_000)),
    "a table is gone": lose_a_table,
    "behind": one_trial_less,
    "of other trials": other_trials,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_study_that_is_missing_or_damaged_or_behind_is_built_anew(run, damage):
    damage(run.folder / "study.db")
    record = StudyRecord(run, SPACE)
    check(run)
    row = measured(SPACE.allocation((0, 7)), 5, 0.25)
    run.append(row)
    record.add(row)
    check(run)


def test_measurements_made_while_no_study_was_open_are_in_the_next_one(run):
    run.append(measured(SPACE.allocation((0, 7)), 5, 0.25))
    StudyRecord(Run.open(run.folder), SPACE)
    check(Run.open(run.folder))


def test_a_journal_that_a_killed_process_left_does_not_spoil_a_new_study(run):
    path = run.folder / "study.db"
    path.write_bytes(b"damaged")
    path.with_name("study.db-journal").write_bytes(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + bytes(2000))
    StudyRecord(run, SPACE)
    check(run)


def test_a_study_that_cannot_be_written_is_an_error_in_words(run, monkeypatch):
    def full(*_args, **_more):
        raise sqlite3.OperationalError("database or disk is full")

    record = StudyRecord(run, SPACE)
    monkeypatch.setattr(optuna.Study, "add_trial", full)
    with pytest.raises(RunError, match=r"cannot write .*study\.db: database or disk is full"):
        record.add(measured(SPACE.allocation((0, 7)), 5, 0.25))


def test_optuna_keeps_its_voice(run):
    before = optuna.logging.get_verbosity()
    StudyRecord(run, SPACE)
    assert optuna.logging.get_verbosity() == before


def test_names_of_parameters_fit_into_a_database_and_stay_apart():
    layers = tuple(f"layer3.{block}.conv1" for block in range(60))
    one, other = Variable(layers, ()), Variable((*layers[:-1], "layer4.0.conv1"), ())
    assert max(len(parameter(one)), len(parameter(other))) <= 512 < len(one.name)
    assert parameter(one) != parameter(other)
    assert parameter(Variable(layers[:2], ())) == "layer3.0.conv1+layer3.1.conv1"
