"""Ray on a cluster of nodes in this machine: a node is killed with SIGKILL at a random moment, another takes its place.

The search runs in a process that is never killed, on the cluster's head, which has no processor to train with. Two
more nodes have one each; what is killed is one of their node processes, and with it all that trains there. The run must
come to what a run of one process comes to. Recovery counts from the kill to the next measurement that ends; how much
work a kill costs is not measured here (0).
"""

import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.faults import checks, journal
from benchmarks.faults.process import Child, run_to_end
from benchmarks.faults.single import QUESTION, QUICK
from benchmarks.faults.tally import Outcome, Settings, Tally, Unavailable

_NODES = 2
_STORE: dict[str, Any] = {"object_store_memory": 100_000_000}
_MOST_KILLS_A_RUN = 2
_MOST_LINES = 4
"""Measurements that end before a node is killed, or between two kills, at most."""
_MOST_SECONDS = 2.0
"""After the last of them, at most: both nodes are in the middle of a training then."""
_LOOK_SECONDS = 0.1


def run(settings: Settings) -> Outcome:
    """All kills of nodes."""
    try:
        from ray.cluster_utils import Cluster
    except ImportError as error:
        raise Unavailable("needs ray") from error
    question = [*(QUICK if settings.quick else QUESTION)[:-2], "--ahead", "2", "--quiet"]
    random_numbers, tally = random.Random(settings.seed), Tally()
    whole = settings.folder / "whole"
    run_to_end(settings.folder / "whole.journal", None, [*question, "--jobs", "1", "--out", whole])
    tally.complain("unverified", checks.unverified(whole))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **_STORE})
    try:
        nodes = [cluster.add_node(num_cpus=1, **_STORE) for _ in range(_NODES)]
        while tally.kills < settings.kills:
            folder = settings.folder / f"run-{tally.runs}"
            on_ray = ["--backend", "ray", "--ray-address", cluster.address]
            _one_run(settings, cluster, nodes, [*question, *on_ray, "--out", folder], folder, random_numbers, tally)
            tally.runs += 1
            tally.complain("repeated", checks.repeated(folder))
            tally.complain("unverified", checks.unverified(folder))
            tally.complain("unreadable", [*checks.unreadable(folder), *checks.untidy(folder)])
            tally.complain("different", checks.different(folder, whole))
    finally:
        cluster.shutdown()
    return tally.outcome()


def _one_run(
    settings: Settings,
    cluster: Any,
    nodes: list[Any],
    args: Sequence[object],
    folder: Path,
    random_numbers: random.Random,
    tally: Tally,
) -> None:
    """One search. Between kills some measurements end, so that nodes are lost early and late in it."""
    told = folder.with_suffix(".journal")
    child = Child(told, None, args)
    killed_at: list[float] = []
    lines = 0
    while len(killed_at) < _MOST_KILLS_A_RUN and tally.kills + len(killed_at) < settings.kills:
        lines += random_numbers.randint(1, _MOST_LINES)
        while child.process.poll() is None and len(journal.finished(journal.read(told))) < lines:
            time.sleep(_LOOK_SECONDS)
        time.sleep(random_numbers.uniform(0.0, _MOST_SECONDS))
        if child.process.poll() is not None:
            break
        victim = random_numbers.randrange(len(nodes))
        for process in nodes[victim].live_processes():
            process[1].send_signal(signal.SIGKILL)
        killed_at.append(time.time())
        cluster.remove_node(nodes[victim], allow_graceful=False)  # takes it off the cluster's list
        nodes[victim] = cluster.add_node(num_cpus=1, **_STORE)
    ended = child.wait()
    if ended.code:
        raise RuntimeError(f"the search on Ray ended with {ended.code}: {ended.errors[-2000:]}")
    events = journal.read(told)
    tally.complain("lost", checks.lost(folder, journal.finished(events)))
    tally.complain("repeated", journal.made_again(events))
    for at in killed_at:
        tally.killed("node", 0.0)
        if after := [event.at for event in events if event.event == journal.LINE and event.at > at]:
            tally.recovery_seconds.append(min(after) - at)
