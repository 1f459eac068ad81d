"""flexor-search: search over fractional-bit allocations of FleXOR-quantized PyTorch models under a size budget.

`import flexor_search as fs` gives the names below; each is imported when it is first used, so that the import itself
takes no time.

Example:
    >>> import flexor_search as fs
    >>> fs.plan(budget="0.7bpw").reachable["most"]["bits_per_weight"]
    1.0
"""

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flexor_search.api import export, verify
    from flexor_search.asking import Question
    from flexor_search.config import read_config
    from flexor_search.errors import (
        DataError,
        FlexorError,
        FormatError,
        ModelError,
        RunError,
        TrainingError,
        UsageError,
        VerificationError,
    )
    from flexor_search.found import Best, Run
    from flexor_search.interface import Layout, open_run, plan, report, resume, search
    from flexor_search.packing import load_packed
    from flexor_search.quantization import quantize_
    from flexor_search.tuning import Observer, Silent

__version__ = "0.1.0"

__all__ = [
    "Best",
    "DataError",
    "FlexorError",
    "FormatError",
    "Layout",
    "ModelError",
    "Observer",
    "Question",
    "Run",
    "RunError",
    "Silent",
    "TrainingError",
    "UsageError",
    "VerificationError",
    "export",
    "load_packed",
    "open_run",
    "plan",
    "quantize_",
    "read_config",
    "report",
    "resume",
    "search",
    "verify",
]

_HOMES = {
    "api": ("export", "verify"),
    "asking": ("Question",),
    "config": ("read_config",),
    "errors": tuple(name for name in __all__ if name.endswith("Error")),
    "found": ("Best", "Run"),
    "interface": ("Layout", "open_run", "plan", "report", "resume", "search"),
    "packing": ("load_packed",),
    "quantization": ("quantize_",),
    "tuning": ("Observer", "Silent"),
}
"""Module -> the names that come from it."""


def __getattr__(name: str) -> Any:
    """The name's value, imported now."""
    for module, names in _HOMES.items():
        if name in names:
            with warnings.catch_warnings():
                # optuna brings tqdm, which tells a notebook that it would like to have ipywidgets; we do not need them
                warnings.filterwarnings("ignore", message="IProgress not found")
                value = getattr(import_module(f"flexor_search.{module}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module 'flexor_search' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
