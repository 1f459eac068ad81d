"""The whole route on one page: plan, search, confirm, export, report. The command line and notebooks both call this."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from flexor_search.asking import Question, keys
from flexor_search.errors import FlexorError, RunError, UsageError
from flexor_search.exporting import export, verify
from flexor_search.fingerprint import fingerprint, study_name
from flexor_search.interrupts import orderly
from flexor_search.planning import Recipe, exceeds_space
from flexor_search.question import Plan, plan, resolved
from flexor_search.reporting import write_report
from flexor_search.reporting.words import duration
from flexor_search.runs import Measurement, MetricWords, Run, StorageName
from flexor_search.training import check_fits, seeded
from flexor_search.tuning import (
    FINALISTS,
    WORKERS_EXPECTED,
    Measurer,
    Observer,
    Phase,
    SearchPlan,
    SharedStudy,
    SharedTeam,
    Silent,
    choose_course,
    choose_team,
    closed_recipe,
    confirm,
    confirmation_seeds,
    follow,
    join,
    search_by,
    settle,
    summarize,
    time_plan,
    trials_ahead,
)
from flexor_search.workloads import Given, name_of

__all__ = ["export", "report", "resume", "search", "verify"]


@orderly()
def search(question: Question, folder: str | Path, observer: Observer | None = None, given: Given | None = None) -> Run:
    """Search, confirm, pack, verify and report. In a folder of the same question it continues where that one ended.

    Args:
        question: what is asked.
        folder: of the run; made if it does not exist.
        observer: is told of progress.
        given: model and data, where they are objects.

    Returns:
        The run, with summary.json, front.csv, report.html and a verified packed file for each budget.

    Raises:
        FlexorError: any of errors.py; what was measured before stays in the folder.
        KeyboardInterrupt: passed on after everything that was found has been packed and reported.
    """
    observer = observer or Silent()
    planned = plan(question.needs_budget(), given)
    for budget in planned.budgets:
        if exceeds_space(planned.space, budget):
            most = budget.show(budget.size_of(planned.space.dearest, planned.space.model_name))
            observer.message(f"{budget.text} is more than this space can use ({most}); going on with the most useful")
    if question.storage:
        _check_budgets(folder, planned)
    task = planned.workload
    data = task.load(Path(question.data_dir) if question.data_dir else None)
    with seeded(question.seed):
        check_fits(task.build(), data, task.recipe, task.own)
    if task.recipe.threads and planned.device == "cpu":
        torch.set_num_threads(task.recipe.threads)
    asked = fingerprint(question, planned, task.recipe, data)
    earlier = Run.recipe_of(folder)
    recipe = closed_recipe(
        task.build, data, task.recipe, planned.device, planned.space.dearest, earlier, observer, task.own
    )
    with _shared(question, planned, asked) as study, _on_ray(question) as room:
        if study is not None:
            recipe, ahead = settle(study, recipe, (question.jobs or WORKERS_EXPECTED) - 1)
            question = replace(question, ahead=ahead)
            observer.message(f"shared with all workers of {study.study} in {study.name.shown}")
        elif question.ahead < 0:
            question = replace(question, ahead=trials_ahead(question.jobs or room, planned.device))
        run = Run.start(folder, resolved(question, planned, recipe), asked)
        run.lock()
        log = _log_to(run.folder / "run.log")
        watch = _Logged(observer, log, MetricWords.of(run.question))
        try:
            run.sweep()
            for notice in run.notices:
                watch.message(notice)
            device, own = planned.device, task.own
            measurer = Measurer(run, task.build, data, recipe, task.name, device, tell=watch.message, own=own)
            return _searched(question, planned, measurer, watch, study, room)
        finally:
            run.unlock()
            for handler in list(log.handlers):
                log.removeHandler(handler)
                handler.close()


def _check_budgets(folder: str | Path, planned: Plan) -> None:
    """Workers that share a study ask for the same budgets; told before anything of a run is written anew."""
    if not (Path(folder) / "run.toml").is_file():
        return
    ours, theirs = [budget.text for budget in planned.budgets], Run.open(folder).question.get("budgets")
    if theirs and theirs != ours:
        raise UsageError(
            f"budget: workers on a storage share one question, and {folder} has {','.join(theirs)}; --storage none "
            f"goes on alone with {','.join(ours)}, or choose another --out"
        )


@contextmanager
def _shared(question: Question, planned: Plan, asked: dict[str, str]) -> Iterator[SharedStudy | None]:
    """The study that workers share, if they do."""
    if not question.storage:
        yield None
        return
    name = study_name(asked, [budget.text for budget in planned.budgets])
    with closing(join(StorageName.parse(question.storage), name)) as study:
        yield study


@contextmanager
def _on_ray(question: Question) -> Iterator[int]:
    """A cluster of Ray's, and how many trials it has room for; 0 where everything trains here."""
    if question.backend != "ray":
        yield 0
        return
    from flexor_search.tuning.ray_cluster import ray_cluster

    with ray_cluster(question.ray_address, question.cpus_per_trial or 1.0, question.gpus_per_trial) as room:
        yield room


