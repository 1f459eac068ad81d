"""Systematic against random two-tap codes on LeNet-5 / Fashion-MNIST, all four layers at one rate.

    python studies/code-families/run.py [--threads 2]

Resumable: finished trainings are looked up in measurements.csv beside this file. The test set is read once for each
finished training, after its validation score is fixed; nothing is chosen by it.
"""

import argparse
import csv
import statistics
from pathlib import Path

import torch

from flexor_search.planning import LayerSpec, Recipe, make_space, read_space_file
from flexor_search.quantization import describe, quantize_
from flexor_search.training import evaluate, seeded, train
from flexor_search.workloads import workload

HERE = Path(__file__).parent
FAMILIES, RATES, SEEDS = ("systematic", "taps"), (8, 12), (0, 1, 2)
COLUMNS = ("family", "n_in", "seed", "bits_per_weight", "val_accuracy", "test_accuracy", "train_seconds")


def main() -> None:
    """Train what is missing, then print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    torch.set_num_threads(parser.parse_args().threads)
    task = workload("lenet5-fashion-mnist")
    data, shapes = task.load(None), describe(task.build())
    space = make_space(shapes, read_space_file(task.space), task.name)
    path = HERE / "measurements.csv"
    rows = list(csv.DictReader(path.open())) if path.exists() else []
    done = {(row["family"], int(row["n_in"]), int(row["seed"])) for row in rows}
    for seed in SEEDS:
        for n_in in RATES:
            for family in FAMILIES:
                if (family, n_in, seed) in done:
                    continue
                spec = LayerSpec(family, n_in, 20, code_seed=seed)
                allocation = space.allocation_of(dict.fromkeys(shapes.by_name, spec))
                with seeded(seed):
                    model = quantize_(task.build(), allocation)
                result = train(model, data, task.recipe, seed=seed)
                test = evaluate(model, data.test, recipe=Recipe())
                values = (
                    family,
                    n_in,
                    seed,
                    allocation.bits_per_weight,
                    result.validation.accuracy,
                    test.accuracy,
                    round(result.train_seconds, 1),
                )
                rows.append(dict(zip(COLUMNS, map(str, values), strict=True)))
                with path.open("w", newline="") as file:
                    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                    writer.writeheader()
                    writer.writerows(rows)
                print(*values, flush=True)
    for n_in in RATES:
        for family in FAMILIES:
            same = [row for row in rows if row["family"] == family and int(row["n_in"]) == n_in]
            for column in ("val_accuracy", "test_accuracy"):
                values = [100 * float(row[column]) for row in same]
                error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
                print(
                    f"{family:>10} {n_in}/20 {column}: {statistics.fmean(values):.2f} +- {error:.2f} (standard error)"
                )


if __name__ == "__main__":
    main()
