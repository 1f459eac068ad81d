"""The tensors of many models of one architecture, stacked along a new first axis, and their common forward.

The weights of all models are decoded together, by the same surrogate that one model uses: K models of P planes are
K * P planes. Codes of fewer stored bits are padded with columns of zeros: a padded input taps nothing, so it changes no
output and its gradient is exactly 0. The rest of the forward is the models' own, under `torch.func.vmap`, which turns K
convolutions into one grouped one. Written with vmap and not with a grouped layer for each kind, so that a user's own
model stacks too.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.utils import parametrize

from flexor_search.planning import Recipe
from flexor_search.quantization import (
    FlexorWeight,
    decode_signs,
    flexor_weights,
    in_weight_order,
    set_s_tanh,
    spread_scale,
    sum_of_planes,
)
from flexor_search.training.optimizer import clip_after_steps, make_optimizer

INPUT_AXIS = -1
"""Of encrypted weights (P, S, n_in) and of matrices (P, n_out, n_in): the axis that is padded."""


@dataclass
class _Layer:
    """A quantized layer of all models.

    Attributes:
        weight: of the first model: shape, planes, surrogate.
        n_inputs: stored bits per slice of each model, unpadded.
        encrypted, scale, matrix: stacked, K first.
    """

    weight: FlexorWeight
    n_inputs: list[int]
    encrypted: Tensor
    scale: Tensor
    matrix: Tensor

    def decode(self, s_tanh: Tensor) -> Tensor:
        """The weights of all models, shape (K, *weight_shape)."""
        count, planes = self.scale.shape[:2]
        encrypted, matrix = self.encrypted.flatten(0, 1), self.matrix.flatten(0, 1)
        signs = decode_signs(encrypted, matrix, s_tanh, self.weight.surrogate)
        signs = in_weight_order(signs, self.weight.slice_order)
        signs = signs[:, : self.weight.layer.n_weights].view(count, planes, *self.weight.layer.weight_shape)
        scales = spread_scale(self.scale.flatten(0, 1), self.weight.layer).unflatten(0, (count, planes))
        return sum_of_planes(signs.unbind(1), scales.unbind(1))


class Stack:
    """K models trained as one.

    Args:
        models: of one structure (`structure` is the same for all), on the device.

    Attributes:
        models: those still in the stack, in order; they get their values back when they leave.
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        self.models = list(models)
        self._s_tanh = torch.tensor(10.0, device=_device_of(models[0]))
        self._template, self._given = _plain(models[0])
        self._layers = {name: _stacked_layer(models, name) for name in flexor_weights(models[0])}
        decoded = {id(self._template.get_parameter(name)) for name in self._given.values()}
        own = {name: p for name, p in self._template.named_parameters() if id(p) not in decoded}
        self._parameters = {name: _stacked([model.get_parameter(name) for model in models]) for name in own}
        for name, parameter in own.items():
            self._parameters[name].requires_grad_(parameter.requires_grad)
        self._buffers = {
            name: _stacked([model.get_buffer(name) for model in models]) for name, _ in self._template.named_buffers()
        }
        self._optimizer: torch.optim.Optimizer | None = None

    def __len__(self) -> int:
        return len(self.models)

    def train(self, mode: bool) -> None:
        """Set the mode of all."""
        self._template.train(mode)

    def set_s_tanh(self, s_tanh: float) -> None:
        """Set the slope of the surrogate in all."""
        self._s_tanh.fill_(s_tanh)

    def parameters(self) -> dict[str, Tensor]:
        """All that is trained, K first; of a quantized layer NAME.encrypted (padded) and NAME.scale."""
        found = {name: parameter for name, parameter in self._parameters.items() if parameter.requires_grad}
        for name, layer in self._layers.items():
            found |= {f"{name}.encrypted": layer.encrypted, f"{name}.scale": layer.scale}
        return found

    def optimizer(self, recipe: Recipe, device: str) -> torch.optim.Optimizer:
        """One optimizer over the stacked parameters; it follows when models leave."""
        encrypted = [layer.encrypted for layer in self._layers.values()]
        ids = {id(tensor) for tensor in encrypted}
        others = [tensor for tensor in self.parameters().values() if id(tensor) not in ids]
        self._optimizer = make_optimizer(encrypted, others, recipe, device)
        if recipe.clip:
            clip_after_steps(
                *(self._optimizer, lambda: [layer.encrypted for layer in self._layers.values()]),
                *(self._s_tanh, recipe.clip),
            )
        return self._optimizer

    def logits(self, images: Tensor, *, shared: bool = False) -> Tensor:
        """What every model answers.

        Args:
            images: shape (K, images, ...), or (images, ...) if `shared`: the same for all.
            shared: whether they are.

        Returns:
            Shape (K, images, classes).
        """
        weights = {self._given[name]: layer.decode(self._s_tanh) for name, layer in self._layers.items()}

        def forward(parameters: dict[str, Tensor], buffers: dict[str, Tensor], batch: Tensor) -> Any:
            answer = functional_call(self._template, (parameters, buffers), (batch,))
            return answer, buffers  # one that the forward has assigned anew is another tensor now

        answer, buffers = vmap(forward, in_dims=(0, 0, None if shared else 0), randomness="different")(
            self._parameters | weights, self._buffers, images
        )
        with torch.no_grad():  # a recorded step finds its buffers where they were
            for name, buffer in buffers.items():
                if buffer.data_ptr() != self._buffers[name].data_ptr():
                    self._buffers[name].copy_(buffer)
        return answer

    @torch.no_grad()
    def write_back(self) -> None:
        """Give every model its values; padding is cut off."""
        for index, model in enumerate(self.models):
            for (_, target), layer in zip(flexor_weights(model).items(), self._layers.values(), strict=True):
                encrypted, scale = originals(model, target)
                encrypted.copy_(layer.encrypted[index].narrow(INPUT_AXIS, 0, layer.n_inputs[index]))
                scale.copy_(layer.scale[index])
            for name, parameter in self._parameters.items():
                model.get_parameter(name).copy_(parameter[index])
            for name, buffer in self._buffers.items():
                model.get_buffer(name).copy_(buffer[index])
            set_s_tanh(model, float(self._s_tanh))

    @torch.no_grad()
    def keep(self, indices: Sequence[int]) -> None:
        """Let all others leave: they get their values back, and the stack, its optimizer too, goes on without them."""
        self.write_back()
        if len(indices) == len(self):
            return
        self.models = [self.models[index] for index in indices]
        chosen = torch.tensor(list(indices), dtype=torch.int64, device=self._s_tanh.device)
        moved: dict[Tensor, Tensor] = {}

        def select(tensor: Tensor) -> Tensor:
            moved[tensor] = tensor.index_select(0, chosen).requires_grad_(tensor.requires_grad)
            return moved[tensor]

        for layer in self._layers.values():
            layer.encrypted, layer.scale = select(layer.encrypted), select(layer.scale)
            layer.matrix, layer.n_inputs = select(layer.matrix), [layer.n_inputs[index] for index in indices]
        self._parameters = {name: select(parameter) for name, parameter in self._parameters.items()}
        self._buffers = {name: select(buffer) for name, buffer in self._buffers.items()}
        if self._optimizer is not None:
            _follow(self._optimizer, moved, chosen)


