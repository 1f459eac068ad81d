"""Systematic against random two-tap codes on LeNet-5 / Fashion-MNIST, all four layers at one rate, 3 seeds.

python studies/code-families/run.py [--threads 2]
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from train_table import Job, print_difference, print_table, train_table, use_threads

from flexor_search.planning import LayerSpec, make_space, read_space_file
from flexor_search.quantization import describe
from flexor_search.workloads import workload

FAMILIES, RATES, SEEDS = ("systematic", "taps"), (8, 12), (0, 1, 2)


def main() -> None:
    """Train what is missing, then print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    use_threads(parser.parse_args().threads)
    task = workload("lenet5-fashion-mnist")
    shapes = describe(task.build())
    space = make_space(shapes, read_space_file(task.space), task.name)
    jobs = [
        Job(f"{family} {n_in}/20", space.allocation_of(dict.fromkeys(shapes.by_name, spec)), seed)
        for seed in SEEDS
        for n_in in RATES
        for family in FAMILIES
        for spec in [LayerSpec(family, n_in, 20, code_seed=seed)]
    ]
    rows = train_table(Path(__file__).with_name("measurements.csv"), jobs, task, task.load(None))
    print_table(rows)
    for n_in in RATES:
        print_difference(rows, f"systematic {n_in}/20", f"taps {n_in}/20")


if __name__ == "__main__":
    main()