def _searched(
    question: Question, planned: Plan, measurer: Measurer, observer: Observer, study: SharedStudy | None, room: int
) -> Run:
    space, budgets, run = planned.space, planned.budgets, measurer.run
    if study is not None:
        measurer = replace(measurer, agree=study.agree)
    seeds = confirmation_seeds(question.seed, question.seeds)
    trials = question.trials or planned.workload.trials
    timeout = question.timeout_seconds or planned.workload.timeout_seconds
    confirmations = (len(budgets) * (FINALISTS + 1) + 1) * len(seeds)
    observer.message(_recipe_line(measurer.recipe, planned))
    phases = time_plan(measurer, space.dearest, trials, confirmations)
    asked = SearchPlan(space, budgets, trials, question.seed, timeout, question.ahead)
    course = choose_course(question.strategy, asked, question.trials, phases, measurer)
    observer.message(course.told)
    phases = course.phases
    for phase in phases:
        observer.message(
            f"{phase.name}: up to {phase.trainings} trainings of {phase.images} images x {phase.epochs} epochs, "
            f"about {phase.seconds_each:.1f} s each, {duration(phase.seconds)}"
        )
    total = duration(sum(phase.seconds for phase in phases))
    observer.message(
        f"in all about {total} one at a time; the search stops at {duration(timeout)}, confirmation follows it"
    )
    observer.planned(phases)
    complete, team = False, None
    try:
        seconds = sum(phase.seconds for phase in phases)
        course, scores = follow(course, measurer, observer)
        if study is not None:
            team = SharedTeam(study, measurer, space, question.ahead, observer)
        elif room:
            from flexor_search.tuning.ray_backend import RayTeam
            from flexor_search.tuning.ray_cluster import Resources

            observer.message(f"trials are placed by Ray, up to {room} at a time")
            resources = Resources(question.cpus_per_trial or 1.0, question.gpus_per_trial)
            team = RayTeam(measurer, resources, room + 1, observer)
        else:
            team = choose_team(measurer, space.dearest, question.jobs, course.seconds_per_image, seconds, observer)
        named = search_by(course, scores, measurer, observer, team)
        confirm(space, budgets, measurer, seeds, observer, team, named=named)
        complete = True
    finally:
        if team is not None:
            team.stop()
        # Interrupted or not, what was found is packed and reported; a failure here must not hide the first one.
        try:
            try:
                summarize(space, budgets, measurer, seeds, observer, complete=complete, strategy=course.name)
            finally:
                write_report(run)
        except FlexorError as error:
            if complete:
                raise
            observer.message(str(error))
    run.sweep(is_done=True)
    return run


def resume(folder: str | Path, observer: Observer | None = None, **changes: Any) -> Run:
    """Continue a run to its target, or to a new one.

    Args:
        folder: of the run.
        observer: is told of progress.
        changes: keys of the question that may change, as `flexor-search resume --help` lists them.

    Raises:
        RunError: not a run folder, or one whose question has changed since (its code, data or space).
    """
    question = Question.from_run(Run.open(folder))
    assert changes.keys() <= {key.name for key in keys("resume")}
    return search(question.changed(changes), folder, observer)


def report(folder: str | Path) -> Path:
    """Write report.html and front.csv of a run, finished or not, and return the report's path."""
    return write_report(Run.open(folder))


def _recipe_line(recipe: Recipe, planned: Plan) -> str:
    own = "" if planned.workload.name else " (default for own models; --recipe FILE.toml changes it)"
    if (loop := planned.workload.own.train) is not None:
        told = f"{recipe.epochs} epochs, batch {recipe.batch_size}, learning rate {recipe.learning_rate:g}"
        return f"training by {name_of(loop)}, which is told: {told}{own}; on {planned.device}"
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
    words: MetricWords

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
            "trial %d %s %s %s seed %d: %s, %s %.4f, loss %.4f, %.1f s %s",
            *(m.number, m.phase, m.kind, m.label, m.seed, m.state, self.words.name),
            *(m.val_accuracy, m.val_loss, m.train_seconds),
            m.reason,
        )
        self.inner.measured(measurement, best)
