"""Processes that answer requests: answers, errors, words on the way, ends, and nobody left behind."""

import logging
import os
import signal
from concurrent.futures import CancelledError
from dataclasses import dataclass

import pytest

from flexor_search.processes import Processes, WorkerDied


@dataclass(frozen=True)
class Made:
    """A setup whose processes do what a request says."""

    number: int = 1
    threads: int = 1

    def ready(self, tell):
        tell(f"ready with {self.number}")
        if self.number < 0:
            raise ValueError("the number is negative")
        return lambda request: getattr(self, request[0])(tell, *request[1:])

    def add(self, tell, other):
        print("not an answer")
        tell(f"{self.number} and {other}")
        return self.number + other

    def log(self, tell):
        logging.getLogger("flexor_search.workloads.image_files").warning("a file is damaged: %s", "7.jpg")

    def die(self, tell):
        print("the last words")
        os.kill(os.getpid(), signal.SIGKILL)

    def wait(self, tell):
        signal.pause()

    def forsaken(self):
        pass


class Unreadable:
    """What cannot be unpacked where it is sent."""

    def __reduce__(self):
        return os.stat, ("/no/such/file",)


@pytest.fixture
def crew():
    told = []
    processes = Processes(Made(2), 2, told.append)
    processes.told = told
    yield processes
    for pid in processes.stop():
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_answers_come_with_the_name_of_who_answered_and_what_was_told_before(crew):
    found = [crew.submit(crew.ask, ("add", other)).result() for other in range(4)]
    assert [answer.found for answer in found] == [2, 3, 4, 5]
    assert {answer.worker for answer in found} == {"1", "2"}
    assert sorted(crew.told) == sorted(["ready with 2"] * 2 + [f"2 and {other}" for other in range(4)])


def test_what_is_logged_there_is_told_here(crew):
    crew.ask(("log",))
    assert crew.told[-1] == "a file is damaged: 7.jpg"


def test_an_error_there_is_raised_here_and_the_process_goes_on(crew):
    for request, error in ((("absent",), AttributeError), (lambda: 1, Exception), (Unreadable(), FileNotFoundError)):
        for _ in range(2):
            with pytest.raises(error):
                crew.ask(request)
    assert len(crew.pids) == 2
    assert crew.ask(("add", 1)).found == 3


def test_one_that_dies_says_how_and_another_takes_its_place(crew):
    for _ in range(2):
        with pytest.raises(WorkerDied, match="its process ended by signal 9: the last words"):
            crew.ask(("die",))
    assert {crew.ask(("add", 1)).worker for _ in range(2)} == {"1", "2"}
    assert len(crew.pids) == 4


def test_a_stop_ends_what_is_under_way_and_calls_off_what_waits():
    processes = Processes(Made(), 1, lambda text: None)
    begun, waiting = (processes.submit(processes.ask, ("wait",)) for _ in range(2))
    processes.stop()
    for future in (begun, waiting):
        with pytest.raises(CancelledError):
            future.result()


def test_one_that_does_not_get_ready_is_an_error_and_leaves_nobody(monkeypatch):
    stopped, stop = [], Processes.stop
    monkeypatch.setattr(Processes, "stop", lambda self: stopped.extend(stop(self)))
    with pytest.raises(ValueError, match="the number is negative"):
        Processes(Made(-1), 2, lambda text: None)
    assert len(stopped) == 2
    for pid in stopped:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
