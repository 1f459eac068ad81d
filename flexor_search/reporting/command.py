"""The commands of a run, as they are typed: the one that asked its question, and those that go on from it."""

import shlex
from typing import Any

from flexor_search.asking import keys
from flexor_search.reporting.words import escaped
from flexor_search.runs import Run


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
    for key in keys("search"):
        value: Any = question.get(key.name, key.default)
        if key.name == "budget" or value in ("", None, key.default):
            continue
        words += [key.option, f"{value:g}" if isinstance(value, float) else str(value)]
    return shlex.join(words)


def export_command(run: Run, trial: int | str) -> str:
    """The command that writes the packed model of a training."""
    return shlex.join(["flexor-search", "export", str(run.folder), "--trial", str(trial)])


def copied(command: str) -> str:
    """A command with a button that copies it."""
    button = '<button type="button" class="copy">Copy</button>'
    return f'<div class="command"><code>{escaped(command)}</code>{button}</div>'
