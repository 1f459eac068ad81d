"""Workers that share a study agree, whatever the order in which they come, and whoever of them dies."""

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import optuna
import pytest
from optuna.trial import TrialState

from flexor_search.errors import RunError
from flexor_search.runs import DONE, FAILED, StorageName
from flexor_search.tuning import shared_study
from flexor_search.tuning.shared_study import SharedStudy
from flexor_search.tuning.storage import close_storage, open_storage
from flexor_search.tuning.worker_name import WorkerName

from .models import measured, space_of, uniform_at

SPACE = space_of()
ALLOCATIONS = [uniform_at(SPACE, n_in) for n_in in (4, 6, 8, 10, 12, 14)]
FILES = {"packed": bytes(range(256)), "packing": b"{}"}


@pytest.fixture(params=["journal", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def name(request, tmp_path):
    if request.param == "journal":
        return StorageName.parse(f"journal:{tmp_path}/shared.log")
    return database(request.getfixturevalue("postgresql"))


# threads cannot silence warnings for themselves alone
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
OPENED = []


@pytest.fixture(autouse=True)
def _nothing_stays_open():
    yield
    while OPENED:
        close_storage(OPENED.pop())


def opened(name, **seconds):
    OPENED.append(open_storage(name, **seconds))
    return OPENED[-1]


def database(server):
    return StorageName.parse(server.database(f"test_{time.monotonic_ns()}"))


def worker(name, process=None, machine=None, **seconds):
    """A worker with a connection of its own; of this process, unless it says otherwise."""
    mine = WorkerName.mine()
    who = replace(mine, process=process or mine.process, machine=machine or mine.machine)
    return SharedStudy(name, opened(name, **seconds), "study", who)


def key(index):
    return ALLOCATIONS[index].digest, "search", 0


def bring_up(study, index):
    return study.task(key(index), {"label": ALLOCATIONS[index].label}, {}, {})


def line(task, index=0, **more):
    return measured(ALLOCATIONS[index], task.number, phase="search", **more)


def gone_process():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def together(count, work):
    """The same in so many threads, begun at one moment."""
    barrier = threading.Barrier(count)

    def begin(index):
        barrier.wait()
        return work(index)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(begin, range(count)))


def test_workers_that_start_at_once_on_an_empty_storage_agree_and_no_two_train_the_same(name):
    storages = together(4, lambda _: opened(name))  # tables are made once
    studies = together(4, lambda index: SharedStudy(name, storages[index], "study"))  # and studies

    def walk(index):
        study, found = studies[index], []
        said = [study.agree(f"matter {number}", lambda: index) for number in range(5)]
        for number in range(len(ALLOCATIONS)):
            task = bring_up(study, (number + index) % len(ALLOCATIONS))
            if task.is_waiting and study.take(task):
                found.append((number + index) % len(ALLOCATIONS))
        return said, found

    walked = together(4, walk)
    assert len({tuple(said) for said, _ in walked}) == 1
    taken = [index for _, found in walked for index in found]
    assert sorted(taken) == list(range(len(ALLOCATIONS)))
    numbers = [{key: task.number for key, task in study.tasks().items()} for study in (*studies, worker(name))]
    assert all(other == numbers[0] for other in numbers)
    assert sorted(numbers[0].values()) == list(range(len(ALLOCATIONS)))
    states = [task.trial.state for task in studies[0].tasks().values()]
    assert states == [TrialState.RUNNING] * len(ALLOCATIONS)


def test_what_binds_is_the_first_offer_that_counts(name):
    one, other = worker(name), worker(name)
    assert one.agree("end", lambda: 5) == 5
    assert other.agree("end", lambda: 9, lambda value: value > 5) == 9
    assert one.agree("end", lambda: 7, lambda value: value > 5) == 9
    assert one.agree("end", lambda: 7) == 5
    assert one.agree("other", lambda: None) is None
    assert other.agree("other", lambda: 1) is None


def test_what_a_training_came_to_is_seen_by_all(name):
    one, other = worker(name), worker(name)
    task = bring_up(one, 0)
    assert other.take(bring_up(other, 0))
    assert not one.take(task)
    found = line(task, accuracy=0.1 + 0.2, val_loss=1 / 3, reason='a "reason", with a comma')
    with other.alive(task):
        assert other.finish(task, found, FILES)
    seen = one.tasks()[key(0)]
    assert seen.measurement == found
    assert one.files(seen) == FILES
    assert not one.take(seen)
    failed = bring_up(one, 1)
    assert one.take(failed)
    assert one.finish(failed, line(failed, 1, state=FAILED), {})
    assert other.tasks()[key(1)].measurement.reason == "the loss is nan"
    assert not other.tasks()[key(1)].is_lost
    assert other.files(other.tasks()[key(1)]) == {}
    states = [trial.state for trial in optuna.load_study(study_name="study", storage=one._storage).trials]
    assert states == [TrialState.COMPLETE, TrialState.FAIL]


def test_a_worker_that_is_gone_from_this_machine_is_missed_at_once(name):
    gone, one = worker(name, gone_process()), worker(name)
    task = bring_up(gone, 0)
    assert gone.take(task)
    assert [task.number for task in one.find_dead()] == [0]
    again = bring_up(one, 0)
    assert (again.number, again.attempt, again.deaths) == (0, 1, 1)
    assert again.is_waiting
    assert one.take(again)
    assert one.find_dead() == []  # this process is there
    # What the first would still have to say does not count any more.
    assert not gone.finish(task, line(task, accuracy=0.9), FILES)
    assert one.finish(again, line(again, accuracy=0.4), FILES)
    assert gone.tasks()[key(0)].measurement.val_accuracy == 0.4


def test_a_process_number_that_was_given_again_is_another_worker():
    mine = WorkerName.mine()
    assert WorkerName.parse(mine.text) == mine
    assert not mine.is_gone()
    assert replace(mine, begun="1").is_gone()
    assert replace(mine, machine="another", process=gone_process()).is_gone() is False
    assert WorkerName.parse("what somebody else wrote") is None


def test_what_is_given_back_is_nobodys_death(name):
    one, other = worker(name), worker(name)
    for _ in range(3):
        task = bring_up(one, 0)
        assert one.take(task)
        one.give_back(task)
    again = bring_up(other, 0)
    assert (again.attempt, again.deaths, again.is_waiting) == (3, 0, True)


@pytest.mark.postgresql
def test_a_worker_of_another_machine_is_missed_when_it_gives_no_sign_of_life(postgresql, monkeypatch):
    name = database(postgresql)
    seconds = {"heartbeat_seconds": 1, "grace_seconds": 2}
    living, dead = (worker(name, machine=where, **seconds) for where in ("elsewhere", "far-away"))
    one = worker(name, **seconds)
    tasks = [bring_up(one, index) for index in range(2)]
    assert living.take(tasks[0])
    assert dead.take(tasks[1])
    with living.alive(tasks[0]):
        limit = time.monotonic() + 30
        while not (found := one.find_dead()) and time.monotonic() < limit:
            time.sleep(0.2)
    assert [task.number for task in found] == [1]
    assert one.tasks()[key(0)].trial.state == TrialState.RUNNING
    assert one.take(bring_up(one, 1))


@pytest.mark.postgresql
def test_a_database_that_starts_again_is_waited_for(postgresql):
    name = database(postgresql)
    one = worker(name)
    task = bring_up(one, 0)
    assert one.take(task)
    postgresql.stop()
    again = threading.Timer(0.5, postgresql.start)
    again.start()
    try:
        assert one.finish(task, line(task), FILES)
    finally:
        again.join()
    assert worker(name).tasks()[key(0)].measurement.state == DONE


@pytest.mark.postgresql
def test_a_database_that_is_not_there_is_told_without_the_password(postgresql, monkeypatch):
    for url in (
        f"postgresql://flexor:secret@127.0.0.1:{postgresql.port}/nowhere",
        "postgresql://flexor:secret@127.0.0.1:1/flexor",
    ):
        with pytest.raises(RunError, match="cannot be used: ") as raised:
            open_storage(StorageName.parse(url))
        assert "secret" not in str(raised.value)
        assert "\n" not in str(raised.value)
    name = database(postgresql)
    study = worker(name)
    monkeypatch.setattr("flexor_search.tuning.storage._PATIENCE", (0.01,))
    monkeypatch.setattr(
        study._storage,
        "get_all_trials",
        lambda *_: (_ for _ in ()).throw(optuna.exceptions.StorageInternalError("the cable is cut")),
    )
    with pytest.raises(RunError, match="the cable is cut"):
        study.tasks()


def test_without_the_driver_it_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(RunError, match=r"pip install 'flexor-search\[postgresql\]'"):
        open_storage(StorageName.parse("postgresql://me@host/flexor"))


def test_a_file_that_is_no_journal_is_refused(tmp_path):
    (tmp_path / "shared.log").write_text("this is a letter\nand not a journal\n")
    name = StorageName.parse(f"journal:{tmp_path}/shared.log")
    with pytest.raises(RunError, match="is not a journal that Optuna can read"):
        open_storage(name)
    with pytest.raises(RunError, match="cannot write"):
        open_storage(StorageName.parse(f"journal:{tmp_path}/shared.log/below.log"))


def test_a_journals_worker_that_died_before_it_wrote_its_name_is_missed(tmp_path, monkeypatch):
    name = StorageName.parse(f"journal:{tmp_path}/shared.log")
    one = worker(name)
    task = bring_up(one, 0)
    one._storage.set_trial_state_values(task.trial._trial_id, TrialState.RUNNING)
    assert one.find_dead() == []
    monkeypatch.setattr(shared_study, "GRACE_SECONDS", 0)
    assert [task.number for task in one.find_dead()] == [0]
