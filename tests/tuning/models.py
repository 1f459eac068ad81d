"""A small net on few images, its space, and measurements of it that no training made."""

import json
import math
from types import SimpleNamespace

from torch import nn

from flexor_search.planning import Budget, Recipe, file_layout, make_space
from flexor_search.planning.space_file import SpaceFile
from flexor_search.quantization import describe
from flexor_search.runs import DONE, FAILED, SEARCH, Measurement, Run
from flexor_search.tuning import Candidate, Measurer
from flexor_search.tuning.trial import Trial
from flexor_search.workloads import Data, Split, workload

RECIPE = Recipe(epochs=2, search_epochs=1, batch_size=32, learning_rate=1e-2)


def small_net():
    """Four layers, of which the first and the last are kept: 1,280 and 1,600 weights are searched."""
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 40, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        *(nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 10)),
    )


def few_images():
    """200 digits to train on, 80 to validate, 80 to test."""
    data = workload("digits-convnet").load(None)
    splits = ((data.train, 200), (data.validation, 80), (data.test, 80))
    return Data(*(split.take(count) for split, count in splits))


def space_of(build=small_net, **file):
    """The space of a model, by default with the default menus."""
    return make_space(describe(build()), SpaceFile.model_validate(file))


def budgets(text):
    return Budget.parse_list(text)


def new_run(folder):
    return Run.start(folder, {"budget": "0.7bpw"}, {"seed": "0"})


def measurer_in(folder, build=small_net, recipe=RECIPE, data=None):
    return Measurer(new_run(folder), build, data or few_images(), recipe, "", "cpu")


def measured(allocation, number, accuracy=0.5, *, phase=SEARCH, kind="proposed", state=DONE, **more):
    """A measurement of an allocation, as if it had been trained."""
    failed = state == FAILED
    return Measurement(
        **{
            "number": number,
            "phase": phase,
            "kind": kind,
            "digest": allocation.digest,
            "label": allocation.label,
            "allocation": json.dumps(allocation.to_json()),
            "budget": "0.7bpw",
            "bits_per_weight": allocation.bits_per_weight,
            "nominal_bits_per_weight": allocation.nominal_bits_per_weight,
            "payload_bits": allocation.payload_bits,
            "file_bytes": file_layout(allocation).file_bytes,
            "seed": 0,
            "epochs": 2,
            "images": 200,
            "state": state,
            "val_accuracy": math.nan if failed else accuracy,
            "val_loss": math.nan if failed else 1.0,
            "rungs": "",
            "train_seconds": 0.0,
            "reason": "the loss is nan" if failed else "",
        }
        | more
    )


def uniform_at(space, n_in, n_out=20):
    """The uniform allocation of a rate."""
    profile = tuple(
        next(i for i, spec in enumerate(variable.menu) if (spec.n_in, spec.n_out) == (n_in, n_out))
        for variable in space.variables
    )
    return space.allocation(profile)


class FakeMeasurer:
    """Measures in no time: the accuracy of an allocation is a function of it."""

    def __init__(self, folder, accuracy, recipe=RECIPE, state=lambda allocation: DONE):
        self.run, self.recipe, self._accuracy, self._state = new_run(folder), recipe, accuracy, state
        self.trained, self.lost = [], set()
        self.data = SimpleNamespace(validation=range(10**12))  # that many images: the accuracies have no noise

    def agree(self, name, offer, binds):
        return offer()

    def known(self, trial):
        found = self.run.find(trial.key)
        return None if found is not None and self.damage(found) else found

    def damage(self, found):
        return "lost" if found.key in self.lost else ""

    def measure(self, candidate: Candidate, phase, seed):
        trial = Trial(candidate, phase, seed)
        return self.known(trial) or self.made(trial)

    def made(self, trial):
        candidate, allocation = trial.candidate, trial.candidate.allocation
        found = measured(
            allocation,
            len(self.run.measurements),
            self._accuracy(allocation),
            phase=trial.phase,
            kind=candidate.kind,
            state=self._state(allocation),
            budget=candidate.budget,
            seed=trial.seed,
        )
        self.trained.append(candidate)
        self.lost.discard(found.key)
        self.run.append(found)
        return found


class Recorder:
    """An observer that remembers."""

    def __init__(self):
        self.events = []

    def message(self, text):
        self.events.append(("message", text))

    def planned(self, phases):
        self.events.append(("planned", tuple(phases)))

    def phase(self, name, trainings):
        self.events.append(("phase", name, trainings))

    def begin(self, what):
        self.events.append(("begin", what))

    def measured(self, measurement, best):
        self.events.append(("measured", measurement, best))

    def of(self, kind):
        return [event[1:] for event in self.events if event[0] == kind]


def one_split(name, images, labels):
    return Split(name, images, labels)
