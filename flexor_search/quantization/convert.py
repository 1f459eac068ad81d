"""Quantize the layers of a model in place, as an allocation says."""

from torch import Tensor, nn
from torch.nn.utils import parametrize

from flexor_search.errors import ModelError
from flexor_search.planning import Allocation, LayerShape
from flexor_search.quantization.describe import QUANTIZABLE, batch_norm_folds, describe
from flexor_search.quantization.flexor_weight import FlexorWeight


def quantize_(
    model: nn.Module, allocation: Allocation, *, pretrained: bool = False, surrogate: str = "flexor"
) -> nn.Module:
    """Replace the weights of a model by encrypted ones, in place.

    Random first values come from torch's global generator: seed it to repeat them.

    Args:
        model: a plain model, the one that `allocation.model` describes.
        allocation: what each layer is stored as; kept layers stay as they are.
        pretrained: start from the model's present weights: signs as near as each code allows, scales by least squares.
        surrogate: gradient of the XOR network: "flexor", or the ablations "ste" and "analog".

    Returns:
        The same model.

    Raises:
        ModelError: the allocation was made for a model of other shapes.

    Example:
        >>> from flexor_search.planning import LayerSpec
        >>> model = nn.Sequential(nn.Linear(40, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> _ = quantize_(model, Allocation.of(describe(model), {"0": LayerSpec(n_in=8, n_out=20)}))
        >>> sorted(model[0].weight.abs().unique().shape)
        [1]
    """
    shapes = describe(model)
    if shapes != allocation.model:
        ours = {(layer.name, layer.weight_shape) for layer in shapes.layers}
        theirs = {(layer.name, layer.weight_shape) for layer in allocation.model.layers}
        differing = sorted(f"{name}{list(shape)}" for name, shape in ours ^ theirs)[:4]
        what = ", ".join(differing) if differing else "biases, batch norms or other tensors"
        raise ModelError(f"allocation: it was made for another model; what differs: {what}. Plan this model anew")
    normalized = batch_norm_folds(model)
    modules = dict(model.named_modules(remove_duplicate=False))
    for layer, spec in zip(shapes.layers, allocation.specs, strict=True):
        if spec.is_kept:
            continue
        module = modules[layer.name]
        weight = FlexorWeight(
            layer, spec, normalized=layer.name in normalized, pretrained=pretrained, surrogate=surrogate
        )
        assert isinstance(module.weight, Tensor)
        weight.to(module.weight.device)
        parametrize.register_parametrization(module, "weight", weight)
        share_parametrization(modules, layer, module, weight)
    return model


def flexor_weights(model: nn.Module) -> dict[str, FlexorWeight]:
    """The quantized layers of a model, by the names that `describe` gave them; shared weights once.

    Its encrypted weights and scales are `module.parametrizations.weight.original0` and `.original1`.
    """
    found: dict[int, tuple[str, FlexorWeight]] = {}
    for name, module in model.named_modules():
        if isinstance(module, QUANTIZABLE) and parametrize.is_parametrized(module, "weight"):
            weight = module.parametrizations.weight[0]  # type: ignore[union-attr, index]
            if isinstance(weight, FlexorWeight):
                found.setdefault(id(weight), (name, weight))
    return dict(found.values())


def set_s_tanh(model: nn.Module, s_tanh: float) -> None:
    """Set the slope of the surrogate in every quantized layer."""
    for module in model.modules():
        if isinstance(module, FlexorWeight):
            module.s_tanh.fill_(s_tanh)


def shared_s_tanh(model: nn.Module) -> Tensor | None:
    """Let every quantized layer read its slope from one tensor, to be filled at once; returns it, None without layers.

    Moving the model to another device parts them again.
    """
    weights = [module for module in model.modules() if isinstance(module, FlexorWeight)]
    if not weights:
        return None
    shared = weights[0].s_tanh
    for weight in weights:
        weight.s_tanh = shared
    return shared


def share_parametrization(
    modules: dict[str, nn.Module], layer: LayerShape, module: nn.Module, weight: nn.Module
) -> None:
    """Give every other module that shares a layer's weight the same parametrization and the same originals.

    Args:
        modules: all of the model's, by name, the same under each of its names.
        layer: whose weight it is.
        module: the one that was parametrized first.
        weight: its parametrization.
    """
    for name in layer.tied_to:
        path, _, attribute = name.rpartition(".")
        other = modules[path]
        if other is module or parametrize.is_parametrized(other, attribute):
            continue
        parametrize.register_parametrization(other, attribute, weight)
        shared = other.parametrizations[attribute]  # type: ignore[index]
        assert isinstance(shared, parametrize.ParametrizationList)
        for index in range(shared.ntensors):
            setattr(shared, f"original{index}", getattr(module.parametrizations.weight, f"original{index}"))  # type: ignore[union-attr]
