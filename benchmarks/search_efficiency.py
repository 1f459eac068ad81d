"""What a search finds for how many trainings, replayed on a measured table: `python -m benchmarks.search_efficiency
--json`.

benchmarks/data holds every allocation of LeNet-5's four layers at five rates, trained with two seeds, and what its gain
over uniform is. A strategy sees the validation accuracy of one seed; what it names under each of 16 budgets is judged
by the other seed. Both directions, 20 seeds, mean over the budgets. Optuna's samplers and ours have two objectives,
accuracy and bits, and see the five uniform allocations first. For each strategy two ways to choose: the best observed
accuracy that fits, and ("smoothed") the best prediction of the model of accuracy fitted to the same trainings.

`direct` is the tool's strategy of that name, which sees the rules of thumb next, then what the model of accuracy
proposes. `supernet` needs the 625 scores of a shared network (`benchmarks.supernet_scores`,
benchmarks/data/supernet_scores.csv and .json): fitted with no training, and with trainings of what the model draws. Its
trainings are counted on top of what training and scoring the shared network cost.

A replay takes up to half a minute; each is kept in --folder as soon as it is done.
"""

import argparse
import csv
import hashlib
import io
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import optuna
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from scipy.stats import spearmanr

from benchmarks.efficiency_table import BUDGETS, LAYERS, MENU, Table, as_measured
from flexor_search.files import write_atomically
from flexor_search.planning import Budget
from flexor_search.runs import Measurement
from flexor_search.tuning import SHARED, SHARED_LOSS, Candidate, SearchPlan
from flexor_search.tuning.proposals import baselines, next_proposal
from flexor_search.tuning.sampler import AdditiveSampler
from flexor_search.tuning.trial import each_once

CHECKPOINTS = (5, 10, 20, 40, 60, 100)
COLUMNS: tuple[str, ...] = ("strategy", "seed", "direction", "trainings", "observed", "smoothed", "made_by")
MOST = {"gp": 40, "supernet": 10}
"""Trainings up to which a strategy is replayed, where that is not 100."""


def _additive(table: Table) -> Callable[[int], BaseSampler]:
    places = {name: np.log(np.array(MENU) / 20).tolist() for name in LAYERS}
    weights = dict(zip(LAYERS, map(float, table.weights), strict=True))
    return lambda seed: AdditiveSampler(seed, places, weights)


def samplers(table: Table) -> dict[str, Callable[[int], BaseSampler]]:
    """Each strategy's sampler by seed."""
    return {
        "random": lambda seed: RandomSampler(seed),
        "nsga2": lambda seed: NSGAIISampler(population_size=20, seed=seed),
        "tpe": lambda seed: TPESampler(seed=seed, multivariate=True),
        "gp": lambda seed: GPSampler(seed=seed, n_startup_trials=5),
        "additive": _additive(table),
    }


def replay(table: Table, sampler: BaseSampler, direction: int, most: int) -> list[int]:
    """Rows of the table in the order in which a sampler asks for them, the uniform ones first."""
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    for row in table.uniform:
        study.enqueue_trial(dict(zip(LAYERS, map(int, table.profiles[row]), strict=True)))
    seen = []
    while len(seen) < most:
        trial = study.ask()
        profile = tuple(trial.suggest_int(name, 0, len(MENU) - 1) for name in LAYERS)
        row = table.row_of[profile]
        study.tell(trial, [float(table.seen[direction][row]), float(table.bits[row])])
        seen.append(row)
    return seen


def replay_supernet(table: Table, seed: int, direction: int, most: int) -> list[int]:
    """Rows that the model wants trained next to the shared scores: the best of a draw under a budget drawn at
    random."""
    random = np.random.Generator(np.random.PCG64(seed))
    seen: list[int] = []
    while len(seen) < most:
        drawn = table.fit(seen, direction, shared=True).draw(int(random.integers(2**31)))
        worth = table.worth(drawn)
        budget = BUDGETS[int(random.integers(len(BUDGETS)))]
        fitting = [row for row in np.flatnonzero(table.bits <= budget + 1e-9) if row not in seen]
        seen.append(int(max(fitting or range(len(worth)), key=lambda row: worth[row])))
    return seen


