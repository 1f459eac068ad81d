"""The plain shapes of a torch model, for planning: its quantizable layers, the batch norms they fold, all the rest."""

from collections import Counter

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.parameter import is_lazy

from flexor_search.errors import ModelError
from flexor_search.planning import LayerShape, ModelShape, TensorShape
from flexor_search.planning.file_layout import DTYPE_BYTES

QUANTIZABLE: tuple[type[nn.Module], ...] = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Linear,
)


def describe(model: nn.Module) -> ModelShape:
    """List what a packed file of the model has to hold.

    A weight that several modules share is one layer, counted once. A batch norm is folded if the traced graph shows it
    to be the only user of one layer's output; a model that cannot be traced keeps its batch norms.

    Args:
        model: any module that has not been quantized yet.

    Returns:
        Layers in the order of `model.named_modules()`.

    Raises:
        ModelError: a lazy module that has seen no input, a tensor of a dtype that no file stores, or a model already
            quantized.

    Example:
        >>> describe(nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))).layers[1].weight_shape
        (2, 4)
    """
    state = model.state_dict(keep_vars=True)
    _check_state(state)
    names_of: dict[int, list[str]] = {}
    for name, tensor in state.items():
        names_of.setdefault(id(tensor), []).append(name)
    folds = batch_norm_folds(model)
    layers, seen = [], set()
    for name, module in model.named_modules():
        if not isinstance(module, QUANTIZABLE) or id(module.weight) in seen:
            continue
        seen.add(id(module.weight))
        if id(module.weight) not in names_of:
            raise ModelError(
                f"model: the weight of {name or 'the model'} is computed from other tensors (pruning, spectral norm, "
                "weight norm); make it permanent first"
            )
        own = f"{name}.weight" if name else "weight"
        tied_to = tuple(other for other in names_of[id(module.weight)] if other != own)
        layers.append(_layer_shape(name, module, "" if tied_to else folds.get(name, ""), tied_to))
    others, folded = _beside_layers(state, layers)
    return ModelShape(tuple(layers), others, _float_elements(model), folded)


def batch_norm_folds(model: nn.Module) -> dict[str, str]:
    """Layers whose output goes to one batch norm and nowhere else, in the graph traced in evaluation mode.

    Returns:
        Layer name -> name of its batch norm; empty if the model cannot be traced symbolically.
    """
    was_training = {module: module.training for module in model.modules()}
    try:
        model.eval()
        graph = fx.Tracer().trace(model)
    except Exception:  # any user code may run here; not traceable is not an error, its batch norms are kept
        return {}
    finally:
        for module, training in was_training.items():
            module.training = training
    modules = dict(model.named_modules(remove_duplicate=False))
    names = Counter(id(module) for module in modules.values())
    calls = Counter(id(modules[str(node.target)]) for node in graph.nodes if node.op == "call_module")
    # A tensor that the forward reads by itself would change its value there too.
    calls.update(id(modules[str(node.target).rpartition(".")[0]]) for node in graph.nodes if node.op == "get_attr")
    folds = {}
    for node in graph.nodes:
        if node.op != "call_module" or len(node.users) != 1:
            continue
        (user,) = node.users
        layer, norm = modules[str(node.target)], modules.get(str(user.target)) if user.op == "call_module" else None
        if (
            isinstance(layer, QUANTIZABLE)
            and isinstance(norm, _BatchNorm)
            and norm.running_mean is not None
            and norm.num_features == out_channels(layer)
            and calls[id(layer)] == calls[id(norm)] == names[id(norm)] == 1
        ):
            folds[str(node.target)] = str(user.target)
    return folds


def check_float32(model: nn.Module) -> None:
    """Refuse a model with a layer of another dtype.

    Raises:
        ModelError: names the layer.
    """
    for name, module in model.named_modules():
        if isinstance(module, QUANTIZABLE) and module.weight.dtype != torch.float32:
            raise ModelError(
                f"model: layer {name!r} is of {module.weight.dtype}; give an instance in float32, and convert what is "
                "returned"
            )


def out_channels(layer: nn.Module) -> int:
    """Output channels or features of a quantizable layer."""
    return layer.out_features if isinstance(layer, nn.Linear) else int(layer.out_channels)  # type: ignore[arg-type]


def _check_state(state: dict[str, Tensor]) -> None:
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise ModelError(f"model: {name} is state that is no tensor, which a packed file cannot hold; leave it out")
        if is_lazy(tensor):
            raise ModelError(f"model: {name} has no shape yet (lazy module); run one batch through the model first")
        if ".parametrizations." in f".{name}":
            raise ModelError(f"model: {name} is parametrized already; give a plain model that was not quantized")
        dtype = str(tensor.dtype).removeprefix("torch.")
        if dtype not in DTYPE_BYTES:
            raise ModelError(f"model: {name} has dtype {dtype}, which a packed file cannot hold; convert it first")


def _layer_shape(name: str, module: nn.Module, norm: str, tied_to: tuple[str, ...]) -> LayerShape:
    transposed = isinstance(module, _ConvTransposeNd)
    assert isinstance(module, _ConvNd | nn.Linear)
    kind = next(base.__name__ for base in type(module).__mro__ if base in QUANTIZABLE)
    return LayerShape(
        name=name,
        kind=kind,
        weight_shape=tuple(module.weight.shape),
        out_channels=out_channels(module),
        has_bias=module.bias is not None,
        transposed_groups=module.groups if transposed else 0,
        folded_norm=norm,
        tied_to=tied_to,
    )


def _beside_layers(
    state: dict[str, Tensor], layers: list[LayerShape]
) -> tuple[tuple[TensorShape, ...], tuple[TensorShape, ...]]:
    """Tensors of the state that belong to no layer, shared ones once: those a file stores, those of folded norms."""
    taken = {layer.tensor_name(part) for layer in layers for part in ("weight", "bias")}
    seen = {id(state[name]) for name in taken if name in state}
    prefixes = tuple(f"{layer.folded_norm}." for layer in layers if layer.folded_norm)
    others, folded = [], []
    for name, tensor in state.items():
        if id(tensor) in seen:
            continue
        shape = TensorShape(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        if prefixes and name.startswith(prefixes):
            folded.append(shape)
        else:
            seen.add(id(tensor))
            others.append(shape)
    return tuple(others), tuple(folded)


def _float_elements(model: nn.Module) -> int:
    tensors: dict[int, Tensor] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return sum(torch.numel(tensor) for tensor in tensors.values())
