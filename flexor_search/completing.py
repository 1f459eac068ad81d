"""Shell completion of values: `flexor-search --install-completion` sets it up for bash, zsh, fish and PowerShell.

Each function takes what was typed so far and gives the values that begin with it. None imports torch: the shell waits.
"""

from collections.abc import Callable
from pathlib import Path

from flexor_search.asking import STRATEGIES, WORKLOADS

BUDGETS = ("0.4bpw", "0.7bpw", "1bpw", "48KiB", "48kB", "0.03x")
"""Examples of each unit."""


def _beginning(typed: str, known: tuple[str, ...] | list[str]) -> list[str]:
    return [name for name in known if name.startswith(typed)]


def budgets(incomplete: str) -> list[str]:
    """An example of each unit; of the last one in a list."""
    before, comma, last = incomplete.rpartition(",")
    return [before + comma + value for value in _beginning(last, BUDGETS)]


def workloads(incomplete: str) -> list[str]:
    """Built-in workloads."""
    return _beginning(incomplete, WORKLOADS)


def spaces(incomplete: str) -> list[str]:
    """Shipped search spaces, and TOML files."""
    from flexor_search.planning import shipped_spaces

    return _beginning(incomplete, list(shipped_spaces())) + _paths(incomplete, lambda path: path.suffix == ".toml")


def strategies(incomplete: str) -> list[str]:
    """Ways to find allocations."""
    return _beginning(incomplete, STRATEGIES)


def devices(incomplete: str) -> list[str]:
    """Where models are trained."""
    return _beginning(incomplete, ("auto", "cpu", "cuda"))


def run_folders(incomplete: str) -> list[str]:
    """Run folders that begin with what was typed, and folders that hold some."""
    return _paths(incomplete, lambda path: (path / "run.toml").is_file())


def _paths(typed: str, wanted: Callable[[Path], bool]) -> list[str]:
    """Paths that begin with what was typed: those wanted, and folders to look into, with a slash."""
    folder, slash, begin = typed.rpartition("/")
    found = []
    try:
        for path in sorted(Path(folder + slash or ".").iterdir()):
            if path.name.startswith(begin) and (begin or not path.name.startswith(".")):
                text = f"{folder}{slash}{path.name}"
                if wanted(path):
                    found.append(text)
                elif path.is_dir() and any(map(wanted, path.iterdir())):
                    found.append(f"{text}/")
    except OSError:  # not there, or not to be read: nothing to complete
        return found
    return found


VALUES: dict[str, Callable[[str], list[str]]] = {
    "budgets": budgets,
    "devices": devices,
    "spaces": spaces,
    "strategies": strategies,
    "workloads": workloads,
}
"""Name of a completion in the key table -> its function."""
