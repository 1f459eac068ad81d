"""One network with the weights of every allocation: what one training can tell of them all.

Of each layer there is one set of encrypted weights, a flat vector, and every entry of its menu decodes a beginning of
it: n_in of n_out takes the first n_in * n_slices. An identity row of a code is the weight at its own place in that
vector (weight r * n_slices + s is stored bit r of slice s), so systematic codes nest, whatever their n_in and n_out:
the identity rows of a lower rate are those of a higher one. Other families decode the same beginning by a code of their
own. A plane beyond the first has a vector of its own, entries that keep their weights share one plain weight.

Scales are a common one plus one of each entry: a rate that a step does not touch still follows the others.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from flexor_search.errors import ModelError
from flexor_search.planning import LayerShape, LayerSpec, SearchSpace
from flexor_search.planning.space import Profile
from flexor_search.quantization.convert import share_parametrization
from flexor_search.quantization.describe import batch_norm_folds, describe
from flexor_search.quantization.flexor_weight import ENCRYPTED_STD, FlexorWeight, channel_mean, spread_scale


class SharedWeight(nn.Module):
    """Decodes a layer's weight as the chosen entry of its menu says.

    Args:
        layer: shape of the layer.
        menu: what it may be stored as.
        variable: index of the choice that sets this layer, in the profile.
        normalized, pretrained, surrogate: as in FlexorWeight.

    Attributes:
        choice: index of the entry that is decoded now.
    """

    def __init__(
        self,
        layer: LayerShape,
        menu: Sequence[LayerSpec],
        variable: int,
        *,
        normalized: bool,
        pretrained: bool = False,
        surrogate: str = "flexor",
    ) -> None:
        super().__init__()
        self.layer, self.menu, self.variable, self.choice = layer, tuple(menu), variable, 0
        options = {"normalized": normalized, "pretrained": pretrained, "surrogate": surrogate}
        self.entries = nn.ModuleList(
            nn.Identity() if spec.is_kept else FlexorWeight(layer, spec, **options) for spec in menu
        )

    def forward(self, encrypted: Tensor, scales: Tensor, *kept: Tensor) -> Tensor:
        """The layer's weight.

        Args:
            encrypted: shape (planes of the entry with most, elements of the longest).
            scales: shape (1 + entries, planes, out_channels): the common ones, then what each entry adds.
            kept: the plain weight, where an entry keeps it.

        Returns:
            That of the chosen entry, in the layer's weight shape.
        """
        entry = self.entries[self.choice]
        if not isinstance(entry, FlexorWeight):
            return kept[0]
        scale = (scales[0] + scales[1 + self.choice])[: entry.spec.n_planes]
        return entry(_beginning(encrypted, entry), scale.contiguous())

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, ...]:
        """First values of all that is shared; called once, when the layer is."""
        coded = [entry for entry in self.entries if isinstance(entry, FlexorWeight)]
        kept = (weight.detach().clone(),) if len(coded) < len(self.entries) else ()
        planes = max((entry.spec.n_planes for entry in coded), default=0)
        length = max((_length(entry) for entry in coded), default=0)
        encrypted = weight.new_zeros(planes, length)
        scales = weight.new_zeros(1 + len(self.entries), planes, self.layer.out_channels)
        if not coded:
            return encrypted, scales, *kept
        longest = max(coded, key=_length)
        deepest = max(coded, key=lambda entry: (entry.spec.n_planes, _length(entry)))
        scale = deepest.right_inverse(weight)[1]
        scales[0] = scale
        if not coded[0].pretrained:
            return torch.randn_like(encrypted) * ENCRYPTED_STD, scales, *kept
        for entry in (longest, deepest):
            values = entry.right_inverse(weight)[0].transpose(1, 2).flatten(1)
            encrypted[: len(values), : values.shape[1]] = values
        for index, entry in enumerate(self.entries):
            if isinstance(entry, FlexorWeight):
                fitted = _fitted_scale(entry, weight.detach(), _beginning(encrypted, entry))
                scales[1 + index, : len(fitted)] = fitted - scale[: len(fitted)]
        return encrypted, scales, *kept

    def extra_repr(self) -> str:
        """The menu, shown when a model is printed."""
        return f"{', '.join(spec.label for spec in self.menu)}; {self.layer.n_weights} weights"


def share_(model: nn.Module, space: SearchSpace, *, pretrained: bool = False, surrogate: str = "flexor") -> nn.Module:
    """Turn a model into one that holds every allocation of a space, in place. It starts at the cheapest.

    Random first values come from torch's global generator: seed it to repeat them.

    Args:
        model: a plain model, the one that the space was made for.
        space: the menus.
        pretrained: start from the model's present weights.
        surrogate: gradient of the XOR network.

    Returns:
        The same model; `set_profile` chooses the allocation that it computes.

    Raises:
        ModelError: the space is of a model of other shapes, or offers no choice.
    """
    if reason := why_not_shared(space):
        raise ModelError(f"model: it cannot be trained as a shared network: {reason}")
    if describe(model) != space.model:
        raise ModelError("space: it was made for another model; plan this model anew")
    normalized = batch_norm_folds(model)
    modules = dict(model.named_modules(remove_duplicate=False))
    for index, variable in enumerate(space.variables):
        for name in variable.layers:
            layer, module = space.model.by_name[name], modules[name]
            weight = SharedWeight(
                *(layer, variable.menu, index),
                normalized=name in normalized,
                pretrained=pretrained,
                surrogate=surrogate,
            )
            assert isinstance(module.weight, Tensor)
            weight.to(module.weight.device)
            parametrize.register_parametrization(module, "weight", weight)
            share_parametrization(modules, layer, module, weight)
    return model


def why_not_shared(space: SearchSpace) -> str:
    """Why a shared network of a space makes no sense, "" if it does."""
    if space.size == 1:
        return "every menu has one entry, so there is a single allocation; allow more rates in --space"
    return ""


def set_profile(model: nn.Module, profile: Profile) -> None:
    """Choose the allocation that a shared network computes."""
    for module in model.modules():
        if isinstance(module, SharedWeight):
            module.choice = profile[module.variable]


def shared_weights(model: nn.Module) -> list[SharedWeight]:
    """The shared weights of a model or of a part of it, each once."""
    return [module for module in model.modules() if isinstance(module, SharedWeight)]


def _length(entry: FlexorWeight) -> int:
    return entry.spec.n_in * entry.n_slices


def _beginning(encrypted: Tensor, entry: FlexorWeight) -> Tensor:
    """What an entry decodes, as FlexorWeight has it: shape (n_planes, n_slices, n_in)."""
    first = encrypted[: entry.spec.n_planes, : _length(entry)]
    return first.view(entry.spec.n_planes, entry.spec.n_in, entry.n_slices).transpose(1, 2).contiguous()


def _fitted_scale(entry: FlexorWeight, weight: Tensor, encrypted: Tensor) -> Tensor:
    """Scales by least squares, plane after plane on what is left over, of signs that are given."""
    scales: list[Tensor] = []
    for one in torch.eye(entry.spec.n_planes, dtype=weight.dtype, device=weight.device):
        signs = entry.reference(encrypted, one[:, None].repeat(1, entry.layer.out_channels))
        scales.append(channel_mean(weight * signs, entry.layer))
        weight = weight - signs * spread_scale(scales[-1][None], entry.layer)[0]
    return torch.stack(scales)
