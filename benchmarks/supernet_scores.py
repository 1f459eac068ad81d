"""Scores of one shared network for a whole measured table: `python -m benchmarks.supernet_scores --folder DIR`.

Trains LeNet-5 on Fashion-MNIST twice for all 625 allocations of benchmarks/data (4, 8, 12, 16 or 20 stored bits of 20
in each layer) by the table's recipe (Adam, one-cycle to 5e-3, batch 256, 55,000 images, s_tanh 10, scales that start
at 0.2; 3 epochs where the table has 4), systematic codes, one random path a step, two seeds, then scores each
allocation on the 5,000 validation images; a score is the mean of both networks. An interrupted one goes on where it
was when it is called again with the same folder. DIR/scores.csv has the scores; what is printed (and in
DIR/result.json): `training_equivalents`, the cost of training and scoring both over that of one plain training of the
table's recipe, in processor time, so that other work on the machine does not count; `spearman_accuracy` and
`spearman_loss` against the table's mean over both seeds, validation and test, `spearman_of_each` network alone;
`seconds`, what that was computed from.

The table's weights lie as the paper's do, 20 consecutive ones in a slice, and so do the network's here. `--order
format` trains it in the order of the packed file, which is another network and agrees less with that table.

Of training, a step is timed in this process: plain and shared ones in turn, so that a slow minute slows both.
"""

import argparse
import csv
import itertools
import json
import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does; before torch loads OpenMP

import torch
from torch import nn

from benchmarks.timing import hardware, versions
from flexor_search.codes import FAMILIES
from flexor_search.planning import Recipe, SearchSpace, make_space
from flexor_search.planning.space_file import SpaceFile
from flexor_search.quantization import FlexorWeight, describe, quantize_
from flexor_search.training import Checkpoint, seeded, train
from flexor_search.training.checkpoint import read_checkpoint, write_checkpoint
from flexor_search.training.shared import PATHS, ProfileScorer, shared_model, train_shared
from flexor_search.workloads import Data, workload

MENU = (4, 8, 12, 16, 20)
LAYERS = ("conv1", "conv2", "fc1", "fc2")
COLUMNS = [*(f"n_in_{layer}" for layer in LAYERS), "val_acc", "val_loss"]
TABLE = Path(__file__).parent / "data" / "lenet5_fashion_mnist.csv"
RECIPE = Recipe(
    learning_rate=5e-3,
    epochs=4,
    batch_size=256,
    s_tanh_start=10.0,
    precision="auto",
    memory_format="channels_last",
    threads=1,
)
EPOCHS, NETWORKS = 3, 2
"""Of each shared network, and how many: two that train shorter cost no more than three trainings and agree better with
the table than one of them, whose agreement depends much on its seed (docs/log.md)."""
ORDERS = ("table", "format")
SCALE = 0.2
"""Of every layer at first, as in the table; the project's own is smaller where no batch norm follows."""


@dataclass(frozen=True)
class Network:
    """What shared network is trained.

    Attributes:
        paths: of a step, "random" or "sandwich".
        order: of weights over slices, "table" or "format".
        family: of every code.
        epochs: of its training.
        seed: of its first values, its paths and its order of images.
    """

    paths: str = "random"
    order: str = "table"
    family: str = "systematic"
    epochs: int = EPOCHS
    seed: int = 0

    @property
    def recipe(self) -> Recipe:
        """The table's, with this many epochs."""
        return replace(RECIPE, epochs=self.epochs)

    def space(self) -> SearchSpace:
        """The table's menus."""
        rates = [f"{n_in}/20" for n_in in MENU]
        file = SpaceFile.model_validate({"keep": [], "default": {"rates": rates, "families": [self.family]}})
        return make_space(describe(workload("lenet5-fashion-mnist").build()), file)

    def fresh(self, space: SearchSpace) -> nn.Module:
        """The shared network before its training."""
        model = shared_model(workload("lenet5-fashion-mnist").build(), space, self.recipe)
        with torch.no_grad():
            for layer in LAYERS:
                shared = model.get_submodule(layer).parametrizations.weight  # type: ignore[union-attr]
                shared.original1[0] = SCALE  # type: ignore[index, union-attr]
        if self.order == "table":
            for entry in model.modules():
                if isinstance(entry, FlexorWeight):
                    entry.slice_order = "consecutive"
        return model


def trained(folder: Path, network: Network, space: SearchSpace, data: Data) -> nn.Module:
    """The shared network, trained or as an earlier call left it."""
    path, identity = folder / "shared.safetensors", [network.recipe.to_json(), asdict(network), len(data.train)]
    with seeded(network.seed):
        model = network.fresh(space)
    if path.exists():
        tensors, about = read_checkpoint(path)
        if about != json.loads(json.dumps(identity)):
            raise SystemExit(f"{path} is of another recipe; choose another --folder")
        model.load_state_dict(tensors)
        return model
    checkpoint = Checkpoint(folder / "unfinished.safetensors", identity=identity, tell=print)
    result = train_shared(
        model, space, data, network.recipe, seed=network.seed, paths=network.paths, checkpoint=checkpoint
    )
    write_checkpoint(path, model.state_dict(), identity)  # type: ignore[arg-type]
    checkpoint.path.unlink(missing_ok=True)
    print(f"trained in {result.train_seconds:.0f} s", flush=True)
    return model