def replay_direct(table: Table, seed: int, direction: int, most: int) -> list[int]:
    """Rows in the order in which the tool's `direct` strategy trains them, all 16 budgets asked for at once: uniform
    ones, rules of thumb, then what the model of accuracy proposes. No trial is stopped early here."""
    space = table.space
    plan = SearchPlan(space, tuple(Budget.parse(f"{budget}bpw") for budget in BUDGETS), most, seed, math.inf)
    uniform = (Candidate(table.allocations[row], "uniform") for row in table.uniform)
    rules = (one for one in baselines(plan) if space.holds(one.allocation))
    seen: list[int] = []
    done: list[Measurement] = []

    def see(candidate: Candidate) -> None:
        seen.append(table.row_of[space.profile(candidate.allocation)])
        done.append(as_measured(candidate, len(done), float(table.seen[direction][seen[-1]])))

    for candidate in each_once([*uniform, *rules]):
        see(candidate)
    while len(seen) < most and (candidate := next_proposal(plan, done)) is not None:
        see(candidate)
    return seen[:most]


def measure(table: Table, strategy: str, seed: int, direction: int, limit: int) -> list[dict[str, str]]:
    """Gains of one replay at the checkpoints."""
    checkpoints = checkpoints_of(strategy, limit)
    if strategy == "supernet":
        rows = replay_supernet(table, seed, direction, checkpoints[-1])
    elif strategy == "direct":
        rows = replay_direct(table, seed, direction, checkpoints[-1])
    else:
        rows = replay(table, samplers(table)[strategy](seed), direction, checkpoints[-1])
    found = []
    for count in checkpoints:
        part = rows[:count]
        fitted = table.worth(table.fit(part, direction, shared=strategy == "supernet"))
        observed = np.full(len(fitted), -np.inf)
        observed[part] = table.seen[direction][part]
        gains = [table.gain(worth, direction) for worth in (observed, fitted)]
        values = (strategy, seed, direction, count, *(f"{gain:.5f}" for gain in gains))
        found.append({name: str(value) for name, value in zip(COLUMNS[:-1], values, strict=True)})
    return found


def checkpoints_of(strategy: str, limit: int) -> tuple[int, ...]:
    """Numbers of trainings after which a replay's gain is taken; those of the shared network come beside it."""
    most = min(MOST.get(strategy, CHECKPOINTS[-1]), limit)
    return tuple(n for n in ((0, 1, *CHECKPOINTS) if strategy == "supernet" else CHECKPOINTS) if n <= most)


