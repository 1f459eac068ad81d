"""The paper's LeNet-5 (32C5-MP2-64C5-MP2-512FC-10), without batch norm, on MNIST."""

from collections import OrderedDict

from torch import nn

from flexor_search.planning import Recipe
from flexor_search.workloads.mnist import load
from flexor_search.workloads.workload import Workload


def build() -> nn.Module:
    """Four layers, all searched: 800, 51,200, 1,605,632 and 5,120 weights."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 32, 5, padding=2),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(32, 64, 5, padding=2),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flat=nn.Flatten(),
            fc1=nn.Linear(64 * 7 * 7, 512),
            relu3=nn.ReLU(),
            fc2=nn.Linear(512, 10),
        )
    )


WORKLOAD = Workload(
    name="lenet5-mnist",
    build=build,
    load=load,
    # FleXOR, section 4.1; how many epochs it does not say.
    recipe=Recipe(
        learning_rate=1e-4,
        schedule="constant",
        warmup=0.0,
        epochs=20,
        batch_size=50,
        s_tanh=100.0,
        s_tanh_start=100.0,
        precision="auto",
        memory_format="auto",
        search_epochs=4,
        search_images=15_000,
    ),
    space="lenet5",
    trials=24,
    timeout_seconds=60 * 60,
)
