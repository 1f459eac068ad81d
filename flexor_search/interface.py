"""What `import flexor_search as fs` offers: verbs that take Python objects, and give back runs, tables and models.

A model is a module, a function that makes one, or "module:function". A function is called anew for every training. A
module is never changed: each training gets a copy with fresh first values, drawn with that training's seed by the
`reset_parameters` of its parts, or with the values it has where the recipe says `pretrained = true`. First values that
a class sets in its own `__init__` are lost to a copy; give the function then.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from flexor_search import api
from flexor_search.asking import GIVEN, Question, keys
from flexor_search.errors import UsageError, nearest
from flexor_search.found import Run
from flexor_search.notebook import NotebookObserver, in_notebook
from flexor_search.question import default_folder, plan_tables
from flexor_search.reporting import write_comparison, write_report
from flexor_search.runs import Run as Folder
from flexor_search.terminal import watching
from flexor_search.tuning import Observer
from flexor_search.workloads import Given, given_name, kept_values

if TYPE_CHECKING:
    import pandas as pd

Model = nn.Module | Callable[[], nn.Module] | str
"""A module, a function that makes one, or "module:function" of such a function."""


@dataclass(frozen=True)
class Layout:
    """What a search could choose from.

    Attributes:
        layers: a row each: layer, kind, shape, weights, may_take, least_bytes, most_bytes, folds.
        reachable: "least" and "most", each with bits_per_weight, file_bytes and ratio (to the float32 model).
        notes: the same for people, a line each.
    """

    layers: "pd.DataFrame"
    reachable: dict[str, dict[str, float]]
    notes: tuple[str, ...]

    def _repr_html_(self) -> str:
        from html import escape

        return self.layers.to_html(index=False) + "".join(f"<p>{escape(note)}</p>" for note in self.notes)

    def __str__(self) -> str:
        return "\n".join((self.layers.to_string(index=False), *self.notes))


def plan(model: Model | None = None, budget: str = "", question: Question | None = None) -> Layout:
    """Every layer with what it may take and cost, and the reachable sizes. No data, no training.

    Args:
        model: yours; None for the question's, or the built-in workload's.
        budget: one or several to check, "0.7bpw,48KiB".
        question: anything else that is asked, such as `Question(space="mine.toml")`.

    Raises:
        UsageError: a budget that cannot be reached, or another wrong value.
        ModelError: the model cannot be used.

    Example:
        >>> import torch, flexor_search as fs
        >>> layout = fs.plan(torch.nn.Sequential(torch.nn.Linear(64, 640), torch.nn.Linear(640, 10)), "1bpw")
        >>> layout.layers[["layer", "weights", "may_take"]].values.tolist()
        [['0', 40960, '1/20 to 20/20 (20)'], ['1', 6400, 'kept (last Linear)']]
        >>> layout.reachable["least"]["bits_per_weight"]
        0.05
    """
    import pandas as pd

    asked, given = _asked(model, None if model is None else _no_data, budget, question)
    tables = plan_tables(asked, given)
    return Layout(pd.DataFrame(tables["layers"]), tables["reachable"], tuple(tables["notes"]))


def search(
    model: Model | None = None,
    data: Any = None,
    budget: str = "",
    question: Question | None = None,
    *,
    out: str | Path = "",
    observer: Observer | None = None,
) -> Run:
    """Search, confirm, pack, verify and report. In a folder of the same question it goes on where that one ended.

    Args:
        model: yours; None for the question's, or the built-in workload's. See above for what becomes of its values.
        data: (train, validation, test) or (train, test), each a Dataset, a DataLoader, or a pair of arrays or tensors
            (float inputs, integer labels); or a function that returns these; or its "module:function".
        budget: one or several, "0.7bpw,48KiB".
        question: anything else that is asked, such as `Question(trials=12, seeds=2)`, or
            `Question(**read_config("question.toml"))`.
        out: run folder; default a new one under runs/.
        observer: is told of progress; default a bar in a terminal and in a notebook; `Silent()` for none.

    Returns:
        The run; its folder holds the report and a verified packed file for each budget.

    Raises:
        UsageError: the question is wrong.
        ModelError: the model cannot be used.
        DataError: the data are missing, damaged, or do not fit the model.
        RunError: the folder belongs to another question, is in use, or cannot be written.

    Example:
        >>> import tempfile, torch, flexor_search as fs
        >>> inputs = torch.randn(96, 16, generator=torch.Generator().manual_seed(0))
        >>> labels = (inputs[:, 0] > 0).long()
        >>> data = [(inputs[i::3], labels[i::3]) for i in range(3)]
        >>> def net():
        ...     return torch.nn.Sequential(torch.nn.Linear(16, 80), torch.nn.ReLU(), torch.nn.Linear(80, 2))
        >>> folder = tempfile.TemporaryDirectory()
        >>> short = fs.Question(trials=2, epochs=1, seeds=1)
        >>> run = fs.search(net, data, "0.7bpw", short, out=folder.name, observer=fs.Silent())
        >>> best = run.best("0.7bpw")
        >>> best.bits_per_weight <= 0.7, best.path.name, best.load()(inputs).shape
        (True, 'model-0.7bpw.safetensors', torch.Size([96, 2]))
        >>> folder.cleanup()
    """
    asked, given = _asked(model, data, budget, question)
    asked.needs_budget()
    folder = Path(out) if str(out) else default_folder(asked)
    return _watched(lambda told: api.search(asked, folder, told, given), given, observer)


def resume(
    folder: str | Path,
    model: Model | None = None,
    data: Any = None,
    changes: Mapping[str, Any] | None = None,
    *,
    observer: Observer | None = None,
) -> Run:
    """Continue a run to its target, or to a new one; nothing that was finished is trained again.

    Args:
        folder: of the run.
        model, data: the same objects again, where the run was begun with objects.
        changes: keys of the question that may change, such as {"trials": 80}; see `flexor-search resume --help`.
        observer: as in `search`.

    Raises:
        UsageError: a key that may not change.
        RunError: not a run, one of another question, or one whose objects are not given.

    Example:
        `Run` shows a run that is gone on with. Only keys of `flexor-search resume` may change:

        >>> import flexor_search as fs
        >>> try:
        ...     fs.resume("runs/first", changes={"epochs": 9})
        ... except fs.UsageError as error:
        ...     print(str(error)[:32])
        changes: 'epochs' may not change
    """
    known = [key.name for key in keys("resume")]
    for name in changes or {}:
        if name not in known:
            raise UsageError(f"changes: {name!r} may not change; {nearest(name, known)}")
    earlier = Question.from_run(Folder.open(folder))
    if model is None and data is None:
        return _watched(lambda told: api.search(earlier.changed(changes or {}), folder, told), None, observer)
    asked, given = _asked(model, data, "", earlier.changed(changes or {}))
    return _watched(lambda told: api.search(asked, folder, told, given), given, observer)


def open_run(folder: str | Path, model: Model | None = None, data: Any = None) -> Run:
    """A run that was made before, finished or not, to look at and to export from.

    Args:
        folder: of the run.
        model, data: the objects that it was made with, if it was; needed to load models and to export other budgets.

    Raises:
        RunError: not a run folder, or a damaged one.

    Example:
        Of a run that `search` has finished see `Run`; one that has begun and measured nothing yet:

        >>> import tempfile, flexor_search as fs
        >>> from flexor_search.runs import Run as Folder
        >>> folder = tempfile.TemporaryDirectory()
        >>> _ = Folder.start(f"{folder.name}/run", {"budget": "0.7bpw"}, {})
        >>> run = fs.open_run(f"{folder.name}/run")
        >>> run.question["budget"], len(run.measurements()), run.summary()
        ('0.7bpw', 0, None)
        >>> folder.cleanup()
    """
    record = Folder.open(folder)
    if model is None and data is None:
        return Run(record)
    names = {name: str(record.question.get(name) or GIVEN) for name in ("model", "data")}  # GIVEN: no name
    known = {name: None if own.startswith(GIVEN) else own for name, own in names.items()}
    model, data = model if model is not None else known["model"], data if data is not None else known["data"]
    return Run(record, Given(model, data) if model is not None else None)


def report(*runs: str | Path | Run) -> Path:
    """Write the report of a run, finished or not; of several, the page that lays their fronts over each other.

    Args:
        runs: runs or their folders.

    Returns:
        The path of the page: report.html in the folder of one run, which gets front.csv too.

    Raises:
        UsageError: no run at all.
        RunError: not a run folder, or it cannot be written.

    Example:
        >>> import tempfile, flexor_search as fs
        >>> from flexor_search.runs import Run as Folder
        >>> folder = tempfile.TemporaryDirectory()
        >>> run = Folder.start(f"{folder.name}/run", {"budget": "0.7bpw"}, {})
        >>> fs.report(run.folder).name, sorted(path.name for path in run.folder.glob("*.csv"))
        ('report.html', ['front.csv'])
        >>> folder.cleanup()
    """
    records = [Folder.open(run.folder if isinstance(run, Run) else run) for run in runs]
    if not records:
        raise UsageError("report: name at least one run or its folder")
    return write_report(records[0]) if len(records) == 1 else write_comparison(records)


def _no_data() -> None:
    """Stands for data where none is needed."""


def _watched(work: Callable[[Observer | None], Folder], given: Given | None, observer: Observer | None) -> Run:
    """The run that the work makes, watched by the observer, or by what suits the place."""
    with _observer(observer) as told:
        _tell_kept(given, told)
        return Run(work(told), given)


def _observer(given: Observer | None) -> AbstractContextManager[Observer | None]:
    if given is not None or in_notebook():
        return nullcontext(given or NotebookObserver())
    return watching(quiet=False)


def _tell_kept(given: Given | None, observer: Observer | None) -> None:
    """A module's parameters that no copy can draw anew are told."""
    if observer is None or given is None or not isinstance(given.model, nn.Module):
        return
    kept = kept_values(given.model)
    if kept:
        more = f" and {len(kept) - 3} more" if len(kept) > 3 else ""
        observer.message(
            f"every training begins with the given values of {', '.join(kept[:3])}{more}: their module has no "
            "reset_parameters; give a function that makes the model for fresh ones"
        )


def _asked(model: Model | None, data: Any, budget: str, question: Question | None) -> tuple[Question, Given | None]:
    """The question with what was given beside it, and the objects where they are no names."""
    question = question or Question()
    things = {"model": model, "data": data}
    for name, thing in things.items():
        own = getattr(question, name)
        if thing is None:
            things[name] = own if own and not own.startswith(GIVEN) else None
        elif own and not own.startswith(GIVEN) and own != thing:
            raise UsageError(f"{name}: given twice, as an argument and in the question; give it once")
    names = {
        name: (thing or "") if isinstance(thing, str | None) else f"{GIVEN}: {given_name(thing)}>"
        for name, thing in things.items()
    }
    objects = any(not isinstance(thing, str | None) for thing in things.values())
    asked = replace(question, budget=budget or question.budget, **names)
    return asked, Given(**things) if objects else None
