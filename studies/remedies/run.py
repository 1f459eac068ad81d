"""Do the untried remedies help a systematic code at low rates? On digits, and on ResNet-20.

python studies/remedies/run.py [--seconds 1500] [--seeds 10]           # digits-convnet, uniform at 4/20 and 8/20
python studies/remedies/run.py --setting resnet20 --processes 2        # ResNet-20, weights^-0.5 at 0.266 bits
python studies/remedies/run.py --setting by-rank --processes 2         # the paper's code and half of its bits, taught
python studies/remedies/run.py --seconds 0                             # only print what is there

Each remedy changes one thing of the base: a systematic code drawn with the training's seed, the workload's recipe. Seed
after seed, so that whenever it is stopped all have been trained equally often, but for the last seeds. A process trains
all remedies of one seed, because the full-precision model of that seed teaches some of them.
"""

import argparse
import functools
import itertools
import math
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
import torch
from torch import nn
from train_table import (
    Job,
    add_row,
    begin_table,
    mean_and_error,
    points,
    read_table,
    use_threads,
)

from flexor_search.codes import XorCode, make_code
from flexor_search.planning import (
    Allocation,
    Budget,
    LayerSpec,
    SearchSpace,
    full_precision,
    make_space,
    read_space_file,
    size_rule,
)
from flexor_search.quantization import describe, quantize_
from flexor_search.training import evaluate, seeded, train
from flexor_search.workloads import workload

N_OUT = 20
COLUMNS = ("val_accuracy", "test_accuracy")
DISTILLATION = 0.5
WORDS, PROPOSALS, UNEVEN = 1024, 300, 0.02
"""Of the covering search: random words, proposed rows, and what a tap more between most and least used input costs."""


@dataclass(frozen=True)
class Remedy:
    """What is done otherwise than in the base.

    Attributes:
        name: for the table.
        family: of the code; "": the base's.
        times: n_in and n_out times this.
        covering: taps that a row chosen by covering may have at most; 0: rows as they are drawn.
        up_to: changes only layers of at most so many bits of 20.
        recipe: fields of the recipe.
        distilled: whether the full-precision model of the same seed teaches.
        tuned: whether training starts from that model's weights.
    """

    name: str
    family: str = ""
    times: int = 1
    covering: int = 0
    up_to: int = N_OUT
    recipe: dict[str, Any] = field(default_factory=dict)
    distilled: bool = False
    tuned: bool = False

    def spec(self, base: LayerSpec, seed: int) -> LayerSpec:
        """What a searched layer is stored as that is `base` in the base."""
        if base.n_in > self.up_to:
            return replace(base, code_seed=seed)
        if self.covering:
            return LayerSpec.from_code(covering_code(base.n_in, N_OUT, min(self.covering, base.n_in), seed))
        return LayerSpec(self.family or base.family, base.n_in * self.times, N_OUT * self.times, code_seed=seed)


BASE, FULL = "base", "full precision"


def uniform_bases(space: SearchSpace) -> dict[str, Allocation]:
    """4/20 and 8/20 in every searched layer."""
    searched = [name for variable in space.variables for name in variable.layers]
    return {
        f"{n_in}/{N_OUT}": space.allocation_of(dict.fromkeys(searched, LayerSpec("systematic", n_in, N_OUT)))
        for n_in in (4, 8)
    }


def low_base(space: SearchSpace) -> dict[str, Allocation]:
    """weights^-0.5 at 0.266 bits, half of what the paper's code at 12/20 stores."""
    return {"0.266bpw": size_rule(space, Budget.parse("0.266bpw"), 0.5)}


def bases_by_rank(space: SearchSpace) -> dict[str, Allocation]:
    """The paper's code at 12/20, which stores 0.553 bits, and weights^-0.5 at half of that."""
    searched = [name for variable in space.variables for name in variable.layers]
    paper = space.allocation_of(dict.fromkeys(searched, LayerSpec("taps", 12, N_OUT)))
    return {"ours": size_rule(space, Budget.parse("0.276bpw"), 0.5), "paper": paper}


@dataclass(frozen=True)
class Setting:
    """What the remedies are tried on.

    Attributes:
        workload: its name.
        table: the file of the measurements.
        space: a shipped space; None: all layers.
        bases: the allocations that remedies change.
        remedies: in the order that they train in.
        recipe: fields of the workload's recipe that are fixed here.
    """

    workload: str
    table: str
    space: str | None
    bases: Callable[[SearchSpace], dict[str, Allocation]]
    remedies: tuple[Remedy, ...]
    recipe: dict[str, Any] = field(default_factory=dict)


