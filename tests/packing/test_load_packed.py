"""load_packed and unpack_into: into the right architecture, and no other."""

import pytest
import torch
from torch import nn

from flexor_search.errors import ModelError, UsageError
from flexor_search.packing import from_bytes, load_packed, pack, save, to_bytes, unpack_into
from flexor_search.planning import KEPT, Allocation, LayerSpec
from flexor_search.quantization import describe, quantize_
from flexor_search.workloads import workload

from .models import as_trained, digits_case


@pytest.fixture(scope="module")
def case():
    return digits_case()


@pytest.fixture
def path(case, tmp_path):
    save(pack(case.model, case.allocation), case.allocation, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@torch.no_grad()
def close(one, other, images):
    wanted = one(images)
    return torch.allclose(other(images), wanted, rtol=0, atol=0.02 * wanted.abs().max().item())


def test_with_a_model_it_is_that_instance_ready_for_evaluation(case, path):
    model = case.build().train()
    loaded = load_packed(str(path), model)
    assert loaded is model
    assert not loaded.training
    assert isinstance(loaded[1], nn.Identity)
    assert isinstance(loaded[5], nn.BatchNorm2d)
    assert loaded[5].num_batches_tracked == 17
    assert close(case.model, loaded, case.images)


def test_a_built_in_workload_needs_no_model(tmp_path):
    torch.manual_seed(0)
    model = workload("digits-convnet").build()
    allocation = Allocation.of(describe(model), {"conv4": LayerSpec(n_in=8)})
    as_trained(quantize_(model, allocation), 0)
    save(pack(model, allocation, "digits-convnet"), allocation, tmp_path / "digits.safetensors")
    assert close(model, load_packed(tmp_path / "digits.safetensors"), torch.randn(4, 1, 8, 8))


def test_a_users_own_model_must_be_given(path):
    with pytest.raises(UsageError, match="no built-in workload's model; give an instance with model="):
        load_packed(path)


def without_bias(net):
    net[8] = nn.Linear(100, 10, bias=False)


def wider(net):
    net[8] = nn.Linear(100, 11)


def without_norm(net):
    net[1] = nn.Identity()


class PassesThrough(nn.Module):
    def forward(self, x):
        return x


def another_folded_norm(net):
    net[4] = PassesThrough()


def another_layer(net):
    net.append(nn.Linear(10, 10))


def another_name(net):
    net[8] = nn.Sequential(net[8])


def another_buffer(net):
    net.register_buffer("extra", torch.zeros(2))


def without_affine(net):
    net[5] = nn.BatchNorm2d(6, affine=False)


@pytest.mark.parametrize(
    "change",
    [
        *(without_bias, wider, without_norm, another_folded_norm, another_layer, another_name, another_buffer),
        without_affine,
    ],
)
def test_another_architecture_is_refused(case, path, change):
    model = case.build()
    change(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ModelError, match=r"batch norms to fold|tensors are not those of the file; what differs: "):
        load_packed(path, model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_quantized_model_is_not_an_instance_to_load_into(case, path):
    with pytest.raises(ModelError, match="parametrized already"):
        load_packed(path, quantize_(case.build(), case.allocation))


class Recurrent(nn.Module):
    """The same weight under an embedding and a linear layer, and one linear layer used twice under two names."""

    def __init__(self, embedding_first):
        super().__init__()
        first, last = nn.Embedding(12, 8), nn.Linear(8, 12)
        last.weight = first.weight
        for name in ("first", "last") if embedding_first else ("last", "first"):
            self.add_module(name, first if name == "first" else last)
        self.middle = nn.Linear(8, 8)
        self.again = self.middle

    def forward(self, tokens):
        return self.last(torch.tanh(self.again(torch.tanh(self.middle(self.first(tokens).mean(1))))))


@pytest.mark.parametrize("spec", [LayerSpec(n_in=12, n_planes=2), KEPT], ids=["quantized", "kept"])
@pytest.mark.parametrize("embedding_first", [True, False])
def test_tied_weights_are_stored_once_and_come_back_tied(embedding_first, spec):
    torch.manual_seed(0)
    model = Recurrent(embedding_first)
    allocation = Allocation.of(describe(model), {}, "float32", default=spec)
    as_trained(quantize_(model, allocation), 0)
    raw = to_bytes(pack(model, allocation), allocation)
    torch.manual_seed(1)
    loaded = unpack_into(from_bytes(raw), Recurrent(embedding_first))
    assert loaded.first.weight is loaded.last.weight
    assert loaded.again is loaded.middle
    tokens = torch.randint(0, 12, (6, 4))
    torch.testing.assert_close(loaded(tokens), model(tokens))


def test_a_bias_that_a_layer_shares_comes_back_everywhere():
    class SharedBias(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.norm = nn.Linear(4, 4), nn.LayerNorm(4)
            self.norm.bias = self.layer.bias

        def forward(self, x):
            return self.norm(self.layer(x))

    torch.manual_seed(0)
    model = SharedBias()
    allocation = Allocation.of(describe(model), {"layer": LayerSpec(n_in=8)}, "float32")
    as_trained(quantize_(model, allocation), 0)
    loaded = unpack_into(from_bytes(to_bytes(pack(model, allocation), allocation)), SharedBias())
    inputs = torch.randn(5, 4)
    torch.testing.assert_close(loaded(inputs), model(inputs))