def structure(model: nn.Module) -> tuple[Any, ...]:
    """What two models must share to be stacked: everything but the values, the codes and their numbers of inputs."""
    weights = flexor_weights(model)
    encrypted = {id(originals(model, weight)[0]) for weight in weights.values()}
    return (
        tuple((name, w.spec.n_planes, w.spec.n_out, w.surrogate, w.slice_order) for name, w in weights.items()),
        tuple((n, tuple(p.shape), p.requires_grad) for n, p in model.named_parameters() if id(p) not in encrypted),
        tuple(name for name, _ in model.named_modules()),
        tuple(type(module) for module in model.modules() if not parametrize.is_parametrized(module)),
    )


def originals(model: nn.Module, weight: FlexorWeight) -> tuple[nn.Parameter, nn.Parameter]:
    """Encrypted weights and scales that a parametrization of a model decodes."""
    for module in model.modules():
        if isinstance(module, parametrize.ParametrizationList) and module[0] is weight:
            return module.original0, module.original1  # type: ignore[return-value]
    raise AssertionError("the weight is of another model")


class _Given(nn.Module):
    """Stands where a layer's weight was decoded, and returns the one it is given."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.given = nn.Parameter(weight.detach())

    def forward(self) -> Tensor:
        """The weight."""
        return self.given


def _plain(model: nn.Module) -> tuple[nn.Module, dict[str, str]]:
    """A copy of a model that is given its weights, tied as they were, in the place of decoding them.

    `parametrize.remove_parametrizations` would not do: the copy and the model share their classes, which it changes.

    Returns:
        The copy; layer name -> name of its weight there.
    """
    plain = copy.deepcopy(model)
    names = {id(weight): name for name, weight in flexor_weights(plain).items()}
    given: dict[str, _Given] = {}
    found: dict[str, str] = {}
    for path, module in plain.named_modules():
        if parametrize.is_parametrized(module):
            lists: Any = module.parametrizations
            for attribute, parametrization in list(lists.items()):
                if (name := names.get(id(parametrization[0]))) is not None:
                    if name not in given:
                        given[name] = _Given(parametrization())
                        found[name] = f"{path}.".lstrip(".") + f"parametrizations.{attribute}.given"
                    lists[attribute] = given[name]
    return plain, found


def _stacked_layer(models: Sequence[nn.Module], name: str) -> _Layer:
    weights = [flexor_weights(model)[name] for model in models]
    pairs = [originals(model, weight) for model, weight in zip(models, weights, strict=True)]
    n_inputs = [weight.spec.n_in for weight in weights]
    return _Layer(
        weights[0],
        n_inputs,
        _stacked([_padded(encrypted, max(n_inputs)) for encrypted, _ in pairs]).requires_grad_(),
        _stacked([scale for _, scale in pairs]).requires_grad_(),
        _stacked([_padded(weight.matrix, max(n_inputs)) for weight in weights]),
    )


def _padded(tensor: Tensor, n_in: int) -> Tensor:
    shape = list(tensor.shape)
    shape[INPUT_AXIS] = n_in - shape[INPUT_AXIS]
    return torch.cat([tensor.detach(), tensor.new_zeros(shape)], INPUT_AXIS)


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack([tensor.detach() for tensor in tensors])


def _follow(optimizer: torch.optim.Optimizer, moved: dict[Tensor, Tensor], chosen: Tensor) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state.pop(parameter, {})
            optimizer.state[moved[parameter]] = {
                key: value.index_select(0, chosen) if getattr(value, "shape", None) == parameter.shape else value
                for key, value in state.items()
            }
        group["params"] = [moved[parameter] for parameter in group["params"]]


def _device_of(model: nn.Module) -> torch.device:
    return next(iter([*model.parameters(), *model.buffers()])).device
