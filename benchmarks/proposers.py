"""Who should propose the trials of `direct`: `python -m benchmarks.proposers --json`. Trains nothing.

Whole searches of `direct` (baselines, proposals, finalists; no early stopping), in two worlds:

table    LeNet-5's four layers, benchmarks/data: a trial sees the validation accuracy of one seed, what is found is
         judged by the other seed.
made     ResNet-20's 18 layers, n_in 1 to 20 of 20: truths drawn from what all trainings of
         studies/resnet20-fashion-mnist/small leave open (the model of accuracy with terms of single layers), a trial
         sees a truth plus the noise of a seed. They say what holds if networks are as that model believes.

Proposers: Optuna's GP and TPE, the additive sampler (each through an Optuna study, then projected onto a budget), what
the tool does (`model`: the best under the budget of a draw from the model of accuracy, exactly), and rates at random.

For each: gain over the uniform allocation at the same budget (in the table the uniform curve), in points, mean over
budgets and seeds, of `observed` (the most accurate trial that fits), `predicted` (the model's best) and `confirmed` (of
the finalists the one with the best mean of three more values; the table has none, so it is left out there).
"""

import argparse
import csv
import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import optuna
from optuna.samplers import BaseSampler, GPSampler, TPESampler
from optuna.trial import create_trial

from benchmarks.efficiency_table import Table, as_measured
from flexor_search.planning import GAMMAS, Allocation, Budget, SearchSpace, make_space, nearest_uniform, size_rule
from flexor_search.planning.space_file import SpaceFile
from flexor_search.runs import Measurement
from flexor_search.tuning import SearchPlan, finalists, fit_accuracy_model, proposals
from flexor_search.tuning.accuracy_model import AccuracyModel
from flexor_search.tuning.axes import Features, space_axes
from flexor_search.tuning.evidence import SourceData, fit_evidence
from flexor_search.tuning.fitted import allocation_of, trainings
from flexor_search.tuning.optuna_backend import distributions, parameter
from flexor_search.tuning.sampler import AdditiveSampler
from flexor_search.tuning.trial import Candidate

STUDY = Path(__file__).parents[1] / "studies" / "resnet20-fashion-mnist" / "small"
SEED_NOISE = 0.0035
"""Standard deviation between seeds of a validation accuracy, as that study found it."""
BUDGETS = {
    "table": ("0.3bpw", "0.45bpw", "0.6bpw", "0.8bpw"),
    "made": ("0.3bpw", "0.4bpw", "0.47bpw", "0.6bpw"),
}
Propose = Callable[[SearchPlan, list[Measurement]], Candidate | None]
"""The next trial of a plan, given those before."""


@dataclass(frozen=True)
class World:
    """What a search is in.

    Attributes:
        space: the menus.
        see: an allocation's value in a trial or confirmation, by allocation and a number that draws the noise.
        truth: what an allocation is judged by.
        uniform: what a uniform one of a budget's size is judged by.
        best: the best allocation of all under a budget.
        confirms: whether values of other seeds can be seen; else only allocations of the menus can be.
    """

    space: SearchSpace
    see: Callable[[Allocation, int], float]
    truth: Callable[[Allocation], float]
    uniform: Callable[[Budget], float]
    best: Callable[[Budget], Allocation]
    confirms: bool


def table_world(seed: int) -> World:
    """The measured table; even seeds see the first of its two trainings."""
    table, direction = _table(), seed % 2

    def row(allocation: Allocation) -> int:
        return table.row_of[table.space.profile(allocation)]

    bits, truth = table.bits[table.uniform], table.truth[direction]
    return World(
        table.space,
        lambda allocation, _: float(table.seen[direction][row(allocation)]),
        lambda allocation: float(truth[row(allocation)]),
        lambda budget: float(np.interp(budget.value, bits, truth[table.uniform])),
        lambda budget: max(filter(budget.fits, table.allocations), key=lambda one: truth[row(one)]),
        confirms=False,
    )


