"""The benchmark that kills runs can tell when something was lost."""

import json
import random

import pytest
from runs.examples import FINGERPRINT, QUESTION, measured

from benchmarks.faults import checks, journal
from benchmarks.faults.child import MOMENTS, owner_of
from benchmarks.faults.single import draw, moment_seconds
from benchmarks.faults.tally import Tally
from flexor_search.packing import verify_file
from flexor_search.runs import CONFIRM, STOPPED, Run


@pytest.mark.parametrize("moment", MOMENTS)
def test_every_moment_is_a_function_that_there_is(moment):
    for module, name in MOMENTS[moment]:
        owner, last = owner_of(module, name)
        assert callable(getattr(owner, last))


def written(path, *events):
    """A journal with one event a second."""
    lines = [
        {"at": 100.0 + second, "process": process, "event": event, "moment": moment} | more
        for second, (process, event, moment, more) in enumerate(events)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"at": 1')
    return journal.read(path)


KEY = ["abc", "search", 0]


def test_a_journal_tells_where_a_kill_hit_and_what_was_lost(tmp_path):
    events = written(
        tmp_path / "journal",
        (1, "start", "", {}),
        (1, "begin", "training", {}),
        (1, "end", "training", {}),
        (1, "begin", "measurement line", {}),
        (1, "line", "", {"key": KEY, "row": "{}"}),
        (1, "end", "measurement line", {}),
        (1, "begin", "training", {}),
        (1, "begin", "checkpoint write", {}),
        (1, "end", "checkpoint write", {}),
        (1, "kill", "", {}),
        (2, "start", "", {}),
        (2, "begin", "training", {}),
        (2, "begin", "checkpoint write", {}),
    )
    assert journal.moment_hit(events, 1) == "training"
    assert journal.moment_hit(events, 2) == "checkpoint write"
    assert journal.moment_hit(events, 3) == "between"
    assert journal.work_lost_seconds(events, 1, 109.5) == 1.5  # since the checkpoint's end
    assert journal.work_lost_seconds(events, 2, 115.0) == 4.0  # since the training's beginning: its checkpoint was cut
    assert journal.work_lost_seconds(events[:6], 1, 106.0) == 0.0
    assert journal.recovery_seconds(events, 2, 109.0) == 2.0
    assert journal.recovery_seconds(events[:1], 1, 0.0) is None
    assert journal.finished(events) == {("abc", "search", 0): "{}"}
    assert journal.made_again(events) == []
    line = next(event for event in events if event.event == journal.LINE)
    assert len(journal.made_again([*events, line])) == 1
    lengths = moment_seconds(events[:9])
    assert lengths["measurement line"] == (2.0, 1)
    assert lengths["training"] == (1.0, 1)


def test_what_a_process_writes_down_is_read_again(tmp_path):
    log = journal.Journal(tmp_path / "journal")
    log.write(journal.START)
    log.write(journal.LINE, key=("abc", "search", 3), row="{}")
    first, second = journal.read(tmp_path / "journal")
    assert (first.event, second.key, second.row) == ("start", ("abc", "search", 3), "{}")
    assert first.process == second.process
    assert journal.read(tmp_path / "absent") == []


def test_kills_are_drawn_within_what_a_moment_lasts():
    lengths = {"training": (2.0, 9), "export": (0.1, 1)}
    kills = [draw(random.Random(seed), lengths) for seed in range(200)]
    assert {kill.moment for kill in kills} == set(lengths)
    assert {kill.occurrence for kill in kills if kill.moment == "training"} == {1, 2, 3}
    assert {kill.occurrence for kill in kills if kill.moment == "export"} == {1}
    assert all(0 <= kill.after_seconds <= 1.1 * lengths[kill.moment][0] for kill in kills)


@pytest.fixture
def run(tmp_path):
    run = Run.start(tmp_path / "run", QUESTION, FINGERPRINT)
    for number in range(3):
        run.append(measured(number, state=STOPPED))
    return run


def test_a_lost_or_changed_or_repeated_measurement_is_seen(run):
    finished = {m.key: checks.as_text(m) for m in run.measurements}
    path = run.folder / "measurements.csv"
    assert checks.lost(run.folder, finished) == checks.repeated(run.folder) == []
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]) + lines[-1][:20])  # torn: not there
    assert len(checks.lost(run.folder, finished)) == 1
    path.write_text("".join(lines).replace("0.76", "0.77", 1))
    assert len(checks.lost(run.folder, finished)) == 1
    path.write_text("".join([*lines, lines[-1]]))
    assert len(checks.repeated(run.folder)) == 1
    path.unlink()
    assert len(checks.lost(run.folder, finished)) == 3


def test_a_file_that_cannot_be_read_is_seen(run):
    assert checks.unreadable(run.folder) == []
    (run.folder / "summary.json").write_text('{"state"')
    assert len(checks.unreadable(run.folder)) == 1
    (run.folder / "model-0.7bpw.safetensors").write_bytes(b"half")
    assert len(checks.unreadable(run.folder)) == 2
    run.append(measured(3, phase=CONFIRM))  # done, and its packed file is not there
    assert len(checks.unreadable(run.folder)) == 3
    with pytest.raises(Exception, match="packed file"):
        verify_file(run.folder / "model-0.7bpw.safetensors")


def test_a_run_without_a_verified_model_is_seen(run):
    assert checks.unverified(run.folder) == ["run has no complete summary"]
    run.write_summary({"state": "interrupted", "budgets": []})
    assert checks.unverified(run.folder) == ["run has no complete summary"]
    run.write_summary({"state": "complete", "budgets": [{"budget": "0.7bpw", "verified": True, "file_bytes": 1}]})
    assert len(checks.unverified(run.folder)) == 1


def test_a_tally_comes_to_the_promised_keys():
    tally = Tally()
    assert tally.outcome().is_clean
    tally.killed("training", 2.0)
    tally.killed("export", 0.0)
    tally.recovery_seconds += [1.0, 3.0]
    outcome = tally.outcome()
    assert outcome.is_clean
    assert {"kills", "lost", "repeated", "unverified", "worst_recovery_seconds"} <= outcome.to_json().keys()
    assert (outcome.kills, outcome.worst_recovery_seconds, outcome.work_lost_seconds_per_kill) == (2, 3.0, 1.0)
    tally.complain("lost", ["one"])
    assert not tally.outcome().is_clean
    assert tally.outcome().complaints == ["lost: one"]
