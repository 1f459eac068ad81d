"""From a trained torch model to a packed one, and back into a plain torch model."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from flexor_search.codes import pack_planes
from flexor_search.errors import ModelError, UsageError, VerificationError
from flexor_search.packing.packed_model import PackedLayer, PackedModel, spread_over_layer
from flexor_search.packing.safetensors_file import load
from flexor_search.planning import Allocation, LayerShape
from flexor_search.planning.file_layout import file_layout, is_float, kept_tensors
from flexor_search.quantization import describe, flexor_weights
from flexor_search.workloads import WORKLOADS


def pack(model: nn.Module, allocation: Allocation, model_name: str = "") -> PackedModel:
    """Pack a trained model: codes re-coded to their rank, batch norms folded in float64, everything rounded once.

    Args:
        model: as `quantize_` left it and training changed it.
        allocation: the one it was quantized with.
        model_name: the built-in workload whose model this is, "" for a user's own.

    Returns:
        What the file will hold.

    Raises:
        VerificationError: a value is not finite in the kept dtype.
    """
    layout = file_layout(allocation, model_name)
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    weights = flexor_weights(model)
    layers: list[PackedLayer] = []
    exact_values: dict[str, NDArray[np.float64]] = {}
    for layer, spec in zip(allocation.model.layers, allocation.specs, strict=True):
        factor, bias = _folded(model, layer, state)
        if layer.stores_bias:
            exact_values[layer.tensor_name("bias")] = bias
        if spec.is_kept:
            weight = _float64(state[layer.tensor_name("weight")])
            exact_values[layer.tensor_name("weight")] = weight * spread_over_layer(factor, layer)
            continue
        encrypted = state[layer.tensor_name("parametrizations.weight.original0")]
        scale = _float64(state[layer.tensor_name("parametrizations.weight.original1")]) * factor
        bits = weights[layer.name].stored_bits(encrypted).numpy()
        planes = tuple(
            pack_planes((code.reduced().recode @ plane) % 2) for code, plane in zip(spec.codes, bits, strict=True)
        )
        codes = tuple(layout.codes[index] for index in layout.plane_codes[layer.name])
        rounded = _round(f"scale of {layer.name}", scale, allocation.kept_dtype)
        layers.append(PackedLayer(layer.name, layer.weight_shape, codes, planes, rounded, layer.transposed_groups))
    kept = {
        tensor.name: _round(
            tensor.name, exact_values.get(tensor.name, _state(state, tensor.name)), allocation.kept_dtype
        )
        for tensor in kept_tensors(allocation)
    }
    exact = {tensor.name: state[tensor.name].numpy() for tensor in layout.exact}
    folded = tuple(layer.folded_norm for layer in allocation.model.layers if layer.folded_norm)
    return PackedModel(tuple(layers), kept, exact, folded, model_name, allocation.kept_dtype)


def unpack_into(packed: PackedModel, model: nn.Module) -> nn.Module:
    """Give a plain model the decoded weights, in place; folded batch norms become identities.

    Args:
        packed: what a file held.
        model: an instance of the packed model's architecture, not quantized.

    Returns:
        The same model in evaluation mode, float32, without gradients.

    Raises:
        ModelError: the model's tensors are not those of the packed model, by name, shape, or dtype where it is exact.
    """
    shapes = describe(model)
    folded = tuple(layer.folded_norm for layer in shapes.layers if layer.folded_norm)
    if folded != packed.folded:
        raise ModelError(
            f"model: its batch norms to fold are {list(folded)}, the file folded {list(packed.folded)}; "
            "load it into the architecture that was packed"
        )
    tensors: dict[str, NDArray] = {layer.weight_name: layer.weight() for layer in packed.layers}
    tensors |= {name: value.astype(np.float32) for name, value in packed.kept.items()} | packed.exact
    modules = dict(model.named_modules(remove_duplicate=False))
    expected = {layer.tensor_name("weight"): layer.weight_shape for layer in shapes.layers}
    expected |= {layer.tensor_name("bias"): (layer.out_channels,) for layer in shapes.layers if layer.stores_bias}
    expected |= {tensor.name: tensor.shape for tensor in shapes.others}
    given = {name: tuple(value.shape) for name, value in tensors.items()}
    exact = {tensor.name: tensor.dtype for tensor in shapes.others if not is_float(tensor)}
    given_exact = {name: str(value.dtype) for name, value in packed.exact.items()}
    if (expected, exact) != (given, given_exact):
        differing = sorted(
            {name for name in expected.keys() | given.keys() if expected.get(name) != given.get(name)}
            | {name for name in exact.keys() | given_exact.keys() if exact.get(name) != given_exact.get(name)}
        )
        raise ModelError(f"model: its tensors are not those of the file; what differs: {', '.join(differing[:4])}")
    for layer in shapes.layers:
        weight = nn.Parameter(torch.from_numpy(tensors.pop(layer.tensor_name("weight"))), requires_grad=False)
        for name in (layer.tensor_name("weight"), *layer.tied_to):
            path, _, attribute = name.rpartition(".")
            setattr(modules[path], attribute, weight)
        if layer.folded_norm:
            bias = torch.from_numpy(tensors.pop(layer.tensor_name("bias")))
            modules[layer.name].register_parameter("bias", nn.Parameter(bias, requires_grad=False))
            path, _, attribute = layer.folded_norm.rpartition(".")
            setattr(modules[path], attribute, nn.Identity())
        elif layer.has_bias:  # in place: other modules may share it
            modules[layer.name].bias.data = torch.from_numpy(tensors.pop(layer.tensor_name("bias")))
    state = model.state_dict()
    with torch.no_grad():
        for name, value in tensors.items():
            state[name].copy_(torch.from_numpy(value.copy()))
    return model.eval().requires_grad_(False)


def load_packed(path: str | Path, model: nn.Module | None = None) -> nn.Module:
    """Load a packed file as an evaluation-ready module.

    Args:
        path: of a packed safetensors file.
        model: an instance of its architecture; not needed for a built-in workload's model.

    Returns:
        The module with decoded weights, in evaluation mode.

    Raises:
        FormatError: the file is damaged, from a newer version, or no packed file.
        UsageError: the file names no built-in workload and no model was given.
        ModelError: the model is of another architecture.
    """
    packed = load(Path(path))
    if model is None:
        if packed.model_name not in WORKLOADS:
            raise UsageError(f"model: {path} holds no built-in workload's model; give an instance with model=")
        model = WORKLOADS[packed.model_name].build()
    return unpack_into(packed, model)


def _folded(
    model: nn.Module, layer: LayerShape, state: dict[str, Tensor]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What folding multiplies a layer's output channels with, and the bias that it leaves."""
    name = layer.tensor_name("bias")
    bias = _float64(state[name]) if layer.has_bias else np.zeros(layer.out_channels)
    if not layer.folded_norm:
        return np.ones(layer.out_channels), bias
    norm = model.get_submodule(layer.folded_norm)
    assert isinstance(norm, _BatchNorm)
    values = {key: _float64(state[f"{layer.folded_norm}.{key}"]) for key in ("running_mean", "running_var")}
    gamma = _float64(norm.weight) if norm.weight is not None else np.ones(layer.out_channels)
    beta = _float64(norm.bias) if norm.bias is not None else np.zeros(layer.out_channels)
    factor = gamma / np.sqrt(values["running_var"] + norm.eps)
    return factor, (bias - values["running_mean"]) * factor + beta


def _float64(tensor: Tensor) -> NDArray[np.float64]:
    return tensor.detach().cpu().to(torch.float64).numpy()


def _state(state: dict[str, Tensor], name: str) -> NDArray[np.float64]:
    return _float64(state[name]) if name in state else np.zeros(0)


def _round(name: str, values: NDArray[np.float64], kept_dtype: str) -> NDArray[np.floating]:
    with np.errstate(over="ignore"):
        rounded = values.astype(kept_dtype)
    if not np.isfinite(rounded).all():
        raise VerificationError(
            f"packing: {name} holds a value that {kept_dtype} cannot; "
            + ("train again" if kept_dtype == "float32" else "set kept_dtype to float32 in the space")
        )
    return rounded
