"""describe: the plain shapes of a model, and which models are refused."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm

from flexor_search.errors import ModelError
from flexor_search.planning import LayerShape, LayerSpec, TensorShape
from flexor_search.quantization import QUANTIZABLE, describe

from .models import LAYERS, quantize_all


class WithBuffers(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, bias=False)
        self.norm = nn.LayerNorm(4)
        self.register_buffer("steps", torch.tensor(3))
        self.register_buffer("mask", torch.ones(2, 3, dtype=torch.bool))
        self.register_buffer("cache", torch.ones(100), persistent=False)
        self.gain = nn.Parameter(torch.ones(5, dtype=torch.float64))


def test_layers_and_others():
    shape = describe(WithBuffers())
    assert shape.layers == (LayerShape("conv", "Conv2d", (4, 1, 3, 3), 4, False),)
    assert set(shape.others) == {
        TensorShape("norm.weight", (4,)),
        TensorShape("norm.bias", (4,)),
        TensorShape("steps", (), "int64"),
        TensorShape("mask", (2, 3), "bool"),
        TensorShape("gain", (5,), "float64"),
    }
    assert shape.float_elements == 36 + 4 + 4 + 1 + 6 + 5 + 100


@pytest.mark.parametrize("name", sorted(LAYERS))
@pytest.mark.parametrize("bias", [True, False])
def test_every_kind_of_layer(name, bias):
    layer = LAYERS[name][0](bias)
    (shape,) = describe(layer).layers
    assert shape.name == ""
    assert shape.kind == type(layer).__name__
    assert shape.weight_shape == tuple(layer.weight.shape)
    assert shape.out_channels == (layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)
    assert shape.has_bias == bias
    assert shape.transposed_groups == (layer.groups if name.startswith("transposed") else 0)
    assert describe(nn.Sequential(layer)).layers[0].tensor_name("weight") == "0.weight"


def test_a_subclass_counts_as_its_torch_layer():
    class Mine(nn.Conv2d):
        """A convolution under another name."""

    assert describe(Mine(1, 2, 3)).layers[0].kind == "Conv2d"
    assert {kind.__name__ for kind in QUANTIZABLE} >= {"Conv1d", "ConvTranspose3d", "Linear"}


def test_layers_come_in_the_models_order():
    model = nn.ModuleDict({"z": nn.Linear(2, 2), "a": nn.Sequential(nn.ReLU(), nn.Conv1d(1, 1, 1))})
    assert [layer.name for layer in describe(model).layers] == ["z", "a.1"]


def test_describing_changes_nothing():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout()).train()
    model[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    describe(model)
    assert [module.training for module in model] == [True, False, True]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_lazy_module_must_have_seen_its_input():
    model = nn.Sequential(nn.LazyLinear(4))
    with pytest.raises(ModelError, match=r"lazy module.*run one batch"):
        describe(model)
    model(torch.ones(1, 3))
    assert describe(model).layers[0].weight_shape == (4, 3)


def test_a_quantized_model_is_refused():
    with pytest.raises(ModelError, match="parametrized already"):
        describe(quantize_all(nn.Sequential(nn.Linear(4, 4)), LayerSpec(n_in=4)))


@pytest.mark.parametrize("name", ["", "0"])
@pytest.mark.parametrize(
    "make", [spectral_norm, lambda layer: prune.l1_unstructured(layer, "weight", 0.5)], ids=["spectral", "pruned"]
)
def test_a_weight_that_a_hook_computes_is_refused(make, name):
    layer = make(nn.Linear(4, 4))
    with pytest.raises(ModelError, match=f"weight of {name or 'the model'} .*make it permanent"):
        describe(nn.Sequential(layer) if name else layer)


def test_a_weight_parametrized_by_others_is_refused():
    with pytest.raises(ModelError, match="parametrized already"):
        describe(parametrizations.weight_norm(nn.Linear(4, 4)))


def test_a_dtype_that_no_file_stores_is_refused():
    with pytest.raises(ModelError, match="complex64"):
        describe(nn.Linear(2, 2, dtype=torch.complex64))


def test_state_that_is_no_tensor_is_refused():
    class Counting(nn.Linear):
        def get_extra_state(self):
            return {"calls": 3}

        def set_extra_state(self, state):
            pass

    with pytest.raises(
        ModelError, match=r"0\._extra_state is state that is no tensor, which a packed file cannot hold"
    ):
        describe(nn.Sequential(Counting(4, 4), nn.Linear(4, 2)))
