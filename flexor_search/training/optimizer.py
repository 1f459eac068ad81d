"""A recipe's optimizer, over all that a model trains."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from flexor_search.planning import Recipe
from flexor_search.quantization import FlexorWeight, SharedWeight, shared_s_tanh


def optimizer_of(model: nn.Module, recipe: Recipe, device: str) -> torch.optim.Optimizer:
    """The recipe's optimizer over all parameters of a model; on a GPU one whose steps can be recorded."""
    kinds = (FlexorWeight, SharedWeight)
    quantized = [m for m in model.modules() if isinstance(m, ParametrizationList) and isinstance(m[0], kinds)]
    ids = {id(weight.original0) for weight in quantized}
    encrypted = [p for p in model.parameters() if id(p) in ids]
    others = [p for p in model.parameters() if id(p) not in ids]
    touched = {"all": [*encrypted, *others], "encrypted": encrypted, "none": []}[recipe.decay]
    free = {"all": [], "encrypted": others, "none": [*encrypted, *others]}[recipe.decay]
    groups = [{"params": touched, "weight_decay": recipe.weight_decay}, {"params": free, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    on_gpu = device.startswith("cuda")
    rate = torch.tensor(recipe.learning_rate, device=device) if on_gpu else recipe.learning_rate
    if recipe.optimizer == "sgd":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(groups, lr=rate, momentum=0.9, fused=True)
    else:
        optimizer = torch.optim.Adam(groups, lr=rate, fused=True, capturable=on_gpu)
    if recipe.clip and (s_tanh := shared_s_tanh(model)) is not None:
        _clip_after_steps(optimizer, encrypted, s_tanh, recipe.clip)
    return optimizer


def _clip_after_steps(
    optimizer: torch.optim.Optimizer, encrypted: Sequence[Tensor], s_tanh: Tensor, clip: float
) -> None:
    """Keep encrypted weights within +- clip / s_tanh after every step of an optimizer, recorded ones too."""

    @torch.no_grad()
    def after(*_: object) -> None:
        most = clip / s_tanh
        for tensor in encrypted:
            tensor.clamp_(min=-most, max=most)

    optimizer.register_step_post_hook(after)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set it in all groups; one that is a tensor stays where it is."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(learning_rate)
        else:
            group["lr"] = learning_rate