COVERING = Remedy("covering, 2 taps", covering=2, up_to=12)  # beyond, the words of a slice are too many to go through
DISTILLED = Remedy("distilled", distilled=True)
FINE_TUNED = Remedy("fine-tuned", tuned=True)
BOTH = Remedy("both", distilled=True, tuned=True)
WARM_UP = Remedy("warm-up 0.5", recipe={"warmup": 0.5})
SMALL_RECIPE = {"precision": "float32", "memory_format": "channels_last"}
SETTINGS = {
    "digits": Setting(
        "digits-convnet",
        "measurements.csv",
        None,
        uniform_bases,
        (
            Remedy(BASE),
            COVERING,
            Remedy("covering, any taps", covering=N_OUT),
            Remedy("n_out 40", times=2),
            Remedy("n_out 80", times=4),
            DISTILLED,
            FINE_TUNED,
            BOTH,
            WARM_UP,
            Remedy("s_tanh from 1", recipe={"s_tanh_start": 1.0}),
            Remedy("dense", family="dense"),
        ),
    ),
    "resnet20": Setting(
        "resnet20-fashion-mnist-small",
        "resnet20.csv",
        "resnet20-layers",
        low_base,
        (
            Remedy(BASE),
            DISTILLED,
            BOTH,
            FINE_TUNED,
            WARM_UP,
            COVERING,
            Remedy("dense up to 4/20", family="dense", up_to=4),
        ),
        SMALL_RECIPE,
    ),
    "by-rank": Setting(
        "resnet20-fashion-mnist-small",
        "by-rank.csv",
        "resnet20-layers",
        bases_by_rank,
        (BOTH,),
        SMALL_RECIPE,
    ),
}


@functools.cache
def covering_code(n_in: int, n_out: int, most_taps: int, seed: int) -> XorCode:
    """A systematic code whose XOR rows are chosen so that random words lie near it.

    From the rows of `make_code`, rows are proposed in turn and at random and kept where they lower the mean distance of
    the words to their nearest codewords, in bits, plus a little for inputs used unevenly.
    """
    stream = np.random.Generator(np.random.PCG64(seed))
    words = 1.0 - 2.0 * stream.integers(0, 2, (WORDS, n_out)).astype(np.float32)
    stored = (np.arange(2**n_in)[:, None] >> np.arange(n_in)) & 1
    choices = [taps for k in range(2, most_taps + 1) for taps in itertools.combinations(range(n_in), k)]
    outputs = {taps: 1.0 - 2.0 * (stored[:, list(taps)].sum(1) % 2).astype(np.float32) for taps in choices}
    taps = list(make_code("systematic", n_in, n_out, seed=seed).taps)
    identity = 1.0 - 2.0 * stored.astype(np.float32)

    def agreement_without(row: int) -> np.ndarray:
        others = [r for r in range(n_in, n_out) if r != row]
        return words[:, :n_in] @ identity.T + words[:, others] @ np.stack([outputs[taps[r]] for r in others])

    def cost(agreement: np.ndarray, rows: Sequence[tuple[int, ...]]) -> float:
        used = np.bincount(np.concatenate(rows), minlength=n_in)
        return (n_out - float(agreement.max(1).mean())) / 2 + UNEVEN * float(used.max() - used.min())

    for proposal in range(PROPOSALS):
        row = n_in + proposal % (n_out - n_in)
        others = agreement_without(row)
        offered = (taps[row], choices[int(stream.integers(len(choices)))])
        costs = [
            cost(others + np.outer(words[:, row], outputs[new]), [*taps[:row], new, *taps[row + 1 :]])
            for new in offered
        ]
        if costs[1] < costs[0]:
            taps[row] = offered[1]
    return XorCode(n_in, tuple(taps))


