"""What may be asked: every key of a question once, with its default, its help and its check. No torch here.

One table, the fields of `Question`, gives the options of the command line (options.py), the keys of a question file
(config.py), shell completion (completing.py) and what `fs.search` takes. To add a key, add a field:

    colour: str = _key("green", "Colour of the bits: green or red.", SEARCH, check=_one_of(COLOURS), complete="colours")

It takes the default, the help (one sentence, its unit in it), the commands that take it, and where needed the spelling
of its option (`option="--color"`; else its name), its check, and the completion of its value, a name of
`completing.VALUES`. Its type is str, int or float. "", 0 or -1 means "not asked": what that comes to says the help.
"""

import functools
import math
import numbers
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, get_type_hints

from flexor_search.errors import RunError, UsageError, nearest

if TYPE_CHECKING:
    from flexor_search.runs import Run

STRATEGIES = ("auto", "supernet", "direct")
BACKENDS = ("local", "ray")
WORKLOADS = (
    "digits-convnet",
    "lenet5-fashion-mnist",
    "lenet5-mnist",
    "resnet18-imagenet",
    "resnet20-cifar10",
    "resnet20-fashion-mnist",
    "resnet20-fashion-mnist-small",
    "resnet32-cifar10",
)
"""Names of the built-in workloads, told here without importing them."""

GIVEN = "<given in Python"
"""How `model` and `data` begin where they are no names but objects; they are not in run.toml, so not to be resumed."""

SEARCH = ("search",)
PLAN = ("search", "plan")
RESUME = ("search", "resume")
ALL = ("search", "plan", "resume")

_KINDS = {str: "a text", int: "a whole number", float: "a number"}


@dataclass(frozen=True)
class Key:
    """What is known of one key.

    Attributes:
        name: the field of `Question`, and the key in a question file.
        kind: str, int or float.
        default: where it is not asked.
        help: one sentence.
        commands: that take it as an option.
        option: its spelling on the command line.
        check: raises UsageError for a value that is wrong by itself; takes name and value.
        complete: name of its completion, "" for none.
    """

    name: str
    kind: type
    default: Any
    help: str
    commands: tuple[str, ...]
    option: str
    check: Callable[[str, Any], None]
    complete: str = ""

    def value(self, given: Any) -> Any:
        """A value that was given, as this key's type, and checked.

        Raises:
            UsageError: another type, or wrong by itself.
        """
        allowed = {str: (str, os.PathLike), int: numbers.Integral, float: numbers.Real}[self.kind]
        if not isinstance(given, allowed) or isinstance(given, bool):
            raise UsageError(f"{self.name}: must be {_KINDS[self.kind]}, got {given!r}")
        found = os.fspath(given) if self.kind is str else self.kind(given)
        self.check(self.name, found)
        return found


def any_profile(_name: str, _value: Any) -> None:
    """No check beyond the type."""


def _not_negative(name: str, value: float) -> None:
    if not 0 <= value < math.inf:
        raise UsageError(f"{name}: must not be negative{'' if value < 0 else ' and a number'}, got {value}")


def _from_to(least: int, most: int) -> Callable[[str, int], None]:
    def check(name: str, value: int) -> None:
        if not least <= value <= most:
            raise UsageError(f"{name}: must be from {least} to {most}, got {value}")

    return check


def _one_of(known: Iterable[str]) -> Callable[[str, str], None]:
    def check(name: str, value: str) -> None:
        if value not in known:
            raise UsageError(f"{name}: {value!r} is not known; {nearest(value, known)}")

    return check


def _seed(name: str, value: int) -> None:
    _not_negative(name, value)
    if not value < 2**32:
        raise UsageError(f"{name}: must be below 2**32, got {value}")


def _seeds(name: str, value: int) -> None:
    from flexor_search.runs import MAX_SEEDS

    _from_to(1, MAX_SEEDS)(name, value)


def _budgets(_name: str, value: str) -> None:
    from flexor_search.planning import Budget

    if value:
        Budget.parse_list(value)


def _storage(_name: str, value: str) -> None:
    from flexor_search.runs import StorageName

    if value and value != "none":
        StorageName.parse(value)


def _key(
    default: Any,
    help: str,
    commands: tuple[str, ...],
    *,
    option: str = "",
    check: Callable[[str, Any], None] = any_profile,
    complete: str = "",
) -> Any:
    """A field of `Question` with what is known of it."""
    known = {"help": help, "commands": commands, "option": option, "check": check, "complete": complete}
    return field(default=default, metadata=known)


_FOR_RAY = ("ray_address", "cpus_per_trial", "gpus_per_trial")


