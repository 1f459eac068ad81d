"""One training as Ray Tune runs it: a function in a process of a node, that may be lost at any moment.

It reports twice what matters: now and then how far it has come, with the checkpoint as a file that Tune keeps in the
run folder, and at the end the line of the measurement, with the packed model. A trial whose node is lost is tried again
elsewhere, from the last checkpoint.
"""

import base64
import json
import pickle
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ray import tune

from flexor_search.planning import Recipe
from flexor_search.runs import DONE, Measurement, Run
from flexor_search.training import Checkpoint
from flexor_search.tuning.measurer import Measurer
from flexor_search.tuning.trial import Trial
from flexor_search.tuning.worker import load_data
from flexor_search.workloads import Own

PACKED, PACKING, UNFINISHED = "packed.safetensors", "packing.json", "unfinished.safetensors"
"""Files in a checkpoint of Tune: of a training that has ended, and of one under way."""


@dataclass(frozen=True)
class RaySetup:
    """What every trial needs, put once into Ray's object store.

    Attributes:
        build: makes the model, pickled; what it needs is imported when it is unpacked.
        path: of modules, of the process that searches.
        recipe, model_name, own, checkpoint_seconds: as of the measurer.
        device, threads: where a trial trains.
        data: the training and validation splits, as a file.
        teachers: folder of the models that others learn from, the same on all nodes as the run folder is.
        measured: keys of what is in the run folder; Tune's own state may be some seconds older.
    """

    build: bytes
    path: list[str]
    recipe: Recipe
    model_name: str
    own: Own
    checkpoint_seconds: float
    device: str
    threads: int
    data: bytes
    teachers: str
    measured: frozenset[tuple[str, str, int]]


def config_of(trial: Trial) -> dict[str, Any]:
    """A trial as the JSON that Tune keeps of it."""
    return {"key": list(trial.key), "trial": base64.b64encode(pickle.dumps(trial)).decode()}


def key_of(config: dict[str, Any]) -> tuple[str, str, int]:
    """The key of the measurement that a trial of Tune comes to."""
    digest, phase, seed = config["key"]
    return digest, phase, seed


def train_trial(config: dict[str, Any], setup: RaySetup) -> None:
    """Train, and report."""
    sys.path += [place for place in setup.path if place not in sys.path]
    torch.set_num_threads(setup.threads)
    trial: Trial = pickle.loads(base64.b64decode(config["trial"]))
    if trial.key in setup.measured:
        tune.report({"measured": 1})
        return
    with tempfile.TemporaryDirectory(prefix="flexor-search-") as name:
        folder = Path(name)
        for part in ("trained", "to-report"):
            (folder / part).mkdir()
        try:
            found = _attempt(trial, setup, folder)
        except Exception as error:  # would fail on every node; only a node that is lost is worth another try
            tune.report({"error": " ".join(f"{type(error).__name__}: {error}".split())})
            return
        metrics = {"line": json.dumps({name: str(value) for name, value in found.to_row().items()})}
        if found.state != DONE:
            tune.report(metrics)
            return
        for source, target in ((f"{found.number}.safetensors", PACKED), (f"{found.number}.json", PACKING)):
            shutil.copy(folder / "trained" / source, folder / "to-report" / target)
        (folder / "to-report" / UNFINISHED).unlink(missing_ok=True)
        tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder / "to-report"))


def _attempt(trial: Trial, setup: RaySetup, folder: Path) -> Measurement:
    path = folder / "to-report" / UNFINISHED
    if (earlier := tune.get_checkpoint()) is not None:
        with earlier.as_directory() as saved:
            if (Path(saved) / UNFINISHED).exists():
                shutil.copy(Path(saved) / UNFINISHED, path)

    def written() -> None:
        tune.report({"checkpoint": 1}, checkpoint=tune.Checkpoint.from_directory(path.parent))

    file = folder / "data.pt"
    file.write_bytes(setup.data)
    measurer = Measurer(
        *(Run(folder, {}, {}), pickle.loads(setup.build), load_data(str(file)), setup.recipe, setup.model_name),
        setup.device,
        checkpoint_seconds=setup.checkpoint_seconds,
        own=setup.own,
        teachers=Path(setup.teachers),
    )
    checkpoint = Checkpoint(path, setup.checkpoint_seconds, [trial.key], written=written)
    return measurer.attempt(trial, 0, checkpoint)