def train_seed(setting: Setting, path: Path, seed: int, ends: float) -> None:
    """Train what the file does not hold yet of one seed; no training begins after `ends`, by the monotonic clock."""
    task = workload(setting.workload)
    task = replace(task, recipe=replace(task.recipe, **setting.recipe))
    use_threads(1)
    data = task.load(None)
    file = None if setting.space is None else read_space_file(setting.space)
    space = make_space(describe(task.build()), file, task.name)
    done = {row["name"] for row in read_table(path) if int(row["seed"]) == seed}

    @functools.cache
    def plain() -> nn.Module:
        """The full-precision model, trained; its line is written once."""
        with seeded(seed):
            model = task.build()
        result = train(model, data, task.recipe, seed=seed)
        if FULL not in done:
            add_row(path, Job(FULL, full_precision(space.model), seed), result, evaluate(model, data.test))
        return model.eval().requires_grad_(False)

    for (name, base), remedy in itertools.product(setting.bases(space).items(), setting.remedies):
        if f"{name} {remedy.name}" in done:
            continue
        if time.monotonic() > ends:
            return
        specs = {layer: remedy.spec(spec, seed) for layer, spec in base.layers.items() if not spec.is_kept}
        job = Job(f"{name} {remedy.name}", space.allocation_of(specs), seed)
        with seeded(seed):
            model = deepcopy(plain()).requires_grad_(True) if remedy.tuned else task.build()
            model = quantize_(model, job.allocation, pretrained=remedy.tuned)
        recipe = replace(task.recipe, **remedy.recipe)
        if remedy.distilled:
            recipe = replace(recipe, distillation=DISTILLATION)
        result = train(model, data, recipe, seed=seed, teacher=plain() if remedy.distilled else None)
        add_row(path, job, result, evaluate(model, data.test))


def train_missing(setting: Setting, path: Path, seeds: int, seconds: float, processes: int) -> list[dict[str, str]]:
    """Train what the file does not hold yet, a seed in a process; no training begins after `seconds`."""
    rows = read_table(path)
    if seconds > 0:
        begin_table(path, rows)
        fresh = multiprocessing.get_context("spawn")  # a forked process would share OpenMP's threads
        work = functools.partial(train_seed, setting, path, ends=time.monotonic() + seconds)
        with ProcessPoolExecutor(processes, fresh) as pool:
            list(pool.map(work, range(seeds)))
    return read_table(path)


def differences(rows: Sequence[dict[str, str]], ours: str, theirs: str, column: str) -> list[float]:
    """Of the seeds that both have, ours less theirs, in points."""
    by_seed = [{row["seed"]: 100 * float(row[column]) for row in rows if row["name"] == n} for n in (ours, theirs)]
    return [value - by_seed[1][seed] for seed, value in by_seed[0].items() if seed in by_seed[1]]


def print_markdown(rows: Sequence[dict[str, str]], order: Sequence[str]) -> None:
    """The table of the README, over the seeds that every row has been trained with.

    Means and standard errors; differences to the base seed by seed; the error of the difference taken as unpaired.
    """
    counts = Counter(row["seed"] for row in rows)
    rows = [row for row in rows if counts[row["seed"]] == len(order)]
    told = [
        f"{len({row['seed'] for row in rows})} seeds",
        "bits",
        "validation",
        "over the base",
        "test",
        "over the base",
    ]
    print("|", " | ".join([*told, "unpaired", "mean of both, over the base"]), "|")
    print("| --- " * (len(told) + 2) + "|")
    for name in sorted({row["name"] for row in rows}, key=order.index):
        base = f"{name.split()[0]} {BASE}"
        cells = [next(row["bits_per_weight"] for row in rows if row["name"] == name)]
        means = [mean_and_error(points(rows, name, column)) for column in COLUMNS]
        paired = [differences(rows, name, base, column) if name != base else [] for column in COLUMNS]
        for mean, over in zip(means, paired, strict=True):
            cells += [in_words(mean), in_words(mean_and_error(over), "+") if over else ""]
        if paired[0]:
            error = math.hypot(means[1][1], mean_and_error(points(rows, base, COLUMNS[1]))[1])
            both = [(a + b) / 2 for a, b in zip(*paired, strict=True)]
            cells += [f"± {error:.2f}", in_words(mean_and_error(both), "+")]
        else:
            cells += ["", ""]
        print("|", " | ".join([name, *cells]), "|")


def in_words(value: tuple[float, float], sign: str = "") -> str:
    """A mean and its standard error."""
    return f"{value[0]:{sign}.2f} ± {value[1]:.2f}"


def main() -> None:
    """Train what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", choices=SETTINGS, default="digits")
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin no training after so many")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--processes", type=int, default=1, help="each trains one seed at a time")
    options = parser.parse_args()
    setting = SETTINGS[options.setting]
    path = Path(__file__).with_name(setting.table)
    rows = train_missing(setting, path, options.seeds, options.seconds, options.processes)
    print(f"{torch.__version__=}, {sum(float(row['train_seconds']) for row in rows):.0f} s of training")
    task, file = workload(setting.workload), None if setting.space is None else read_space_file(setting.space)
    space = make_space(describe(task.build()), file, task.name)
    names = [f"{base} {remedy.name}" for base in setting.bases(space) for remedy in setting.remedies]
    print_markdown(rows, [FULL, *names])


if __name__ == "__main__":
    main()
