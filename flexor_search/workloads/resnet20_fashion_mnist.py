"""ResNet-20 on Fashion-MNIST: full size for a GPU, and a small form that a processor trains in minutes.

The small form averages 2x2 pixels to 14x14 images and learns from 16,384 of them; validation and test stay whole.
"""

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from flexor_search.planning import Recipe
from flexor_search.workloads.data import Data, Split
from flexor_search.workloads.fashion_mnist import load
from flexor_search.workloads.resnet import ResNet
from flexor_search.workloads.workload import Workload

SMALL_TRAIN_IMAGES = 16_384
SMALL_STD = 0.330
"""Of the averaged pixels of the training images; their mean is that of the full ones."""


def build() -> nn.Module:
    """ResNet-20 for grey images: 18 searched convolutions of 267,264 weights."""
    return ResNet(20, in_channels=1)


def load_small(data_dir: Path | None = None) -> Data:
    """Fashion-MNIST in small: 14x14 images, 16,384 for training.

    Args:
        data_dir: as of `fashion_mnist.load`.

    Raises:
        DataError: no data to be had, or a damaged file.
    """
    data = load(data_dir)
    return Data(_pooled(data.train.take(SMALL_TRAIN_IMAGES)), _pooled(data.validation), _pooled(data.test))


def _pooled(split: Split) -> Split:
    images = functional.avg_pool2d(split.images.float(), 2).round_().to(torch.uint8)
    return Split(split.name, images, split.labels, mean=split.mean, std=SMALL_STD)


WORKLOAD = Workload(
    name="resnet20-fashion-mnist",
    build=build,
    load=load,
    recipe=Recipe(
        learning_rate=1e-2,
        epochs=8,
        batch_size=128,
        precision="auto",
        memory_format="auto",
        search_epochs=4,
        search_images=15_000,
    ),
    space="resnet20-layers",
    trials=24,
    timeout_seconds=60 * 60,
)

SMALL = replace(WORKLOAD, name="resnet20-fashion-mnist-small", load=load_small, timeout_seconds=30 * 60)
