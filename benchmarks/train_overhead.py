"""What FleXOR adds to a training step: `python -m benchmarks.train_overhead --json`.

One step is forward, backward and the optimizer's step, as the trainer does it. The FleXOR models and the plain model
they are made from take turns, round after round. Keys: `flexor_over_plain[device][mode][batch]` is the ratio of the
best rounds for the worst of the codes; mode holds the workload, as in "lenet5 float32" (eager), "lenet5 float32
compiled" and "lenet5 float32 graphs" (CUDA only). `medians` and `processor_time` hold the ratios of median rounds and
of the median processor time of all threads, which other work on the machine disturbs least; `by_code` has all of them.
"""

import argparse
import functools
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does; before torch loads OpenMP

import numpy as np
import torch
from torch import nn

from benchmarks.timing import hardware, versions
from flexor_search.planning import Allocation, LayerSpec, Recipe
from flexor_search.quantization import describe, quantize_
from flexor_search.training.optimizer import optimizer_of
from flexor_search.training.score import training_loss
from flexor_search.training.step import ROUTES, Step
from flexor_search.workloads import lenet5_fashion_mnist
from flexor_search.workloads.resnet import ResNet

N_OUT = 20
CODES = {
    f"{family} {n_in}/{N_OUT}": LayerSpec(family, n_in, N_OUT) for family in ("systematic", "taps") for n_in in (8, 12)
}
UNTIMED = 5
"""Rounds before the timed ones: compilation, the optimizer's state, recording."""

Work = Callable[[], object]


@dataclass(frozen=True)
class Subject:
    """What is trained: a plain model, images of this shape, a recipe, the layers that stay in full precision."""

    build: Callable[[], nn.Module]
    shape: tuple[int, int, int]
    recipe: Recipe
    kept: tuple[str, ...] = ()


SUBJECTS = {
    "lenet5": Subject(lenet5_fashion_mnist.build, (1, 28, 28), lenet5_fashion_mnist.WORKLOAD.recipe),
    # The paper's recipe and, as there, the first and the last layer in full precision.
    "resnet20": Subject(
        ResNet,
        (3, 32, 32),
        Recipe(optimizer="sgd", learning_rate=0.1, batch_size=128, memory_format="channels_last"),
        ("conv1", "linear"),
    ),
}


def make_step(subject: Subject, spec: LayerSpec | None, batch: int, device: str, precision: str, route: str) -> Work:
    """A training step of the plain (spec None) or the quantized model, by one of training.step.ROUTES."""
    torch.manual_seed(0)
    model, recipe = subject.build(), replace(subject.recipe, precision=precision)
    if spec is not None:
        kept = {name: LayerSpec(family="kept") for name in subject.kept}
        quantize_(model, Allocation.of(describe(model), kept, default=spec))
    model.to(device)
    if recipe.memory_format != "contiguous":
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.train()
    images, labels = torch.rand(batch, *subject.shape, device=device), torch.randint(10, (batch,), device=device)
    losses = functools.partial(training_loss, model, recipe=recipe, device=device)
    take_step = Step(losses, optimizer_of(model, recipe, device), route)
    return lambda: take_step(images, labels)


def measure(steps: dict[str, Work], rounds: int, on_gpu: bool) -> dict[str, dict[str, float]]:
    """Let steps take turns; best and median wall seconds and median processor seconds of each."""
    wall: dict[str, list[float]] = {name: [] for name in steps}
    processor: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(-UNTIMED if on_gpu else -2, rounds):
        for name, step in steps.items():
            started, processor_started = time.perf_counter(), time.process_time()
            step()
            if on_gpu:
                torch.cuda.synchronize()
            if turn >= 0:
                wall[name].append(time.perf_counter() - started)
                processor[name].append(time.process_time() - processor_started)
    return {
        name: {
            "best": min(wall[name]),
            "median": float(np.median(wall[name])),
            "processor": float(np.median(processor[name])),
        }
        for name in steps
    }


