"""The time of a search adds up over its calls with the same budgets."""

import time

import pytest

from flexor_search.runs import CONFIRM, Run
from flexor_search.tuning.clock import SearchClock

from .models import measured, new_run, space_of, uniform_at

SPACE = space_of()


@pytest.fixture
def at(monkeypatch):
    """Sets the time."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def set_to(seconds):
        now[0] = 1000.0 + seconds

    return set_to


def test_time_adds_up_over_calls(tmp_path, at):
    run = new_run(tmp_path)
    clock = SearchClock(run)
    assert clock.seconds == 0.0
    at(10)
    clock.write()
    at(15)  # killed here
    assert clock.seconds == 15.0
    at(1000)
    again = SearchClock(run)
    assert again.seconds == 10.0
    at(1001.5)
    assert again.seconds == 11.5
    again.write()
    assert SearchClock(run).seconds == 11.5


def test_budgets_asked_for_later_have_time_of_their_own(tmp_path, at):
    first = new_run(tmp_path)
    first.question["budgets"] = ["0.7bpw"]
    clock = SearchClock(first)
    at(10)
    clock.write()
    second = Run(first.folder, first.question | {"budgets": ["0.5bpw", "0.3bpw"]}, first.fingerprint)
    clock = SearchClock(second)
    assert clock.seconds == 0.0
    at(14)
    clock.write()
    assert SearchClock(first).seconds == 10.0
    again = Run(first.folder, first.question | {"budgets": ["0.300bpw", "0.5bpw"]}, first.fingerprint)
    assert SearchClock(again).seconds == 4.0


@pytest.mark.parametrize(
    "content",
    [None, "", "[]", "{}", *(f'{{"search_seconds": {x}}}' for x in ('"many"', "null", "5.0", '{"": null}'))],
)
def test_where_the_file_is_lost_the_trainings_times_stand_for_it(tmp_path, at, content):
    run = new_run(tmp_path)
    run.append(measured(uniform_at(SPACE, 14), 0, train_seconds=3.0))
    run.append(measured(uniform_at(SPACE, 13), 1, train_seconds=4.0))
    run.append(measured(uniform_at(SPACE, 14), 2, train_seconds=50.0, phase=CONFIRM, seed=1000))
    if content is not None:
        (tmp_path / "clock.json").write_text(content)
    assert SearchClock(run).seconds == 7.0
