"""The whole route on one page: plan, search, confirm, export, report. The command line and notebooks both call this."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from flexor_search.errors import RunError, UsageError
from flexor_search.packing import Checks, load, save_verilog, verify_file
from flexor_search.planning import (
    Budget,
    Recipe,
    SearchSpace,
    exceeds_space,
)
from flexor_search.question import Plan, Question, fingerprint, plan, resolved
from flexor_search.reporting import write_report
from flexor_search.reporting.words import duration
from flexor_search.runs import DONE, Measurement, Run
from flexor_search.training import check_fits, resolve_precision, seeded
from flexor_search.tuning import (
    FINALISTS,
    Measurer,
    Observer,
    Phase,
    SearchPlan,
    Silent,
    choose,
    confirm,
    confirmation_seeds,
    copy_trained,
    ship,
    summarize,
    time_plan,
)
from flexor_search.tuning import (
    search as direct_search,
)


def search(question: Question, folder: str | Path, observer: Observer | None = None) -> Run:
    """Search, confirm, pack, verify and report. In a folder of the same question it continues where that one ended.

    Args:
        question: what is asked.
        folder: of the run; made if it does not exist.
        observer: is told of progress.

    Returns:
        The run, with summary.json, front.csv, report.html and a verified packed file for each budget.

    Raises:
        FlexorError: any of errors.py; what was measured before stays in the folder.
        KeyboardInterrupt: passed on after everything that was found has been packed and reported.
    """
    observer = observer or Silent()
    planned = plan(question)
    for budget in planned.budgets:
        if exceeds_space(planned.space, budget):
            most = budget.show(budget.size_of(planned.space.dearest, planned.space.model_name))
            observer.message(f"{budget.text} is more than this space can use ({most}); going on with the most useful")
    task = planned.workload
    data = task.load(Path(question.data_dir) if question.data_dir else None)
    with seeded(question.seed):
        check_fits(task.build(), data)
    recipe = replace(task.recipe, precision=resolve_precision(task.recipe.precision, planned.device))
    if recipe.threads and planned.device == "cpu":
        torch.set_num_threads(recipe.threads)
    run = Run.start(folder, resolved(question, planned, recipe), fingerprint(question, planned, recipe, data))
    run.lock()
    log = _log_to(run.folder / "run.log")
    watch = _Logged(observer, log)
    try:
        return _searched(question, planned, Measurer(run, task.build, data, recipe, task.name, planned.device), watch)
    finally:
        run.unlock()
        for handler in list(log.handlers):
            log.removeHandler(handler)
            handler.close()


def _searched(question: Question, planned: Plan, measurer: Measurer, observer: Observer) -> Run:
    space, budgets, run = planned.space, planned.budgets, measurer.run
    seeds = confirmation_seeds(question.seed, question.seeds)
    trials = question.trials or planned.workload.trials
    timeout = question.timeout_seconds or planned.workload.timeout_seconds
    confirmations = (len(budgets) * (FINALISTS + 1) + 1) * len(seeds)
    observer.message(_recipe_line(measurer.recipe, planned))
    phases = time_plan(measurer, space.dearest, trials, confirmations)
    for phase in phases:
        observer.message(
            f"{phase.name}: up to {phase.trainings} trainings of {phase.images} images x {phase.epochs} epochs, "
            f"about {phase.seconds_each:.1f} s each, {duration(phase.seconds)}"
        )
    total = duration(sum(phase.seconds for phase in phases))
    observer.message(f"in all about {total}; the search stops at {duration(timeout)}, confirmation follows it")
    observer.planned(phases)
    complete = False
    try:
        direct_search(SearchPlan(space, budgets, trials, question.seed, timeout), measurer, observer)
        confirm(space, budgets, measurer, seeds, observer)
        complete = True
    finally:
        # Interrupted or not, what was found is packed and reported; a failure here must not hide the first one.
        try:
            summarize(space, budgets, measurer, seeds, observer, complete=complete)
            write_report(run)
        except RunError as error:
            if complete:
                raise
            observer.message(str(error))
    return run


def resume(folder: str | Path, observer: Observer | None = None, **changes: Any) -> Run:
    """Continue a run to its target, or to a new one.

    Args:
        folder: of the run.
        observer: is told of progress.
        changes: fields of the question that may change: budget, trials, timeout_seconds, seeds, device.

    Raises:
        RunError: not a run folder, or one whose question has changed since (its code, data or space).
    """
    question = Question.from_run(Run.open(folder))
    allowed = {"budget", "trials", "timeout_seconds", "seeds", "device"}
    assert changes.keys() <= allowed
    return search(replace(question, **changes), folder, observer)


def export(folder: str | Path, budget: str = "", trial: int | None = None, to: str | Path | None = None) -> Path:
    """Write the packed file of any allocation that a run trained.

    Args:
        folder: of the run.
        budget: pack the best that fits it: of those confirmed, else of the search's own trainings.
        trial: or pack the training of this number.
        to: path to write, default model-BUDGET.safetensors or model-trial-N.safetensors in the run folder. A name that
            ends in .v gives the codes' decoders as Verilog instead, and their test bench next to it (docs/hardware.md).

    Returns:
        The path written; a packed file is verified there.

    Raises:
        UsageError: neither or both of budget and trial, or a trial that was not finished.
        RunError: nothing that fits has been trained.
    """
    run = Run.open(folder)
    if (budget == "") == (trial is None):
        raise UsageError("export: give either --budget or --trial")
    if trial is not None:
        chosen = _trained(run, trial)
        name = f"trial-{trial}"
    else:
        limit = Budget.parse(budget)
        name = limit.text
        chosen = _best_fitting(run, plan(replace(Question.from_run(run), budget=budget)).space, limit)
    body = json.loads(chosen.allocation)
    if to is None:
        ship(run, chosen, name, body)
        return run.folder / f"model-{name}.safetensors"
    target = Path(to)
    if target.suffix == ".v":
        save_verilog(load(run.trained_path(chosen.number)), target)
    else:
        copy_trained(run, chosen, target)
    return target


def report(folder: str | Path) -> Path:
    """Write report.html and front.csv of a run, finished or not, and return the report's path."""
    return write_report(Run.open(folder))


