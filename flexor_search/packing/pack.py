"""From a trained torch model to a packed one."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from flexor_search.codes import pack_planes
from flexor_search.errors import ModelError, VerificationError
from flexor_search.packing.packed_model import PackedLayer, PackedModel, spread_over_layer
from flexor_search.planning import Allocation, LayerShape
from flexor_search.planning.file_layout import file_layout, kept_tensors
from flexor_search.quantization import flexor_weights


def pack(model: nn.Module, allocation: Allocation, model_name: str = "") -> PackedModel:
    """Pack a trained model: codes re-coded to their rank, batch norms folded in float64, everything rounded once.

    Args:
        model: as `quantize_` left it and training changed it.
        allocation: the one it was quantized with.
        model_name: the built-in workload whose model this is, "" for a user's own.

    Returns:
        What the file will hold.

    Raises:
        VerificationError: a value is not finite in the kept dtype, or slices hold consecutive weights, as a study may
            ask for and no file can.
    """
    layout = file_layout(allocation, model_name)
    # As the file has them: a model trained in channels_last would give its kept weights in that order.
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    weights = flexor_weights(model)
    for name, weight in weights.items():
        if weight.slice_order != "planes":
            raise VerificationError(f'packing: {name} has slice_order {weight.slice_order!r}; the format has "planes"')
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


def check_storable(model: nn.Module, allocation: Allocation) -> None:
    """Refuse a model with constants that no packed file of it can hold, before it is trained.

    Args:
        model: plain.
        allocation: for the kept dtype, and what is kept.

    Raises:
        ModelError: names the tensor.
    """
    state = model.state_dict()
    for tensor in kept_tensors(allocation):
        values = _state(state, tensor.name)
        if not _is_held(values, "float32"):
            raise ModelError(
                f"model: {tensor.name} holds a value that no float32 of a packed file can; register it with "
                "persistent=False"
            )
        if not _is_held(values, allocation.kept_dtype):
            raise ModelError(
                f"model: {tensor.name} holds a value that {allocation.kept_dtype} cannot; set kept_dtype to float32 in "
                "the space"
            )


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


def _is_held(values: NDArray[np.float64], kept_dtype: str) -> bool:
    with np.errstate(over="ignore"):
        return bool(np.isfinite(values.astype(kept_dtype)).all())


def _round(name: str, values: NDArray[np.float64], kept_dtype: str) -> NDArray[np.floating]:
    with np.errstate(over="ignore"):
        rounded = values.astype(kept_dtype)
    if not np.isfinite(rounded).all():
        raise VerificationError(
            f"packing: {name} holds a value that {kept_dtype} cannot; "
            + ("train again" if kept_dtype == "float32" else "set kept_dtype to float32 in the space")
        )
    return rounded
