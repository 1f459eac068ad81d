"""From a packed model to a plain torch module, ready for evaluation."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils import parametrize

from flexor_search.errors import ModelError, UsageError
from flexor_search.packing.folder import read_config, weights_path
from flexor_search.packing.packed_model import PackedModel
from flexor_search.packing.packed_weight import PackedWeight
from flexor_search.packing.safetensors_file import load
from flexor_search.planning import LayerShape, ModelShape
from flexor_search.planning.file_layout import is_float
from flexor_search.quantization import check_float32, describe, share_parametrization
from flexor_search.workloads import WORKLOADS


def unpack_into(packed: PackedModel, model: nn.Module, *, keep_packed: bool = False) -> nn.Module:
    """Give a plain model the packed weights, in place; folded batch norms become identities.

    Args:
        packed: what a file held.
        model: an instance of the packed model's architecture, not quantized, in float32; moved to the CPU.
        keep_packed: hold the weights packed in memory and decode them whenever they are used, instead of once, here.

    Returns:
        The same model in evaluation mode, float32, without gradients.

    Raises:
        ModelError: it is not in float32, or its tensors are not those of the packed model, by name, shape, or dtype
            where it is exact.
    """
    shapes = describe(model.cpu())
    tensors: dict[str, NDArray] = {name: value.astype(np.float32) for name, value in packed.kept.items()}
    tensors |= packed.exact
    _check_architecture(packed, shapes, {name: value.shape for name, value in tensors.items()})
    quantized = {layer.name: layer for layer in packed.layers}
    modules = dict(model.named_modules(remove_duplicate=False))
    check_float32(model)
    for layer in shapes.layers:
        _set_bias(modules, layer, tensors)
        if keep_packed and layer.name in quantized:
            module, weight = modules[layer.name], PackedWeight(quantized[layer.name], layer)
            module.weight.requires_grad_(False)  # type: ignore[operator]
            parametrize.register_parametrization(module, "weight", weight)
            share_parametrization(modules, layer, module, weight)
            weight.release()
            continue
        stored = quantized.get(layer.name)
        value = stored.weight() if stored else tensors.pop(layer.tensor_name("weight"))
        tied = nn.Parameter(torch.from_numpy(value), requires_grad=False)
        for name in (layer.tensor_name("weight"), *layer.tied_to):
            _set(modules, name, tied)
    state = model.state_dict()
    with torch.no_grad():
        for name, value in tensors.items():
            state[name].copy_(torch.from_numpy(value.copy()))
    return model.eval().requires_grad_(False)


def load_packed(
    path: str | Path, model: nn.Module | Callable[..., nn.Module] | None = None, *, keep_packed: bool = False
) -> nn.Module:
    """Load a packed model as an evaluation-ready module.

    Args:
        path: of a packed safetensors file, or of a folder with model.safetensors and config.json.
        model: an instance of its architecture, or what makes one: a class or function, called with what the folder's
            config.json holds. Not needed for a built-in workload's model.
        keep_packed: hold the weights packed in memory and decode them in every forward pass. Memory stays that of the
            file; each pass costs the decoding.

    Returns:
        The module in evaluation mode, without gradients.

    Raises:
        FormatError: the file is damaged, from a newer version, or no packed file.
        UsageError: the file names no built-in workload and no model was given.
        ModelError: the model is of another architecture.
    """
    path = Path(path)
    packed = load(weights_path(path))
    if model is None:
        if packed.model_name not in WORKLOADS:
            raise UsageError(f"model: {path} holds no built-in workload's model; give an instance with model=")
        model = WORKLOADS[packed.model_name].build()
    elif not isinstance(model, nn.Module):
        model = _made(model, read_config(path) if path.is_dir() else {})
    return unpack_into(packed, model, keep_packed=keep_packed)


def _made(make: Callable[..., nn.Module], arguments: dict) -> nn.Module:
    try:
        made = make(**arguments)
    except Exception as error:  # the user's code runs here
        raise ModelError(
            f"model: {make!r} could not be made with {arguments}: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(made, nn.Module):
        raise ModelError(f"model: must be a torch.nn.Module or make one, {make!r} made a {type(made).__name__}")
    return made


def _check_architecture(packed: PackedModel, shapes: ModelShape, given: dict[str, tuple[int, ...]]) -> None:
    folded = tuple(layer.folded_norm for layer in shapes.layers if layer.folded_norm)
    if folded != packed.folded:
        raise ModelError(
            f"model: its batch norms to fold are {list(folded)}, the file folded {list(packed.folded)}; "
            "load it into the architecture that was packed"
        )
    found: dict[str, tuple[tuple[int, ...], int | str]] = {name: (shape, 0) for name, shape in given.items()}
    found |= {name: (value.shape, str(value.dtype)) for name, value in packed.exact.items()}  # copying would convert
    found |= {layer.weight_name: (layer.weight_shape, layer.transposed_groups) for layer in packed.layers}
    expected: dict[str, tuple[tuple[int, ...], int | str]] = {
        tensor.name: (tensor.shape, 0 if is_float(tensor) else tensor.dtype) for tensor in shapes.others
    }
    for layer in shapes.layers:
        name = layer.tensor_name("weight")
        expected[name] = (layer.weight_shape, 0 if name in given else layer.transposed_groups)
        if layer.stores_bias:
            expected[layer.tensor_name("bias")] = ((layer.out_channels,), 0)
    if expected != found:
        differing = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise ModelError(f"model: its tensors are not those of the file; what differs: {', '.join(differing[:4])}")


def _set_bias(modules: dict[str, nn.Module], layer: LayerShape, tensors: dict[str, NDArray]) -> None:
    """Give a layer its bias, and take its folded batch norm out of the way."""
    if layer.folded_norm:
        bias = torch.from_numpy(tensors.pop(layer.tensor_name("bias")))
        modules[layer.name].register_parameter("bias", nn.Parameter(bias, requires_grad=False))
        _set(modules, layer.folded_norm, nn.Identity())
    elif layer.has_bias:  # in place: other modules may share it
        modules[layer.name].bias.data = torch.from_numpy(tensors.pop(layer.tensor_name("bias")))


def _set(modules: dict[str, nn.Module], name: str, value: nn.Module | nn.Parameter) -> None:
    path, _, attribute = name.rpartition(".")
    setattr(modules[path], attribute, value)
