"""ResNet-20 and ResNet-32 on CIFAR-10, by the paper's short recipe; its tables are made by a longer one."""

from functools import partial

from flexor_search.planning import Recipe
from flexor_search.workloads.cifar10 import load
from flexor_search.workloads.resnet import ResNet
from flexor_search.workloads.workload import Workload

SHORT_RECIPE = Recipe(
    optimizer="sgd",
    learning_rate=0.1,
    schedule="halve",
    warmup=0.0,
    halve_at=(0.75, 0.875),  # epochs 150 and 175 of 200
    epochs=200,
    batch_size=128,
    weight_decay=1e-5,
    s_tanh=10.0,
    s_tanh_start=10.0,
    s_tanh_doubles=True,
    augmentation="crop-flip",
    precision="auto",
    memory_format="auto",
    search_epochs=20,
)
"""FleXOR, section 4.2: learning rate halved and s_tanh doubled at epochs 150 and 175."""


def _workload(depth: int) -> Workload:
    return Workload(
        name=f"resnet{depth}-cifar10",
        build=partial(ResNet, depth),
        load=load,
        recipe=SHORT_RECIPE,
        space=f"resnet{depth}-stages",
        trials=24,
        timeout_seconds=12 * 3600,
    )


RESNET20, RESNET32 = _workload(20), _workload(32)
