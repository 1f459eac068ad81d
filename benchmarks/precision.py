"""Does a faster way to compute cost accuracy? `python -m benchmarks.precision --json`.

Precision and memory format are chosen by time alone (training/choice.py), so each combination trains the same
allocation with the same seeds here. Keys: `val_accuracy` (combination -> mean, standard error, one value a seed),
`seconds_per_image` (combination -> seconds, as the choice measures it), `less_than_first` (combination -> difference to
"float32 contiguous" in points, its standard error), `hardware`.
"""

import argparse
import json
import math
import os
import statistics
from dataclasses import replace
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does; before torch loads OpenMP

import torch

from benchmarks.timing import hardware, versions
from flexor_search.planning import Allocation, LayerSpec
from flexor_search.quantization import describe, quantize_
from flexor_search.training import seeded, train
from flexor_search.tuning.time_plan import seconds_per_image
from flexor_search.workloads import WORKLOADS, workload

COMBINATIONS = [(p, f) for p in ("float32", "bfloat16") for f in ("contiguous", "channels_last")]


def measure(name: str, seeds: int, device: str, epochs: int, images: int) -> dict[str, Any]:
    """Train every combination with every seed, 8 stored bits for 20 weights in all layers.

    Args:
        name: a built-in workload.
        seeds: trainings of each combination.
        device: where to train.
        epochs, images: of each; 0: the workload's own.
    """
    task = workload(name)
    data = task.load(None)
    data = replace(data, train=data.train.take(images))
    allocation = Allocation.of(describe(task.build()), {}, default=LayerSpec(n_in=8, n_out=20))
    accuracies: dict[str, list[float]] = {}
    seconds: dict[str, float] = {}
    for precision, memory_format in COMBINATIONS:
        recipe = replace(task.recipe, precision=precision, memory_format=memory_format)
        recipe = replace(recipe, epochs=epochs or recipe.epochs)
        both = f"{precision} {memory_format}"
        seconds[both] = seconds_per_image(task.build, data, recipe, device, allocation)
        for seed in range(seeds):
            with seeded(seed):
                model = quantize_(task.build(), allocation)
            result = train(model, data, recipe, seed=seed, device=device)
            accuracies.setdefault(both, []).append(100 * result.validation.accuracy)
    first = next(iter(accuracies.values()))
    return {
        "val_accuracy": {both: _spread(values) | {"seeds": values} for both, values in accuracies.items()},
        "less_than_first": {
            both: _spread([a - b for a, b in zip(first, values, strict=True)]) for both, values in accuracies.items()
        },
        "seconds_per_image": seconds,
        "workload": name,
        "device": device,
        "hardware": torch.cuda.get_device_name() if device.startswith("cuda") else hardware(),
        "versions": versions("torch"),
    }


def _spread(values: list[float]) -> dict[str, float]:
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return {"mean": round(statistics.fmean(values), 3), "standard_error": round(error, 3)}


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.precision", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--workload", choices=WORKLOADS, default="digits-convnet")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=0, help="of each training (default: the workload's)")
    parser.add_argument("--images", type=int, default=0, help="training images (default: all)")
    given = parser.parse_args()
    result = measure(given.workload, given.seeds, given.device, given.epochs, given.images)
    if given.json:
        print(json.dumps(result, indent=2))
        return
    for both, found in result["val_accuracy"].items():
        lost, microseconds = result["less_than_first"][both], 1e6 * result["seconds_per_image"][both]
        print(
            f"{both:24} {found['mean']:.2f} +- {found['standard_error']:.2f} %  less than float32 contiguous: "
            f"{lost['mean']:+.2f} +- {lost['standard_error']:.2f}  {microseconds:.0f} us an image"
        )


if __name__ == "__main__":
    main()
