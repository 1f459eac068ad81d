"""A question (asking.py), resolved to a plan before any data is loaded or anything trained."""

import datetime
import os
import platform
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from flexor_search import __version__
from flexor_search.asking import GIVEN, Question
from flexor_search.errors import RunError, UsageError
from flexor_search.packing import check_storable
from flexor_search.planning import (
    KEPT,
    Budget,
    Recipe,
    SearchSpace,
    check_reachable,
    file_layout,
    make_space,
    read_space_file,
    shipped_spaces,
)
from flexor_search.planning.allocation import weight_bits
from flexor_search.planning.space import Variable
from flexor_search.quantization import describe
from flexor_search.runs import StorageName
from flexor_search.training import seeded
from flexor_search.workloads import DEFAULT_WORKLOAD, Given, Workload, user_own, user_workload, workload


@dataclass(frozen=True)
class Plan:
    """What a question comes down to before any training or data.

    Attributes:
        workload: model, data and recipe; the recipe with the question's epochs.
        space: the menus.
        budgets: those asked for, all reachable.
        device: where to train.
    """

    workload: Workload
    space: SearchSpace
    budgets: tuple[Budget, ...]
    device: str


def plan(question: Question, given: Given | None = None) -> Plan:
    """Resolve a question: the layers, their menus, the reachable sizes. No data is loaded, nothing is trained.

    Args:
        question: what is asked.
        given: model and data, where they are objects.

    Raises:
        RunError: it is of a run whose model was given as an object, and none is given.
        UsageError: a name, pattern, rate or budget that is wrong, or a budget below the least reachable size.
        ModelError: the model cannot be used.
    """
    if question.model and question.data_dir:
        raise UsageError("data_dir: is for built-in workloads; what --data names knows itself where its data lie")
    recipe_given = Recipe.read(question.recipe) if question.recipe and question.model else None
    own = user_own(question.train, question.metric)
    if given is not None:
        task = given.workload(recipe_given or Recipe(), question.seed, own)
    elif question.model.startswith(GIVEN) or question.data.startswith(GIVEN):
        raise RunError(
            "this run's model or data were given in Python, and are not in run.toml; give the same objects again: "
            "fs.open_run(folder, model, data), or fs.search(model, data, ..., out=folder) to go on with it"
        )
    elif question.model:
        task = user_workload(question.model, question.data, recipe_given or Recipe(), question.seed, own)
    else:
        task = replace(workload(question.workload or DEFAULT_WORKLOAD), own=own)
        if question.recipe:
            task = replace(task, recipe=Recipe.read(question.recipe, task.recipe))
    task = replace(task, recipe=_with_epochs(task.recipe, question.epochs))
    if task.recipe.has_teacher and task.own.train is not None:
        raise UsageError(
            "recipe: distillation and from_teacher go with the training loop of this package, and --train gives one of "
            "your own; leave them or it out"
        )
    name = question.space or task.space
    with seeded(question.seed):
        model = task.build()
    space = make_space(describe(model), read_space_file(name) if name else None, task.name)
    check_storable(model, space.cheapest)
    budgets = Budget.parse_list(question.budget) if question.budget else ()
    for budget in budgets:
        check_reachable(space, budget)
    if question.backend == "ray" and question.device.startswith("cuda") and not question.gpus_per_trial:
        raise UsageError(
            f"device: {question.device!r} with --backend ray needs --gpus-per-trial above 0, which places trials on "
            "GPUs; give that, or leave --device out"
        )
    if question.backend == "ray":  # what is measured here before the search is of the trials' kind
        device = "cuda" if question.gpus_per_trial and torch.cuda.is_available() else "cpu"
    else:
        device = device_of(question.device)
    return Plan(task, space, budgets, device)


