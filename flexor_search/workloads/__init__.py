"""A model, its data and its recipe, one file each. A new workload is one file here and one line in the table."""

from flexor_search.errors import UsageError, nearest
from flexor_search.workloads import (
    digits_convnet,
    lenet5_fashion_mnist,
    lenet5_mnist,
    resnet18_imagenet,
    resnet20_fashion_mnist,
    resnet_cifar10,
)
from flexor_search.workloads.data import Data, Split, user_data
from flexor_search.workloads.given import Given, given_name, kept_values
from flexor_search.workloads.image_files import FileSplit
from flexor_search.workloads.own import NO_OWN, Own, name_of
from flexor_search.workloads.user import user_own, user_workload
from flexor_search.workloads.workload import Workload

WORKLOADS: dict[str, Workload] = {
    "digits-convnet": digits_convnet.WORKLOAD,
    "lenet5-fashion-mnist": lenet5_fashion_mnist.WORKLOAD,
    "lenet5-mnist": lenet5_mnist.WORKLOAD,
    "resnet18-imagenet": resnet18_imagenet.WORKLOAD,
    "resnet20-cifar10": resnet_cifar10.RESNET20,
    "resnet20-fashion-mnist": resnet20_fashion_mnist.WORKLOAD,
    "resnet20-fashion-mnist-small": resnet20_fashion_mnist.SMALL,
    "resnet32-cifar10": resnet_cifar10.RESNET32,
}
DEFAULT_WORKLOAD = "digits-convnet"


def workload(name: str) -> Workload:
    """A built-in workload by name.

    Raises:
        UsageError: no such workload; the nearest name is suggested.
    """
    if name not in WORKLOADS:
        raise UsageError(f"workload: {name!r} is not built in; {nearest(name, WORKLOADS)}")
    return WORKLOADS[name]


__all__ = [
    "DEFAULT_WORKLOAD",
    "NO_OWN",
    "WORKLOADS",
    "Data",
    "FileSplit",
    "Given",
    "Own",
    "Split",
    "Workload",
    "given_name",
    "kept_values",
    "name_of",
    "user_data",
    "user_own",
    "user_workload",
    "workload",
]