def verify(path: str | Path) -> Checks:
    """Check a packed file; returns what was checked."""
    return verify_file(Path(path))


def _trained(run: Run, number: int) -> Measurement:
    found = next((m for m in run.measurements if m.number == number), None)
    if found is None:
        raise UsageError(f"trial: the run has no trial {number}; it has 0 to {len(run.measurements) - 1}")
    if found.state != DONE or not run.trained_path(number).exists():
        raise UsageError(f"trial: trial {number} was {found.state} ({found.reason}) and left no model; choose another")
    return found


def _best_fitting(run: Run, space: SearchSpace, budget: Budget) -> Measurement:
    group = choose(space, budget, run)
    if group is not None:
        return group.best
    sizes = sorted({m.bits_per_weight for m in run.measurements if m.state == DONE})
    raise RunError(
        f"no trained model of {run.folder} fits {budget.text}; bits per weight trained: "
        f"{', '.join(f'{size:g}' for size in sizes[:8]) or 'none'}; search again with that budget: "
        f"flexor-search resume {run.folder} --budget {budget.text}"
    )


def _recipe_line(recipe: Recipe, planned: Plan) -> str:
    own = "" if planned.workload.name else " (default for own models; --recipe FILE.toml changes it)"
    return (
        f"recipe{own}: {recipe.optimizer}, {recipe.schedule} to {recipe.learning_rate:g}, batch {recipe.batch_size}, "
        f"{recipe.epochs} epochs, {recipe.precision}, on {planned.device}"
    )


def _log_to(path: Path) -> logging.Logger:
    log = logging.getLogger(f"flexor_search.run.{path}")
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        handler = logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}; choose another --out") from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    handler.handleError = lambda record: None  # a full disk is told by what the run cannot do without
    log.addHandler(handler)
    return log


@dataclass(frozen=True)
class _Logged:
    """Passes everything on to an observer and writes it to the run's log."""

    inner: Observer
    log: logging.Logger

    def message(self, text: str) -> None:
        self.log.info(text)
        self.inner.message(text)

    def planned(self, phases: Sequence[Phase]) -> None:
        self.inner.planned(phases)

    def phase(self, name: str, trainings: int) -> None:
        self.log.info("%s begins: up to %d trainings", name, trainings)
        self.inner.phase(name, trainings)

    def begin(self, what: str) -> None:
        self.inner.begin(what)

    def measured(self, measurement: Measurement, best: str) -> None:
        m = measurement
        self.log.info(
            "trial %d %s %s %s seed %d: %s, accuracy %.4f, loss %.4f, %.1f s %s",
            *(m.number, m.phase, m.kind, m.label, m.seed, m.state, m.val_accuracy, m.val_loss, m.train_seconds),
            m.reason,
        )
        self.inner.measured(measurement, best)