def run(
    devices: dict[str, int], workloads: list[str], precisions: list[str], batches: list[int], rounds: int
) -> dict[str, Any]:
    """The whole benchmark as one JSON object.

    Args:
        devices: name of each device ("cuda", or any beginning with "cpu") -> its processor threads.
        workloads: keys of SUBJECTS.
        precisions: "float32", "bfloat16".
        batches: images a step.
        rounds: in which models take turns.
    """
    result: dict[str, Any] = {
        key: {} for key in ("flexor_over_plain", "medians", "processor_time", "by_code", "plain_step_seconds")
    }
    for device, threads in devices.items():
        torch.set_num_threads(threads)
        on_gpu = device == "cuda"
        for workload in workloads:
            for precision in precisions:
                for route in ROUTES if on_gpu else ("eager",):
                    mode = f"{workload} {precision}" + ("" if route == "eager" else f" {route}")
                    for batch in batches:
                        options = (batch, "cuda" if on_gpu else "cpu", precision, route)
                        specs: dict[str, LayerSpec | None] = {"plain": None, **CODES}
                        steps = {name: make_step(SUBJECTS[workload], spec, *options) for name, spec in specs.items()}
                        _enter(result, (device, mode, str(batch)), measure(steps, rounds, on_gpu))
    result["rounds"], result["threads"] = rounds, devices
    result["hardware"] = hardware()
    result["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    result["bfloat16_in_hardware"] = bool(torch.cpu.get_capabilities().get("avx512_bf16"))
    result["versions"] = versions("numpy", "numba", "torch")
    return result


def _enter(result: dict[str, Any], keys: tuple[str, str, str], seconds: dict[str, dict[str, float]]) -> None:
    plain = seconds.pop("plain")
    ratios = {
        code: {what: round(value / plain[what], 3) for what, value in taken.items()} for code, taken in seconds.items()
    }
    device, mode, batch = keys
    for name, value in (
        ("flexor_over_plain", max(ratio["best"] for ratio in ratios.values())),
        ("medians", max(ratio["median"] for ratio in ratios.values())),
        ("processor_time", max(ratio["processor"] for ratio in ratios.values())),
        ("by_code", ratios),
        ("plain_step_seconds", round(plain["best"], 5)),
    ):
        result[name].setdefault(device, {}).setdefault(mode, {})[batch] = value


def _table(result: dict[str, Any]) -> str:
    lines = [f"{'FleXOR step over plain step, worst code':56}{'best':>8}{'median':>8}{'processor':>11}{'plain ms':>10}"]
    for device, modes in result["flexor_over_plain"].items():
        for mode, batches in modes.items():
            for batch, ratio in batches.items():
                others = [result[name][device][mode][batch] for name in ("medians", "processor_time")]
                milliseconds = 1000 * result["plain_step_seconds"][device][mode][batch]
                name = f"{device}, {mode}, batch {batch}"
                lines.append(f"{name:56}{ratio:8.3f}{others[0]:8.3f}{others[1]:11.3f}{milliseconds:10.1f}")
    return "\n".join(lines)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_overhead", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--workloads", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    parser.add_argument("--precisions", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    parser.add_argument("--batches", nargs="+", type=int, default=[64, 128, 256])
    parser.add_argument("--threads", nargs="+", type=int, default=[2, 1], help="processor threads (default: 2 1)")
    parser.add_argument("--rounds", type=int, default=15, help="rounds in which models take turns (default: 15)")
    parser.add_argument("--quick", action="store_true", help="two rounds of LeNet-5 at batch 8: does it run at all")
    arguments = parser.parse_args()
    if min([arguments.rounds, *arguments.threads]) < 1 or min(arguments.batches) < 2:
        parser.error("--rounds and --threads must be at least 1, --batches at least 2")
    devices = {f"cpu, {count} thread{'s' * (count > 1)}": count for count in arguments.threads}
    if torch.cuda.is_available():
        devices["cuda"] = torch.get_num_threads()
    if arguments.quick:
        result = run(devices, ["lenet5"], arguments.precisions, [8], 2)
    else:
        result = run(devices, arguments.workloads, arguments.precisions, arguments.batches, arguments.rounds)
    print(json.dumps(result, indent=2) if arguments.json else _table(result))


if __name__ == "__main__":
    main()
