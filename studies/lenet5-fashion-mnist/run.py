"""The searched allocation against uniform 0.4 on LeNet-5 / Fashion-MNIST, 5 fresh seeds each, the same recipe.

flexor-search --budget 0.42bpw --workload lenet5-fashion-mnist --strategy direct --out runs/lenet5
cp runs/lenet5/allocation-0.42bpw.json runs/lenet5/front.csv runs/lenet5/summary.json studies/lenet5-fashion-mnist/
python studies/lenet5-fashion-mnist/run.py
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from train_table import Job, print_difference, print_table, train_table

from flexor_search.planning import Allocation, Budget, make_space, nearest_uniform, read_space_file
from flexor_search.quantization import describe
from flexor_search.workloads import workload

HERE, SEEDS = Path(__file__).parent, (101, 102, 103, 104, 105)


def main() -> None:
    """Train what is missing, then print the table and the difference."""
    task = workload("lenet5-fashion-mnist")
    space = make_space(describe(task.build()), read_space_file(task.space), task.name)
    chosen = Allocation.from_json(space.model, json.loads((HERE / "allocation-0.42bpw.json").read_text()))
    uniform = nearest_uniform(space, Budget.parse("0.4bpw"))
    assert uniform is not None
    jobs = [
        Job(name, allocation, seed)
        for seed in SEEDS
        for name, allocation in (("chosen", chosen), ("uniform 0.4", uniform))
    ]
    rows = train_table(HERE / "measurements.csv", jobs, task, task.load(None))
    print_table(rows)
    print_difference(rows, "chosen", "uniform 0.4")


if __name__ == "__main__":
    main()