def plan_tables(question: Question, given: Given | None = None) -> dict[str, Any]:
    """The plan as plain tables: every layer with what it may take and cost, and the reachable sizes.

    Args:
        question: its budgets, if it has any, are checked.
        given: model and data, where they are objects.

    Returns:
        "layers" (a row each), "notes" (lines for people) and "reachable" (least and most, bits per weight and bytes).
    """
    planned = plan(question, given)
    found = planned.space
    variable_of = {name: variable for variable in found.variables for name in variable.layers}
    reasons = dict(found.kept_reasons)
    rows = []
    for layer in found.model.layers:
        variable = variable_of.get(layer.name)
        menu = variable.menu if variable else (KEPT,)
        costs = [weight_bits(layer, spec, found.kept_dtype) // 8 for spec in menu]
        rows.append(
            {
                "layer": layer.name or "(model)",
                "kind": layer.kind,
                "shape": "x".join(map(str, layer.weight_shape)),
                "weights": layer.n_weights,
                "may_take": _menu_text(layer.name, variable) if variable else f"kept ({reasons.get(layer.name, '')})",
                "least_bytes": min(costs),
                "most_bytes": max(costs),
                "folds": layer.folded_norm,
            }
        )
    ends = {}
    for name, allocation in (("least", found.cheapest), ("most", found.dearest)):
        file_bytes = file_layout(allocation, found.model_name).file_bytes
        ends[name] = {
            "bits_per_weight": allocation.bits_per_weight,
            "file_bytes": file_bytes,
            "ratio": round(file_bytes / found.model.float_bytes, 5),
        }
    least, most = ends["least"], ends["most"]
    others = sum(tensor.elements for tensor in found.model.others)
    notes = [
        f"reachable: {least['bits_per_weight']:g} to {most['bits_per_weight']:g} bits per weight, "
        f"{least['file_bytes']:,} to {most['file_bytes']:,} bytes on disk "
        f"({least['ratio']:.4g}x to {most['ratio']:.4g}x of {found.model.float_bytes:,} bytes in float32)",
        f"{found.size:,} allocations; {sum(bool(layer.folded_norm) for layer in found.model.layers)} batch norms are "
        f"folded; {others:,} other values are kept in {found.kept_dtype}",
    ]
    notes += [f"budget {limit.text}: reachable" for limit in planned.budgets]
    return {"layers": rows, "notes": notes, "reachable": ends}


def _menu_text(layer: str, variable: Variable) -> str:
    """The menu in short: its ends, and how many entries it has; of tied layers at the first of them alone."""
    if layer != variable.layers[0]:
        return f"as {variable.layers[0]}"
    first, last = variable.menu[0].label, variable.menu[-1].label
    tied = f", {len(variable.layers)} tied" if len(variable.layers) > 1 else ""
    return f"{first} to {last} ({len(variable.menu)})" + tied if first != last else first + tied


def _with_epochs(recipe: Recipe, epochs: int) -> Recipe:
    if not epochs:
        return recipe
    share = max(1, round(recipe.search_epochs * epochs / recipe.epochs))
    return replace(recipe, epochs=epochs, search_epochs=share)


def device_of(device: str) -> str:
    """What "auto" means here; any other is tried, and a GPU by number becomes the current one.

    Raises:
        UsageError: it cannot be used.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=device).item()
        if torch.device(device).type == "cuda" and torch.device(device).index is not None:
            torch.cuda.set_device(device)  # graphs are recorded, and kernels launched, on the current one
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]
        raise UsageError(f"device: {device!r} cannot be used here: {reason}; try --device cpu") from error
    return device


def plan_of_run(question: Question, given: Given | None = None) -> Plan:
    """The plan of a run that nothing is to be trained for: without the device and the recipe file that it trained by.

    Both may be elsewhere than the run folder is now.
    """
    data_dir = "" if question.model else question.data_dir
    return plan(replace(question, device="cpu", recipe="", epochs=0, data_dir=data_dir), given)


def resolved(question: Question, planned: Plan, recipe: Recipe) -> dict[str, Any]:
    """The question with its defaults filled in; what follows `hardware` is for the reader only.

    How many trials are the default depends on the strategy, so that stays open.
    """
    task = planned.workload
    return asdict(question) | {
        "budgets": [budget.text for budget in planned.budgets],
        "workload": "" if question.model else task.name,
        "space": (question.space if question.space in shipped_spaces() else _absolute(question.space)) or task.space,
        "recipe": _absolute(question.recipe),
        "data_dir": _absolute(question.data_dir),
        "timeout_seconds": question.timeout_seconds or task.timeout_seconds,
        "storage": StorageName.parse(question.storage).shown if question.storage else "",
        "recipe_fields": recipe.to_json(),
        "hardware": {
            "device": planned.device,
            "processor": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if planned.device.startswith("cuda") else "none",
        },
        "versions": {"flexor_search": __version__, "python": platform.python_version()}
        | {name: version(name) for name in ("torch", "numpy", "scipy", "optuna")},
    }


def _absolute(path: str) -> str:
    """A path that still holds when the run is resumed from another folder."""
    return str(Path(path).resolve()) if path and Path(path).exists() else path


def default_folder(question: Question) -> Path:
    """A new folder under runs/, named by the time; by the process too where several may start at once."""
    started = datetime.datetime.now().strftime("%Y-%m-%d-%H%M%S")
    return Path("runs") / (f"{started}-{os.getpid()}" if question.storage else started)