def made_by() -> str:
    """A digest of all that a replay depends on: sources, table, scores, versions."""
    root = Path(__file__).parents[1]
    sources = [*(root / "flexor_search" / "tuning").glob("*.py"), *Path(__file__).parent.glob("*efficiency*.py")]
    digest = hashlib.sha256(f"{optuna.__version__} {np.__version__}".encode())
    for path in sorted([*sources, *(Path(__file__).parent / "data").glob("*.csv")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def replay_all(
    table: Table, folder: Path, strategies: list[str], seeds: int, seconds: float, limit: int
) -> list[dict[str, str]]:
    """All replays of some strategies, those that the folder holds looked up; ends when the time is up.

    A replay of other sources, data or versions, or one that was cut off, is made anew.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, started, digest = folder / "replays.csv", time.monotonic(), made_by()
    known: dict[tuple[str, str, str], list[dict[str, str]]] = {}
    for line in csv.DictReader(path.open(encoding="utf-8")) if path.exists() else []:
        if line.get("made_by") == digest and None not in line.values():
            known.setdefault((line["strategy"], line["seed"], line["direction"]), []).append(line)
    whole = {}
    for key, some in known.items():
        wanted = checkpoints_of(key[0], limit)
        if tuple(int(one["trainings"]) for one in some[: len(wanted)]) == wanted:
            whole[key] = some
    lines: list[dict[str, str]] = []
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(line for some in whole.values() for line in some)
    write_atomically(path, text.getvalue().encode())
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        for seed in range(seeds):
            for strategy, direction in ((s, d) for s in strategies for d in (0, 1)):
                found = whole.get((strategy, str(seed), str(direction)))
                if found is None:
                    if time.monotonic() - started > seconds:
                        continue
                    found = [line | {"made_by": digest} for line in measure(table, strategy, seed, direction, limit)]
                    writer.writerows(found)
                    file.flush()
                lines += found[: len(checkpoints_of(strategy, limit))]
    return lines


def summarize(table: Table, lines: list[dict[str, str]]) -> dict:
    """The promised keys; `gain_at` by trainings, of "supernet" by training-equivalents, the shared network counted."""
    gains: dict[str, dict[str, list[float]]] = {}
    for line in lines:
        strategy = line["strategy"]
        ways = (
            {"smoothed": strategy}
            if strategy == "supernet"
            else {"observed": strategy, "smoothed": f"{strategy}, smoothed"}
        )
        cost = table.shared_cost if strategy == "supernet" else 0.0
        for way, name in ways.items():
            gains.setdefault(name, {}).setdefault(f"{int(line['trainings']) + cost:g}", []).append(float(line[way]))
    seeds = {line["strategy"]: 0 for line in lines}
    for strategy in seeds:
        seeds[strategy] = len({line["seed"] for line in lines if line["strategy"] == strategy})
    result = {
        "gain_at": {name: {at: float(np.mean(some)) for at, some in by.items()} for name, by in gains.items()},
        "standard_error": {
            name: {at: float(np.std(some) / np.sqrt(len(some))) for at, some in by.items()}
            for name, by in gains.items()
        },
        "seeds": seeds,
    }
    if table.shared:
        truth = (table.truth[0] + table.truth[1]) / 2
        fitted = table.fit([], 0, shared=True).predict_profiles(table.profiles)[0]
        raw = {name: float(spearmanr(values, truth).statistic) for name, values in table.shared.items()}  # type: ignore
        result["supernet_spearman"] = {
            "raw": max(raw.values()),
            "raw by accuracy": raw[SHARED],
            "raw by loss": raw[SHARED_LOSS],
            "fitted": float(spearmanr(fitted, truth).statistic),  # type: ignore
        }
        result["supernet_training_equivalents"] = table.shared_cost
    return result


def print_table(result: dict) -> None:
    """Gains in points, a line for each strategy."""
    gains, errors = result["gain_at"], result["standard_error"]

    def cell(name: str, at: str) -> str:
        return f"{gains[name][at]:.2f} +- {errors[name][at]:.2f}" if at in gains[name] else ""

    names = sorted(set(gains) - {"supernet"})
    counts = sorted({at for name in names for at in gains[name]}, key=float)
    print(f"{'trainings':<22}" + "".join(f"{count:>13}" for count in counts))
    for name in names:
        print(f"{name:<22}" + "".join(f"{cell(name, at):>13}" for at in counts))
    for at in gains.get("supernet", ()):
        print(f"supernet, {at} training-equivalents: {cell('supernet', at)}")
    print("seeds:", ", ".join(f"{name} {count}" for name, count in result["seeds"].items()))
    if "supernet_spearman" in result:
        print(
            f"shared network: {result['supernet_training_equivalents']} trainings, Spearman",
            result["supernet_spearman"],
        )
    else:
        print("shared network: no benchmarks/data/supernet_scores.csv yet; its rows are left out")


def write_figure(result: dict, path: Path) -> None:
    """Gain against training-equivalents: a colour for each strategy, dotted where its choice is smoothed."""
    import plotly.graph_objects as go
    from plotly.colors import qualitative

    figure, strategies = go.Figure(), sorted(result["seeds"])
    counts = sorted({float(at) for by in result["gain_at"].values() for at in by})
    for name, by in sorted(result["gain_at"].items()):
        strategy, _, is_smoothed = name.partition(",")
        figure.add_scatter(
            x=[float(at) for at in by],
            y=[*by.values()],
            error_y={"type": "data", "array": [result["standard_error"][name][at] for at in by]},
            name=name,
            mode="lines+markers",
            line={"color": qualitative.D3[strategies.index(strategy)], "dash": "dot" if is_smoothed else "solid"},
        )
    figure.update_layout(
        template="plotly_white",
        title="What a search finds for how many trainings: LeNet-5, 625 allocations measured",
        xaxis={
            "title": "training-equivalents",
            "type": "log",
            "tickvals": counts,
            "ticktext": [f"{n:.3g}" for n in counts],
        },
        yaxis_title="gain over uniform, points",
    )
    figure.write_html(path, include_plotlyjs=True)


def main() -> None:
    """Parse, replay, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search_efficiency", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/search_efficiency"), help="replays that are done")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--trainings", type=int, default=CHECKPOINTS[-1], help="the most in a replay")
    parser.add_argument("--strategies", nargs="+", default=None, help="default: all")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no replay later than this")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    table = Table.read()
    names = given.strategies or [*samplers(table), "direct", *(["supernet"] if table.shared else [])]
    result = summarize(table, replay_all(table, given.folder, names, given.seeds, given.seconds, given.trainings))
    write_figure(result, given.folder / "search_efficiency.html")
    if given.json:
        print(json.dumps(result, indent=2))
    else:
        print_table(result)


if __name__ == "__main__":
    main()
