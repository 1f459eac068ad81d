"""Which models can train as one stack, and why another cannot."""

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name

from flexor_search.training.score import seeded
from flexor_search.training.stack import Stack, structure

_SAME_LOGITS = 1e-3
"""Of the largest logit: the most by which those of a stacked model may differ; rounding differs by 1e-6."""
_PROBE_IMAGES = 4


def stackable_groups(models: Sequence[nn.Module]) -> list[list[int]]:
    """Indices of the models that can share a stack: same layers quantized, same planes and n_out; n_in may differ."""
    found: dict[Any, list[int]] = {}
    for index, model in enumerate(models):
        found.setdefault(structure(model), []).append(index)
    return list(found.values())


def why_not_stackable(model: nn.Module, images: Tensor) -> str:
    """Why a model cannot be stacked, naming the operator that prevents it; "" if it can.

    It is tried: two copies answer a few images stacked and alone, and learn from them once. The model is not changed.

    Args:
        model: quantized or not.
        images: a few, as the model takes them.
    """
    device = next(iter(model.parameters()), images).device
    images = images[:_PROBE_IMAGES].to(device)
    if len(images) == 1:
        images = torch.cat([images, images])
    copies = [copy.deepcopy(model) for _ in range(2)]
    both, last = torch.stack([images, images.flip(0)]), _LastFunction()
    try:
        with seeded(0), last, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stack = Stack(copies)
            stack.train(True)
            stack.logits(both).float().logsumexp(2).sum().backward()
            stack.train(False)
            with torch.no_grad():
                together = stack.logits(both)
            stack.write_back()
    except Exception as error:  # the user's own forward runs here
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return f"{last.name}: {first}"
    with torch.no_grad():
        alone = torch.stack([model(batch) for model, batch in zip([c.eval() for c in copies], both, strict=True)])
    difference = float((alone - together).abs().max() / alone.abs().max().clamp(min=1e-6))
    if not difference < _SAME_LOGITS and bool(torch.isfinite(alone).all()):
        return f"its logits change by {difference:.1e} of the largest when it is stacked"
    return ""


class _LastFunction(TorchFunctionMode):
    """Remembers the last torch function that was called: the one that raised, if one did."""

    name = "the forward"

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.name = resolve_name(func) or getattr(func, "__name__", str(func))
        return func(*args, **(kwargs or {}))
