"""Timing on a machine that others use too: routes take turns, and the least disturbed of many rounds counts."""

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Route:
    """Something to time: `run`, in every `every`-th round only if it is slow."""

    run: Callable[[], object]
    every: int = 1


@dataclass(frozen=True)
class Seconds:
    """What a route took."""

    best: float
    median: float


def take_turns(routes: dict[str, Route], rounds: int) -> dict[str, Seconds]:
    """Time routes in turn, round after round, so that a slow minute of the machine slows all of them.

    Args:
        routes: by name; each runs once before, untimed.
        rounds: how many.
    """
    seconds: dict[str, list[float]] = {name: [] for name in routes}
    for route in routes.values():
        route.run()
    for turn in range(rounds):
        for name, route in routes.items():
            if turn % route.every == 0:
                started = time.perf_counter()
                route.run()
                seconds[name].append(time.perf_counter() - started)
    return {name: Seconds(min(times), float(np.median(times))) for name, times in seconds.items()}


def hardware() -> str:
    """The processor in words."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:  # no Linux
        pass
    return platform.processor() or platform.machine()


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python and of packages."""
    return {"python": platform.python_version()} | {package: version(package) for package in packages}
