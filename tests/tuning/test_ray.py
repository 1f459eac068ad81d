"""Ray Tune as a team, on a cluster of two nodes in this machine: what it comes to, and what a lost node costs."""

import os
import threading
from dataclasses import replace

import pytest
import ray
import torch
from ray.cluster_utils import Cluster

from flexor_search.asking import Question
from flexor_search.errors import RunError, UsageError
from flexor_search.tuning import SearchPlan, confirm, search, summarize
from flexor_search.tuning.ray_backend import RayTeam
from flexor_search.tuning.ray_cluster import Resources, ray_cluster

from .models import RECIPE, Recorder, budgets, measurer_in, small_net, space_of

SPACE = space_of(keep=[])
PLAN = SearchPlan(SPACE, budgets("0.7bpw"), 6, 0, 1e9, ahead=2)
LONG = replace(RECIPE, epochs=12, search_epochs=12)
SEEDS = (1000,)

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]


@pytest.fixture(scope="module")
def cluster():
    os.environ.setdefault("RAY_worker_niceness", "0")  # else the tests beside these starve its workers
    store = {"object_store_memory": 100_000_000, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **store})
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    yield made
    ray.shutdown()
    made.shutdown()


def lines(measurer):
    return [replace(m, train_seconds=0.0, worker="") for m in measurer.run.measurements]


def whole_search(measurer, team, observer):
    search(PLAN, measurer, observer, team)
    confirm(SPACE, PLAN.budgets, measurer, SEEDS, observer, team)
    return summarize(SPACE, PLAN.budgets, measurer, SEEDS, observer, complete=True)


class Interrupting(Recorder):
    """Does something when so many trials have been measured."""

    def __init__(self, count, work):
        super().__init__()
        self._count, self._work = count, work

    def measured(self, measurement, best):
        super().measured(measurement, best)
        if len(self.of("measured")) == self._count:
            self._work()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What the search comes to in one process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    measurer = measurer_in(tmp_path_factory.mktemp("alone"), recipe=LONG)
    summary = whole_search(measurer, None, Recorder())
    torch.set_num_threads(threads)
    return measurer, summary


def test_a_node_that_is_lost_in_mid_trial_changes_nothing(cluster, alone, tmp_path):
    node = cluster.add_node(num_cpus=1, object_store_memory=100_000_000)
    cluster.wait_for_nodes()
    measurer = replace(measurer_in(tmp_path, recipe=LONG), checkpoint_seconds=0.1)
    lost = []

    def lose():
        lost.append(threading.Thread(target=cluster.remove_node, args=(node,), kwargs={"allow_graceful": False}))
        lost[0].start()

    observer = Interrupting(2, lose)
    team = RayTeam(measurer, Resources(1.0), 3, observer)
    try:
        summary = whole_search(measurer, team, observer)
    finally:
        team.stop()
    lost[0].join()
    whole, expected = alone
    assert lines(measurer) == lines(whole)
    assert summary == expected
    assert {m.worker for m in measurer.run.measurements} == {"ray"}
    for m in whole.run.measurements:
        paths = [each.run.trained_path(m.number) for each in (whole, measurer)]
        assert paths[0].read_bytes() == paths[1].read_bytes()
    assert not (tmp_path / "ray").exists()


@pytest.mark.parametrize("state", ["kept", "never written"])
def test_an_interrupted_search_is_gone_on_with(cluster, alone, tmp_path, state):
    def interrupt():
        raise KeyboardInterrupt

    measurer, observer = measurer_in(tmp_path, recipe=LONG), Interrupting(2, interrupt)
    team = RayTeam(measurer, Resources(0.5), 3, observer)
    with pytest.raises(KeyboardInterrupt):
        whole_search(measurer, team, observer)
    team.stop()
    before = lines(measurer)
    assert len(before) >= 2
    if state == "never written":
        for path in (tmp_path / "ray" / "tune").glob("experiment_state-*.json"):
            path.unlink()
    again, observer = measurer_in(tmp_path, recipe=LONG), Recorder()
    team = RayTeam(again, Resources(0.5), 3, observer)
    try:
        summary = whole_search(again, team, observer)
    finally:
        team.stop()
    ((text,), *_) = observer.of("message")
    assert text.startswith("Ray goes on with " if state == "kept" else "Ray's own state cannot be gone on with (")
    whole, expected = alone
    assert lines(again)[: len(before)] == before
    assert sorted(lines(again), key=lambda m: m.number) == lines(whole)
    assert summary == expected


def broken_net():
    net = small_net()
    net.forward = _raise
    return net


def _raise(_images):
    raise RuntimeError("the user's own mistake")


def test_an_error_of_the_model_comes_through_at_once(cluster, tmp_path):
    measurer = measurer_in(tmp_path, broken_net)
    team = RayTeam(measurer, Resources(0.5), 3, Recorder())
    with pytest.raises(RunError, match="the user's own mistake"):
        search(PLAN, measurer, Recorder(), team)
    team.stop()
    assert not measurer.run.measurements


def test_a_trial_that_no_node_has_room_for_is_refused(cluster):
    with ray_cluster("", 0.25, 0.0) as room:
        assert room >= 4
    with (
        pytest.raises(UsageError, match=r"no node has room for a trial of 64 CPUs and 0\.5 GPUs"),
        ray_cluster("", 64, 0.5),
    ):
        pass


def test_how_many_trials_fit_on_a_node():
    node = {"CPU": 4.0, "GPU": 1.0, "memory": 1e9}
    assert [Resources(*need).fit(node) for need in ((1.0,), (0.5,), (1.5,), (1.0, 0.25), (0.5, 0.1), (1.0, 2.0))] == [
        *(4, 8, 2, 4, 8, 0)
    ]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"backend": "spark"}, "backend: 'spark' is not known"),
        ({"backend": "ray", "storage": "journal:shared.log"}, "storage: workers on a storage and --backend ray"),
        ({"ray_address": "auto"}, "ray_address: is for --backend ray"),
        ({"cpus_per_trial": 2.0}, "cpus_per_trial: is for --backend ray"),
        ({"gpus_per_trial": 0.5}, "gpus_per_trial: is for --backend ray"),
        ({"backend": "ray", "cpus_per_trial": -1.0}, "cpus_per_trial: must not be negative"),
        ({"storage": "sqlite:///shared.db"}, "storage: SQLite is for one process"),
    ],
)
def test_what_does_not_go_together_is_refused(asked, said):
    with pytest.raises(UsageError) as raised:
        Question("0.7bpw", **asked)
    assert said in str(raised.value)
