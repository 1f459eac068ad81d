"""The commands of a run, as they are typed: the one that asked its question, and those that go on from it."""

import shlex
from typing import Any

from flexor_search.reporting.words import escaped
from flexor_search.runs import Run

_OPTIONS = {
    "workload": "",
    "model": "",
    "data": "",
    "data_dir": "",
    "space": "",
    "recipe": "",
    "strategy": "direct",
    "trials": 0,
    "timeout_seconds": 0,
    "epochs": 0,
    "seeds": 3,
    "seed": 0,
    "jobs": 0,
}
"""Field of the question -> what the option is without being typed."""


def search_command(run: Run) -> str:
    """The command that asks a run's question again, its defaults written out where the run recorded them.

    Example:
        >>> from types import SimpleNamespace
        >>> search_command(SimpleNamespace(question={"budget": "0.7bpw", "workload": "digits-convnet", "seed": 1}))
        'flexor-search --budget 0.7bpw --workload digits-convnet --seed 1'
    """
    question = run.question
    budget = question.get("budget") or ",".join(map(str, question.get("budgets") or []))
    words = ["flexor-search", "--budget", str(budget)]
    for name, default in _OPTIONS.items():
        value: Any = question.get(name, default)
        if name == "space" and not question.get("model") and question.get("workload"):
            value = value if "/" in str(value) else ""  # the workload's own
        if value in ("", None, default):
            continue
        option = "--" + {"timeout_seconds": "timeout"}.get(name, name).replace("_", "-")
        words += [option, f"{value:g}" if isinstance(value, float) else str(value)]
    return shlex.join(words)


def export_command(run: Run, trial: int | str) -> str:
    """The command that writes the packed model of a training."""
    return shlex.join(["flexor-search", "export", str(run.folder), "--trial", str(trial)])


def copied(command: str) -> str:
    """A command with a button that copies it."""
    button = '<button type="button" class="copy">Copy</button>'
    return f'<div class="command"><code>{escaped(command)}</code>{button}</div>'