def scored(folder: Path, model: nn.Module, data: Data, recipe: Recipe) -> list[dict[str, str]]:
    """A line of scores.csv for every allocation, with its processor seconds."""
    path, names = folder / "scores.csv", [*COLUMNS, "seconds"]
    known = list(csv.DictReader(path.open(encoding="utf-8"))) if path.exists() else []
    done = {tuple(int(line[name]) for name in COLUMNS[:4]) for line in known if None not in line.values()}
    scorer = ProfileScorer(model, data, recipe)
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if not known:
            writer.writerow(names)
        for profile in itertools.product(range(len(MENU)), repeat=len(LAYERS)):
            n_ins = tuple(MENU[index] for index in profile)
            if n_ins in done:
                continue
            started = time.process_time()
            score = scorer(profile)
            spent = time.process_time() - started
            writer.writerow([*n_ins, f"{score.accuracy:.4f}", f"{score.loss:.5f}", f"{spent:.3f}"])
            file.flush()
            os.fsync(file.fileno())
    return list(csv.DictReader(path.open(encoding="utf-8")))


def step_seconds(network: Network, space: SearchSpace, data: Data, rounds: int) -> dict[str, float]:
    """Processor seconds of a step, of a plain training of 12/20 in all layers and of the shared network."""
    steps = 20
    few = replace(data, train=data.train.take(steps * RECIPE.batch_size), validation=data.validation.take(8))
    once = replace(RECIPE, epochs=1)
    build = workload("lenet5-fashion-mnist").build
    middle = space.allocation((2,) * len(LAYERS))
    spent: dict[str, float] = {"plain": 0.0, "shared": 0.0}
    for turn in range(rounds + 1):  # the first warms up
        for name in spent:
            with seeded(0):
                model = quantize_(build(), middle) if name == "plain" else network.fresh(space)
            started = time.process_time()
            if name == "plain":
                train(model, few, once, seed=turn)
            else:
                train_shared(model, space, few, once, seed=turn, paths=network.paths)
            spent[name] += (time.process_time() - started) * (turn > 0)
    return {name: seconds / (rounds * steps) for name, seconds in spent.items()}


def spearman(lines: list[dict[str, str]], table: Path) -> dict[str, float]:
    """Rank correlation of the scores with the mean of the table's accuracies, both seeds, validation and test."""
    import pandas as pd
    from scipy.stats import spearmanr

    keys = COLUMNS[:4]
    truth = pd.read_csv(table)
    truth["truth"] = truth[["val_acc", "test_acc"]].mean(axis=1)
    ours = pd.DataFrame(lines).astype(float).astype(dict.fromkeys(keys, int))
    both = ours.merge(truth.groupby(keys)["truth"].mean().reset_index(), on=keys)
    by_accuracy, by_loss = (cast(Any, spearmanr(one, both["truth"])) for one in (both["val_acc"], -both["val_loss"]))
    return {
        "spearman_accuracy": round(float(by_accuracy.statistic), 4),
        "spearman_loss": round(float(by_loss.statistic), 4),
    }


def averaged(each: list[list[dict[str, str]]]) -> list[dict[str, str]]:
    """Lines with the mean scores of several networks, and their seconds together."""
    found = []
    for lines in zip(*each, strict=True):
        accuracy, loss = (sum(float(line[name]) for line in lines) / len(lines) for name in COLUMNS[4:])
        seconds = sum(float(line["seconds"]) for line in lines)
        scores = {COLUMNS[4]: f"{accuracy:.5f}", COLUMNS[5]: f"{loss:.6f}", "seconds": f"{seconds:.3f}"}
        found.append({**lines[0], **scores})
    return found


def measure(folder: Path, networks: list[Network], table: Path) -> dict[str, Any]:
    """Train, score, time and compare; the networks differ in their seeds alone."""
    network = networks[0]
    torch.set_num_threads(RECIPE.threads)
    space, data = network.space(), workload("lenet5-fashion-mnist").load(None)
    each = []
    for one in networks:
        place = folder / f"seed-{one.seed}"
        place.mkdir(parents=True, exist_ok=True)
        each.append(scored(place, trained(place, one, space, data), data, RECIPE))
    lines = averaged(each)
    with (folder / "scores.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*COLUMNS, "seconds"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    steps = len(data.train) // RECIPE.batch_size
    step = step_seconds(network, space, data, rounds=3)
    seconds = {
        "plain_training": RECIPE.epochs * steps * step["plain"],
        "shared_training": len(networks) * network.epochs * steps * step["shared"],
        "scoring": sum(float(line["seconds"]) for line in lines),
    }
    cost = (seconds["shared_training"] + seconds["scoring"]) / seconds["plain_training"]
    return {
        "training_equivalents": round(cost, 3),
        **(spearman(lines, table) if table.exists() else {}),
        **({"spearman_of_each": [spearman(one, table) for one in each]} if table.exists() else {}),
        "allocations": len(lines),
        **asdict(network),
        "networks": len(networks),
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "recipe": RECIPE.to_json(),
        "hardware": hardware(),
        "versions": versions("torch"),
    }


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.supernet_scores", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where to keep what is finished")
    parser.add_argument("--paths", choices=PATHS, default="random")
    parser.add_argument("--order", choices=ORDERS, default="table", help="of weights over slices")
    parser.add_argument("--table", type=Path, default=TABLE, help="the measured table to compare with")
    parser.add_argument("--family", choices=sorted(FAMILIES), default="systematic", help="of the codes")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of a shared network's training")
    parser.add_argument("--seed", type=int, default=0, help="of the first shared network")
    parser.add_argument("--networks", type=int, default=NETWORKS, help="whose scores are averaged; seeds follow")
    given = parser.parse_args()
    seeds = range(given.seed, given.seed + given.networks)
    networks = [Network(given.paths, given.order, given.family, given.epochs, seed) for seed in seeds]
    result = measure(given.folder, networks, given.table)
    (given.folder / "result.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
