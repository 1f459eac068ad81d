"""scikit-learn's handwritten digits (1,797 real 8x8 images) and a small convolutional net; nothing to download."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from flexor_search.planning import Recipe
from flexor_search.workloads.data import Data, Split
from flexor_search.workloads.workload import Workload

N_VALIDATION = N_TEST = 350


def build() -> nn.Module:
    """Six convolutions with batch norm and a linear layer; the first and the last are kept by the default rule.

    The five searched layers hold multiples of 160 weights, so that codes of 20 outputs fill whole bytes.
    """
    channels = (1, 8, 20, 16, 20, 32, 40)
    net = nn.Sequential()
    for i in range(6):
        net.add_module(f"conv{i + 1}", nn.Conv2d(channels[i], channels[i + 1], 3, padding=1, bias=False))
        net.add_module(f"norm{i + 1}", nn.BatchNorm2d(channels[i + 1]))
        net.add_module(f"relu{i + 1}", nn.ReLU())
        if i in (1, 3):
            net.add_module(f"pool{i + 1}", nn.MaxPool2d(2))
    net.add_module("mean", nn.AdaptiveAvgPool2d(1))
    net.add_module("flat", nn.Flatten())
    net.add_module("linear", nn.Linear(channels[-1], 10))
    return net


def load(_data_dir: Path | None = None) -> Data:
    """A fixed split: 1,097 train, 350 validation, 350 test."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.argsort(np.random.PCG64(0).random_raw(len(digits.target)), kind="stable")  # type: ignore[attr-defined]
    images = torch.tensor(digits.images[order] * (255 / 16), dtype=torch.uint8).unsqueeze(1)  # type: ignore[attr-defined]
    labels = torch.tensor(digits.target[order], dtype=torch.int64)  # type: ignore[attr-defined]
    ends = (0, len(order) - N_VALIDATION - N_TEST, len(order) - N_TEST, len(order))
    train, validation, test = (
        Split(name, images[start:end], labels[start:end], mean=0.305, std=0.376)
        for name, start, end in zip(("train", "validation", "test"), ends, ends[1:], strict=False)
    )
    return Data(train, validation, test)


WORKLOAD = Workload(
    name="digits-convnet",
    build=build,
    load=load,
    recipe=Recipe(learning_rate=5e-3, epochs=30, batch_size=64, search_epochs=15, threads=1),
    trials=40,
    timeout_seconds=75.0,
)
