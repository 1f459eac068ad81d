"""torchvision's ResNet-18 on ImageNet, or on any folder of images laid out like it with at most 1,000 classes."""

from torch import nn

from flexor_search.planning import Recipe
from flexor_search.workloads.image_folder import load
from flexor_search.workloads.workload import Workload


def build() -> nn.Module:
    """19 searched convolutions of 11,157,504 weights, shortcuts included; the first and the last layer are kept."""
    from torchvision.models import resnet18

    return resnet18(weights=None)


WORKLOAD = Workload(
    name="resnet18-imagenet",
    build=build,
    load=load,
    # The paper's schedule was not found; this is what is said of it at second hand, unsure.
    recipe=Recipe(
        optimizer="sgd",
        learning_rate=0.1,
        schedule="halve",
        warmup=10 / 150,
        halve_at=(70 / 150, 100 / 150, 130 / 150),
        epochs=150,
        batch_size=256,
        weight_decay=1e-5,
        augmentation="resized-crop-flip",
        precision="auto",
        memory_format="auto",
        search_epochs=10,
        search_images=130_000,
    ),
    space="resnet18-stages",
    trials=16,
    timeout_seconds=7 * 24 * 3600,
)