def made_world(seed: int) -> World:
    """A truth drawn for a seed."""
    model = _believed().draw(seed)

    def truth(allocation: Allocation) -> float:
        return float(model.predict([allocation])[0][0])

    def see(allocation: Allocation, number: int) -> float:
        random = np.random.Generator(np.random.PCG64([seed, number, int(allocation.digest[:8], 16)]))
        return truth(allocation) + SEED_NOISE * float(random.standard_normal())

    def uniform(budget: Budget) -> float:
        nearest = nearest_uniform(model.space, budget)
        assert nearest is not None
        return truth(nearest)

    return World(model.space, see, truth, uniform, model.best_under, confirms=True)


@cache
def _table() -> Table:
    return Table.read()


@cache
def _believed() -> AccuracyModel:
    """The model of all trainings of the study, with terms of single layers, be they mostly noise or not."""
    from flexor_search.quantization import describe
    from flexor_search.workloads import workload

    shape = describe(workload("resnet20-fashion-mnist-small").build())
    menu = {"keep": ["conv1", "linear"], "default": {"rates": [f"{n_in}/20" for n_in in range(1, 21)]}}
    space = make_space(shape, SpaceFile.model_validate(menu))
    files = [STUDY / name for name in ("trainings.csv", "explored.csv", "late.csv")]
    lines = [line for path in files for line in csv.DictReader(path.open(encoding="utf-8"))]
    profiles = [space.profile(_labelled(space, line["label"])) for line in lines]
    values = np.array([float(line["val_accuracy"]) for line in lines])
    features = Features(space_axes(space))
    source = SourceData("trained", features.of(profiles), values, np.ones(len(values)))
    posterior = fit_evidence([source], features.groups)
    return AccuracyModel(space, features, posterior, "trained", {"trained": len(values)}, 0.0)


def _labelled(space: SearchSpace, label: str) -> Allocation:
    names = [layer.name for layer in space.model.layers]
    return space.labelled(dict(zip(names, label.split(), strict=True)))


SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "gp": lambda seed: GPSampler(seed=seed, n_startup_trials=0, deterministic_objective=False),
    "tpe": lambda seed: TPESampler(seed=seed, n_startup_trials=0, multivariate=True),
    "additive": lambda seed: AdditiveSampler(seed=seed, n_startup_trials=1),
}


def by_optuna(name: str) -> Propose:
    """A sampler of Optuna's interface that maximizes the gain over uniform at equal bits, projected onto a budget."""

    def propose(plan: SearchPlan, done: list[Measurement]) -> Candidate | None:
        space, seed = plan.space, (plan.seed * 100_003 + len(done)) % 2**32
        known, gains = distributions(space), gains_over_uniform(done)
        study = optuna.create_study(direction="maximize", sampler=SAMPLERS[name](seed))
        for m in done:
            indices = space.profile(allocation_of(space, m))
            params = {parameter(v): i for v, i in zip(space.variables, indices, strict=True)}
            study.add_trial(create_trial(params=params, distributions=known, value=gains[m.digest]))
        params = study.ask(known).params
        profile = tuple(params[parameter(variable)] for variable in space.variables)
        measured, random = {m.digest for m in done}, np.random.Generator(np.random.PCG64([plan.seed, len(done)]))
        budget = proposals.budgets_by_turn(plan, len(done))[0]
        for _ in range(100):
            allocation = proposals.onto(space, profile, budget)
            if allocation.digest not in measured:
                return Candidate(allocation, "proposed", budget.text)
            profile = proposals.moved(space, profile, random)
        return by_chance(plan, done)

    return propose


def gains_over_uniform(done: list[Measurement]) -> dict[str, float]:
    """Accuracy less that of the uniform curve at equal bits, linear between the uniform models measured, by digest."""
    curve = sorted((m.bits_per_weight, m.val_accuracy) for m in done if m.kind == "uniform")
    bits, accuracies = zip(*curve, strict=True) if curve else ((0.0,), (0.0,))
    return {m.digest: m.val_accuracy - float(np.interp(m.bits_per_weight, bits, accuracies)) for m in done}


def by_chance(plan: SearchPlan, done: list[Measurement]) -> Candidate | None:
    """Rates at random, projected."""
    random = np.random.Generator(np.random.PCG64([plan.seed, len(done), 5]))
    budget = proposals.budgets_by_turn(plan, len(done))[0]
    measured = {m.digest for m in done}
    for _ in range(50):
        profile = tuple(int(random.integers(len(variable.menu))) for variable in plan.space.variables)
        allocation = proposals.onto(plan.space, profile, budget)
        if allocation.digest not in measured:
            return Candidate(allocation, "proposed", budget.text)
    return None


