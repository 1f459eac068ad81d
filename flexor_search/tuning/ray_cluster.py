"""A cluster of Ray's: joined where an address is given, else started on this machine and ended again."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # it prints a table, however quiet it shall be
os.environ.setdefault("TUNE_PRINT_ALL_TRIAL_ERRORS", "0")
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "5")
os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")

import ray

from flexor_search.codes.sharing import n_processors
from flexor_search.errors import RunError, UsageError
from flexor_search.workloads.own import first_line

_OBJECT_STORE_BYTES = 400_000_000


@dataclass(frozen=True)
class Resources:
    """What a trial takes of a node; fractions are allowed.

    Attributes:
        cpus, gpus: of one trial.
    """

    cpus: float = 1.0
    gpus: float = 0.0

    def fit(self, node: dict[str, float]) -> int:
        """How many trials a node has room for."""
        fits = [
            int(node.get(name, 0.0) / need + 1e-9) for name, need in (("CPU", self.cpus), ("GPU", self.gpus)) if need
        ]
        return min(fits, default=0)


@contextmanager
def ray_cluster(address: str, cpus: float, gpus: float) -> Iterator[int]:
    """Join a cluster, or start one on this machine, and leave it; gives how many trials it has room for.

    Args:
        address: of a cluster, "auto" for the one of this machine; "": starts one.
        cpus, gpus: of a trial.

    Raises:
        RunError: it cannot be reached.
        UsageError: no node of it has room for a trial.
    """
    resources = Resources(cpus, gpus)
    mine = not ray.is_initialized()
    if mine:
        sigterm = signal.getsignal(signal.SIGTERM)
        common: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False, "configure_logging": True}
        try:
            if address:
                ray.init(address=address, **common)
            else:
                more = {"include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
                ray.init(address="local", num_cpus=n_processors(), **more, **common)  # or it joins any that runs here
        except (ConnectionError, RuntimeError, ValueError, OSError, TimeoutError) as error:
            reason = first_line(error)
            raise RunError(
                f"ray_address: no cluster at {address or 'this machine'}: {reason}; start one with: ray start --head"
            ) from error
        _take_back(sigterm)
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not (room := sum(resources.fit(node) for node in nodes)):
            most = {name: max((node.get(name, 0.0) for node in nodes), default=0.0) for name in ("CPU", "GPU")}
            raise UsageError(
                f"cpus_per_trial: no node has room for a trial of {cpus:g} CPUs and {gpus:g} GPUs; "
                f"the largest have {most['CPU']:g} CPUs and {most['GPU']:g} GPUs; ask for less"
            )
        with redirect_stdout(sys.stderr):  # where Ray prints what it has to say of nodes
            yield room
    finally:
        if mine:
            ray.shutdown()


def _take_back(sigterm: Any) -> None:
    """Ray takes SIGTERM for itself; here it is an interruption in order, as Ctrl+C."""
    if threading.current_thread() is threading.main_thread() and callable(sigterm):
        signal.signal(signal.SIGTERM, sigterm)
