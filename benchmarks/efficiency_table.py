"""The measured table of benchmarks/data as arrays, and what a choice gains on it."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flexor_search.planning import LayerShape, ModelShape, SearchSpace, make_space
from flexor_search.planning.space_file import SpaceFile
from flexor_search.runs import DONE, SEARCH, Measurement
from flexor_search.tuning import SHARED, SHARED_LOSS, AccuracyModel, Candidate, Observation, fit_accuracy_model

Floats = NDArray[np.float64]

DATA = Path(__file__).parent / "data"
MENU = (4, 8, 12, 16, 20)
LAYERS: tuple[str, ...] = ("n_in_conv1", "n_in_conv2", "n_in_fc1", "n_in_fc2")
SHAPES = ((32, 1, 5, 5), (64, 32, 5, 5), (512, 3136), (10, 512))
BUDGETS = tuple(round(0.25 + 0.05 * step, 2) for step in range(16))


@dataclass(frozen=True)
class Table:
    """Every allocation's accuracies.

    Attributes:
        profiles: menu indices, in the order of the rows.
        seen: for each direction what an evaluation returns: validation accuracy of one seed.
        truth: for each direction the mean of validation and test accuracy of the other seed.
        shared: scores of a shared network by source, greater is better; empty if there are none.
        shared_cost: of training and scoring it, in trainings.
    """

    profiles: list[tuple[int, ...]]
    seen: tuple[Floats, Floats]
    truth: tuple[Floats, Floats]
    shared: dict[str, Floats]
    shared_cost: float = 0.0

    @classmethod
    def read(cls, folder: Path = DATA) -> "Table":
        """Read the table, and the shared network's scores where they are."""
        by_seed: list[dict[tuple[int, ...], tuple[float, float]]] = [{}, {}]
        for line in csv.DictReader((folder / "lenet5_fashion_mnist.csv").open(encoding="utf-8")):
            by_seed[int(line["seed"])][_profile(line)] = float(line["val_acc"]), float(line["test_acc"])
        profiles = sorted(by_seed[0])
        both = [np.array([values[profile] for profile in profiles]) for values in by_seed]
        shared: dict[str, Floats] = {}
        cost = 0.0
        if (folder / "supernet_scores.csv").exists():
            lines = csv.DictReader((folder / "supernet_scores.csv").open(encoding="utf-8"))
            scores = {_profile(line): (float(line["val_acc"]), -float(line["val_loss"])) for line in lines}
            columns = np.array([scores[profile] for profile in profiles]).T
            shared = {SHARED: columns[0], SHARED_LOSS: columns[1]}
            cost = json.loads((folder / "supernet_scores.json").read_text(encoding="utf-8"))["training_equivalents"]
        first, second = both
        seen, truth = (first[:, 0], second[:, 0]), (second.mean(axis=1), first.mean(axis=1))
        return cls(profiles, seen, truth, shared, cost)

    @property
    def weights(self) -> Floats:
        """Weights of each layer."""
        return np.array([np.prod(shape) for shape in SHAPES], float)

    @cached_property
    def bits(self) -> Floats:
        """Bits per weight of each row."""
        rates = np.array(MENU)[np.array(self.profiles)] / 20
        return rates @ self.weights / self.weights.sum()

    @cached_property
    def row_of(self) -> dict[tuple[int, ...], int]:
        """Row of each profile."""
        return {profile: row for row, profile in enumerate(self.profiles)}

    @property
    def uniform(self) -> list[int]:
        """Rows of the uniform allocations, smallest first."""
        return [self.row_of[(index,) * len(LAYERS)] for index in range(len(MENU))]

    @cached_property
    def space(self) -> SearchSpace:
        """The table's menus; systematic codes stand for its two-tap ones, whose nominal rates the table counts."""
        shapes = [LayerShape(name, "", shape, shape[0], True) for name, shape in zip(LAYERS, SHAPES, strict=True)]
        model = ModelShape(tuple(shapes), (), 0)
        menu = {"rates": [f"{n_in}/20" for n_in in MENU]}
        return make_space(model, SpaceFile.model_validate({"keep": [], "default": menu}))

    @cached_property
    def allocations(self):
        """The allocation of each row."""
        return [self.space.allocation(profile) for profile in self.profiles]

    def fit(self, rows: Sequence[int], direction: int, shared: bool) -> AccuracyModel:
        """The model of accuracy of what was seen, and of the shared network's scores if asked for."""
        observed = [Observation(self.allocations[row], float(self.seen[direction][row])) for row in rows]
        if shared:
            for source, values in self.shared.items():
                observed += [
                    Observation(allocation, float(value), source)
                    for allocation, value in zip(self.allocations, values, strict=True)
                ]
        return fit_accuracy_model(self.space, observed)

    def worth(self, model: AccuracyModel) -> Floats:
        """What a model chooses by, for each row: the sum of its layers' curves."""
        columns = zip(model.choices, np.array(self.profiles).T, strict=True)
        return np.sum([term[column] for term, column in columns], axis=0)

    def gain(self, worth: Floats, direction: int) -> float:
        """Gain over uniform of choosing what is worth most under each budget, in points, mean over the budgets."""
        truth, gains = self.truth[direction], []
        for budget in BUDGETS:
            fitting = np.flatnonzero(self.bits <= budget + 1e-9)
            chosen = fitting[np.argmax(worth[fitting])]
            if worth[chosen] == -np.inf:
                return float("nan")
            gains.append(truth[chosen] - np.interp(budget, self.bits[self.uniform], truth[self.uniform]))
        return 100 * float(np.mean(gains))


def _profile(line: dict[str, str]) -> tuple[int, ...]:
    return tuple(MENU.index(int(line[name])) for name in LAYERS)


def as_measured(candidate: Candidate, number: int, value: float) -> Measurement:
    """A trial of that validation accuracy, as a run would write it down."""
    allocation = candidate.allocation
    about = (number, SEARCH, candidate.kind, allocation.digest, allocation.label, json.dumps(allocation.to_json()))
    sizes = (allocation.bits_per_weight, allocation.nominal_bits_per_weight, allocation.payload_bits, 0)
    return Measurement(*about, candidate.budget, *sizes, 0, 1, 1, DONE, value, -value, "", 0.0, "")