PROPOSERS: dict[str, Propose] = {
    "random": by_chance,
    "gp": by_optuna("gp"),
    "tpe": by_optuna("tpe"),
    "additive": by_optuna("additive"),
    "model": proposals.next_proposal,
}


def search(world: World, plan: SearchPlan, propose: Propose) -> dict[str, float]:
    """One search of one budget: gains over uniform in points."""
    (budget,) = plan.budgets
    done: list[Measurement] = []
    space = plan.space
    for candidate in proposals.baselines(plan):
        if world.confirms or space.holds(candidate.allocation):
            done.append(as_measured(candidate, len(done), world.see(candidate.allocation, 0)))
    while len(done) < plan.trials and (candidate := propose(plan, done)) is not None:
        done.append(as_measured(candidate, len(done), world.see(candidate.allocation, 0)))
    base = world.uniform(budget)
    model = fit_accuracy_model(space, trainings(space, done))
    fitting = [(m.val_accuracy, allocation) for m in done if budget.fits(allocation := allocation_of(space, m))]
    chosen = {"observed": max(fitting, key=lambda one: one[0])[1], "predicted": model.best_under(budget)}
    if world.confirms:
        named = [one.allocation for one in finalists(space, budget, done, model)]
        chosen["confirmed"] = max(named, key=lambda one: sum(world.see(one, 1 + seed) for seed in range(3)))
    return {name: 100 * (world.truth(one) - base) for name, one in chosen.items()}


WORLDS = {"table": table_world, "made": made_world}


def bounds(world: World, budget: Budget) -> dict[str, float]:
    """What the best of the rules of thumb gains, which only who knows the truth can tell, and the best of all."""
    rules = [size_rule(world.space, budget, gamma) for gamma in GAMMAS]
    gained = {"best rule": max(map(world.truth, rules)), "best of all": world.truth(world.best(budget))}
    return {name: 100 * (value - world.uniform(budget)) for name, value in gained.items()}


def measure(worlds: Iterable[str], proposers: Iterable[str], trials: int, seeds: int) -> dict[str, dict]:
    """Mean gains and their standard errors over seeds."""
    found: dict[str, dict] = {}
    for place in worlds:
        texts = BUDGETS[place]
        limits = [[bounds(WORLDS[place](seed), Budget.parse(text)) for text in texts] for seed in range(seeds)]
        found[place] = {
            name: mean_and_error([float(np.mean([one[name] for one in some])) for some in limits])
            for name in limits[0][0]
        }
        print(f"{place}: {found[place]}", flush=True)
        for name in proposers:
            by_way: dict[str, list[float]] = {}
            started = time.process_time()
            for seed in range(seeds):
                world = WORLDS[place](seed)
                gains = [
                    search(world, SearchPlan(world.space, (Budget.parse(text),), trials, seed, 1e9), PROPOSERS[name])
                    for text in texts
                ]
                for way in gains[0]:
                    by_way.setdefault(way, []).append(float(np.mean([one[way] for one in gains])))
            spent = (time.process_time() - started) / (seeds * len(texts))
            ways = {way: mean_and_error(some) for way, some in by_way.items()}
            found[f"{place}, {name}"] = ways | {"search_seconds": round(spent, 2)}
            print(f"{place}, {name}: {found[f'{place}, {name}']}", flush=True)
    return found


def mean_and_error(values: list[float]) -> list[float]:
    """Mean and standard error."""
    return [round(float(np.mean(values)), 3), round(float(np.std(values, ddof=1) / len(values) ** 0.5), 3)]


def main() -> None:
    """Parse, replay, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.proposers", description=__doc__)
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=[*WORLDS])
    parser.add_argument("--proposers", nargs="+", choices=PROPOSERS, default=[*PROPOSERS])
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    result = measure(given.worlds, given.proposers, given.trials, given.seeds)
    if given.json:
        print(json.dumps({"trials": given.trials, "seeds": given.seeds, "gain": result}, indent=2))


if __name__ == "__main__":
    main()