@dataclass(frozen=True)
class Question:
    """What is asked: everything a run depends on, as saved in run.toml. Each field's help is beside it.

    Raises:
        UsageError: a value that is wrong by itself, or two that exclude each other.

    Example:
        >>> Question("0.7bpw,48KiB", trials=12).seeds
        3
        >>> Question("0.7")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        flexor_search.errors.UsageError: budget: '0.7' is not a positive number with a unit; ...
    """

    budget: str = _key(
        "", "0.7bpw, 48KiB, 48kB, 48000B or 0.03x; a comma-separated list too.", ALL, check=_budgets, complete="budgets"
    )
    workload: str = _key("", "Built-in workload; a wrong name lists them all.", PLAN, complete="workloads")
    model: str = _key("", "Your model: module:function that returns an nn.Module.", PLAN)
    data: str = _key("", "Your data: module:function that returns (train, validation, test).", PLAN)
    train: str = _key(
        "", "Your training loop: module:function (model, train, validation, recipe, seed, report).", SEARCH
    )
    metric: str = _key("", "Your metric in place of accuracy, greater is better: module:function.", SEARCH)
    data_dir: str = _key("", "Folder of the workload's data.", SEARCH)
    space: str = _key("", "Search space: a shipped name or a TOML file.", PLAN, complete="spaces")
    recipe: str = _key("", "TOML file of recipe fields.", SEARCH)
    strategy: str = _key(
        "auto",
        "How allocations are found: supernet (one shared training tells of all), direct (every trial trains), or auto.",
        SEARCH,
        check=_one_of(STRATEGIES),
        complete="strategies",
    )
    trials: int = _key(
        0,
        "Trainings of the search, baselines too; 0: workload's default, fewer beside a shared network.",
        RESUME,
        check=_not_negative,
    )
    timeout_seconds: float = _key(
        0.0,
        "Seconds until the search phase ends; 0: workload's default.",
        RESUME,
        option="--timeout",
        check=_not_negative,
    )
    epochs: int = _key(0, "Epochs of a full training; 0: the recipe's.", SEARCH, check=_not_negative)
    seeds: int = _key(3, "Trainings of each finalist.", RESUME, check=_seeds)
    seed: int = _key(0, "Seed of everything.", SEARCH, check=_seed)
    device: str = _key("auto", "cpu, cuda, or auto.", RESUME, complete="devices")
    jobs: int = _key(0, "Trainings at a time; 0: chosen by a short measurement; 1: one.", RESUME, check=_not_negative)
    storage: str = _key(
        "",
        "Share the search with other workers: postgresql://USER@HOST/DATABASE, or journal:FILE; none: with nobody.",
        RESUME,
        check=_storage,
    )
    backend: str = _key("local", "Where trials train: local, or ray (Ray Tune).", RESUME, check=_one_of(BACKENDS))
    ray_address: str = _key("", "A Ray cluster: auto or HOST:PORT; without it one is started here.", RESUME)
    cpus_per_trial: float = _key(
        0.0, "Processors that Ray gives a trial, a fraction too; 0: one.", RESUME, check=_not_negative
    )
    gpus_per_trial: float = _key(0.0, "GPUs that Ray gives a trial, a fraction too.", RESUME, check=_not_negative)
    ahead: int = _key(
        -1,
        "Proposals made before the results of as many earlier trials are known; -1: by jobs and the machine.",
        SEARCH,
        check=_from_to(-1, 1000),
    )

    def __post_init__(self) -> None:
        for key in keys():
            object.__setattr__(self, key.name, key.value(getattr(self, key.name)))
        if self.storage == "none":
            object.__setattr__(self, "storage", "")
        if bool(self.model) != bool(self.data):
            raise UsageError("model: --model and --data go together; give both, or neither for a built-in workload")
        if self.backend == "ray" and self.storage:
            raise UsageError(
                "storage: workers on a storage and --backend ray are two ways to the same end; give one of them"
            )
        for name in _FOR_RAY:
            if getattr(self, name) and self.backend != "ray":
                raise UsageError(f"{name}: is for --backend ray; give that too, or leave it out")
        if self.model and self.workload:
            raise UsageError("workload: give either --workload or --model with --data, not both")

    def needs_budget(self) -> "Question":
        """This question, which asks for at least one budget.

        Raises:
            UsageError: it asks for none.
        """
        if not self.budget:
            raise UsageError("budget: --budget is needed, such as --budget 0.7bpw; see flexor-search --help")
        return self

    def changed(self, changes: Mapping[str, Any]) -> "Question":
        """This question with other values; what is only for Ray goes where Ray does, unless it is given anew.

        Raises:
            UsageError: as in making one.
        """
        if changes.get("backend", "ray") != "ray":
            changes = {key.name: key.default for key in keys() if key.name in _FOR_RAY} | dict(changes)
        return replace(self, **changes)

    @classmethod
    def from_run(cls, run: "Run") -> "Question":
        """The question of a run folder.

        Raises:
            RunError: run.toml holds no such question.
        """
        known = {key.name for key in keys()}
        try:
            return cls(**{name: value for name, value in run.question.items() if name in known}).needs_budget()
        except (TypeError, AttributeError, UsageError) as error:
            raise RunError(
                f"{run.folder / 'run.toml'} is damaged: {error}; start a new run with another --out"
            ) from error


@functools.cache
def keys(command: str = "") -> tuple[Key, ...]:
    """All keys, in order; of one command, if it is named."""
    kinds = get_type_hints(Question)
    found = []
    for one in fields(Question):
        known: dict[str, Any] = {"option": f"--{one.name.replace('_', '-')}"}
        known |= {name: value for name, value in one.metadata.items() if value}
        found.append(Key(name=one.name, kind=kinds[one.name], default=one.default, **known))
    return tuple(key for key in found if not command or command in key.commands)
