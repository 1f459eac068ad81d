"""Several workers walk one search: each run folder ends as if one process had done it all."""

import random
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from flexor_search.errors import RunError
from flexor_search.runs import DONE, FAILED, StorageName
from flexor_search.tuning import SearchPlan, SharedStudy, SharedTeam, confirm, proposals, search
from flexor_search.tuning.shared_team import settle
from flexor_search.tuning.storage import open_storage
from flexor_search.tuning.worker_name import WorkerName

from .models import RECIPE, FakeMeasurer, Recorder, budgets, measured, space_of, uniform_at

PACKED = Path(__file__).parents[1] / "golden" / "packed" / "digits-v2.safetensors"
SPACE = space_of(keep=[])
PLAN = SearchPlan(SPACE, budgets("0.7bpw"), 8, 0, 1e9, ahead=3)

# threads cannot silence warnings for themselves alone
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


@pytest.fixture(params=["journal", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def name(request, tmp_path):
    if request.param == "journal":
        return StorageName.parse(f"journal:{tmp_path}/shared.log")
    server = request.getfixturevalue("postgresql")
    return StorageName.parse(server.database(f"test_{time.monotonic_ns()}"))


def accuracy(allocation):
    return round(0.5 + 0.4 * random.Random(allocation.digest).random(), 6)


class Dies(BaseException):
    """As if the process had been killed: nothing is given back."""


class Measurer(FakeMeasurer):
    """Trains in a moment, writes a packed file, and may die over a training."""

    def __init__(self, folder, study=None, dies_at=None, seconds=0.02, dies_over=None):
        super().__init__(folder, accuracy)
        self.study, self.dies_at, self.dies_over, self.seconds = study, dies_at, dies_over, seconds
        self.attempts = []

    def agree(self, name, offer, binds):
        return self.study.agree(name, offer, binds) if self.study else offer()

    def free_numbers(self, count, taken=()):
        return [0] * count

    def attempt(self, trial, number):
        if len(self.attempts) == self.dies_at or trial.key == self.dies_over:
            raise Dies
        self.attempts.append(trial.key)
        time.sleep(self.seconds)
        shutil.copy(PACKED, self.run.trained_path(number))
        self.run.packing_path(number).write_text(f'{{"number": {number}}}')
        candidate = trial.candidate
        return measured(
            candidate.allocation,
            number,
            accuracy(candidate.allocation),
            phase=trial.phase,
            kind=candidate.kind,
            budget=candidate.budget,
            seed=trial.seed,
        )

    def failed(self, trial, number, reason):
        return measured(trial.candidate.allocation, number, phase=trial.phase, state=FAILED, reason=reason)


def gone_process():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def work(name, folder, plan=PLAN, *, observer=None, **more):
    """One worker from its start to its end; one that dies has a process number that nobody has."""
    who = WorkerName.mine()
    if "dies_at" in more or "dies_over" in more:
        who = replace(who, process=gone_process())
    study = SharedStudy(name, open_storage(name), "study", who)
    if "dies_at" in more or "dies_over" in more:
        study.give_back = lambda task: None
    try:
        measurer = Measurer(folder, study, **more)
        observer = observer or Recorder()
        team = SharedTeam(study, measurer, plan.space, plan.ahead, observer)
        try:
            search(plan, measurer, observer, team)
            confirm(plan.space, plan.budgets, measurer, (1000, 1001), observer, team)
        except Dies:
            pass
        return measurer
    finally:
        study.close()


def at_once(*works):
    found, threads = [None] * len(works), []
    for index, one in enumerate(works):
        threads.append(threading.Thread(target=lambda index=index, one=one: found.__setitem__(index, one())))
        threads[-1].start()
    for thread in threads:
        thread.join()
    assert None not in found
    return found


def lines(measurer):
    return [replace(m, worker="") for m in sorted(measurer.run.measurements, key=lambda m: m.number)]


def alone(folder, plan=PLAN):
    measurer = Countable(folder)
    search(plan, measurer, Recorder())
    confirm(plan.space, plan.budgets, measurer, (1000, 1001), Recorder())
    return measurer


class Countable(FakeMeasurer):
    def __init__(self, folder):
        super().__init__(folder, accuracy)


def test_every_workers_folder_ends_as_that_of_one_alone_and_nothing_is_trained_twice(name, tmp_path):
    works = [lambda index=index: work(name, tmp_path / f"worker-{index}") for index in range(3)]
    found = at_once(*works)
    whole = alone(tmp_path / "alone")
    assert [lines(measurer) for measurer in found] == [list(whole.run.measurements)] * 3
    trained = [key for measurer in found for key in measurer.attempts]
    assert sorted(trained) == sorted(m.key for m in whole.run.measurements)
    assert all(measurer.attempts for measurer in found)
    for measurer in found:
        for m in measurer.run.measurements:
            assert measurer.run.trained_path(m.number).read_bytes() == PACKED.read_bytes()
            assert measurer.run.packing(m.number) == {"number": m.number}
    # Who comes when all is done has nothing to train, and gets everything.
    late = work(name, tmp_path / "late")
    assert (late.attempts, lines(late)) == ([], list(whole.run.measurements))
    # More trials go on from there.
    more = replace(PLAN, trials=10)
    longer = work(name, tmp_path / "worker-0", more)
    assert lines(longer)[: len(whole.run.measurements)] == list(whole.run.measurements)
    assert len({m.key for m in longer.run.measurements}) == len(longer.run.measurements)
    assert sum(m.phase == "search" for m in longer.run.measurements) == 10


def test_what_a_dead_worker_was_at_is_trained_by_another_and_it_may_come_back(name, tmp_path):
    whole, observer = alone(tmp_path / "alone"), Recorder()
    living, dead = at_once(
        lambda: work(name, tmp_path / "living", seconds=0.1, observer=observer),
        lambda: work(name, tmp_path / "dead", dies_at=2),
    )
    assert len(dead.attempts) == 2
    assert lines(living) == list(whole.run.measurements)
    assert sorted([*living.attempts, *dead.attempts]) == sorted(m.key for m in whole.run.measurements)
    assert any("its worker is gone; it is trained again" in text for (text,) in observer.of("message"))
    again = work(name, tmp_path / "dead")
    assert (again.attempts, lines(again)) == ([], list(whole.run.measurements))


def test_a_training_that_kills_every_worker_fails_alone(tmp_path):
    name = StorageName.parse(f"journal:{tmp_path}/shared.log")
    key = proposals.baselines(PLAN)[0].allocation.digest, "search", 0
    for number in range(5):
        assert key not in work(name, tmp_path / f"dead-{number}", dies_over=key).attempts
    found = work(name, tmp_path / "living")
    (failed,) = [m for m in found.run.measurements if m.state == FAILED]
    assert (failed.key, failed.reason) == (key, "5 workers died over it")


def test_when_the_time_of_one_is_up_the_search_ends_for_all_until_one_has_more(tmp_path):
    name = StorageName.parse(f"journal:{tmp_path}/shared.log")
    short = replace(PLAN, timeout_seconds=0.0)
    observer = Recorder()
    first = work(name, tmp_path / "first", short, observer=observer)
    searched = [m for m in first.run.measurements if m.phase == "search"]
    assert len(searched) == 1
    assert ("the time for the search is up after 1 of 8 trials",) in observer.of("message")
    second = work(name, tmp_path / "second", short)
    assert (second.attempts, lines(second)) == ([], lines(first))
    longer = work(name, tmp_path / "first")
    assert sum(m.phase == "search" for m in longer.run.measurements) == 8


def test_a_folder_of_another_study_is_refused(tmp_path):
    name = StorageName.parse(f"journal:{tmp_path}/shared.log")
    measurer = Measurer(tmp_path / "run")
    measurer.run.append(measured(uniform_at(space_of(), 8), 0))
    study = SharedStudy(name, open_storage(name), "study")
    with pytest.raises(RunError, match=r"the run folder has trainings \(trial 0\) that journal:.*shared.log does not"):
        SharedTeam(study, measurer, SPACE, 3, Recorder())


def test_what_the_first_worker_measured_of_its_machine_holds_for_all(tmp_path):
    name = StorageName.parse(f"journal:{tmp_path}/shared.log")
    study = SharedStudy(name, open_storage(name), "study")
    low = replace(RECIPE, precision="bfloat16", memory_format="channels_last")
    assert settle(study, low, 7) == (low, 7)
    assert settle(study, RECIPE, 3) == (low, 7)


def test_an_interrupted_worker_gives_back_what_it_was_at(tmp_path, monkeypatch):
    name = StorageName.parse(f"journal:{tmp_path}/shared.log")

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Measurer, "attempt", interrupt)
        with pytest.raises(KeyboardInterrupt):
            work(name, tmp_path / "interrupted")
    found = work(name, tmp_path / "other")
    assert {m.state for m in found.run.measurements} == {DONE}
    assert len(found.attempts) == len(found.run.measurements)
