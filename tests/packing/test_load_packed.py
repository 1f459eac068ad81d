"""load_packed and unpack_into: into the right architecture, and no other; decoded, or kept packed."""

import json
from dataclasses import replace

import pytest
import torch
from huggingface_hub import PyTorchModelHubMixin
from hypothesis import given, settings
from torch import nn

from flexor_search.errors import FormatError, ModelError, UsageError
from flexor_search.packing import from_bytes, load_packed, pack, save, save_folder, to_bytes, unpack_into
from flexor_search.planning import KEPT, Allocation, LayerSpec
from flexor_search.quantization import describe, quantize_
from flexor_search.workloads import workload

from .models import as_trained, cases, digits_case


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


def stored_bytes(model):
    return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))


@settings(max_examples=40)
@given(cases())
def test_kept_packed_it_computes_the_same_from_the_files_bytes(case):
    packed = from_bytes(to_bytes(pack(case.model, case.allocation), case.allocation))
    decoded, kept = (unpack_into(packed, case.build(), keep_packed=keep) for keep in (False, True))
    for layer in packed.layers:
        module = kept.get_submodule(layer.name)
        assert torch.equal(module.weight, decoded.get_submodule(layer.name).weight)
        payload, scale = module.parametrizations.weight.parameters()
        assert payload.numpy().tobytes() == b"".join(plane.tobytes() for plane in layer.planes)
        assert scale.numpy().tobytes() == layer.scale.tobytes()
        assert str(scale.dtype) == f"torch.{packed.kept_dtype}"
    with torch.no_grad():
        assert torch.equal(kept(case.images), decoded(case.images))
    assert not any(parameter.requires_grad for parameter in kept.parameters())


def test_kept_packed_it_takes_the_memory_of_the_file():
    torch.manual_seed(0)
    model = workload("lenet5-fashion-mnist").build()
    allocation = Allocation.of(describe(model), {}, default=LayerSpec(n_in=8))
    as_trained(quantize_(model, allocation), 0)
    raw = to_bytes(pack(model, allocation), allocation)
    build = workload("lenet5-fashion-mnist").build
    decoded, kept = (unpack_into(from_bytes(raw), build(), keep_packed=keep) for keep in (False, True))
    assert stored_bytes(decoded) > 30 * len(raw)
    assert stored_bytes(kept) < 1.1 * len(raw)  # biases are float32 in memory, taps are indices


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("keep_packed", [False, True])
def test_what_is_loaded_can_be_converted(case, path, keep_packed, dtype):
    loaded = load_packed(path, case.build(), keep_packed=keep_packed).to(dtype)
    with torch.no_grad():
        logits, wanted = loaded(case.images.to(dtype)), case.model(case.images)
    assert logits.dtype == dtype
    torch.testing.assert_close(logits.float(), wanted, rtol=0, atol=0.1 * float(wanted.abs().max()))


@pytest.mark.parametrize("keep_packed", [False, True])
def test_an_instance_of_another_dtype_is_refused(case, path, keep_packed):
    with pytest.raises(ModelError, match=r"layer '0' is of torch.float16; give an instance in float32"):
        load_packed(path, case.build().half(), keep_packed=keep_packed)


def test_a_weight_that_is_kept_packed_cannot_be_assigned(case, path):
    kept = load_packed(path, case.build(), keep_packed=True)
    with pytest.raises(ModelError, match="cannot be assigned"):
        kept[0].weight = torch.zeros(4, 1, 3, 3)


def test_kept_packed_a_state_dict_goes_round(case, path):
    kept = load_packed(path, case.build(), keep_packed=True)
    another = as_trained(quantize_(case.build(), case.allocation), 7)
    other = unpack_into(pack(another, case.allocation), case.build(), keep_packed=True)
    assert not torch.equal(other(case.images), kept(case.images))
    other.load_state_dict(kept.state_dict())
    assert torch.equal(other(case.images), kept(case.images))
    decoded = load_packed(path, case.build())
    fresh = load_packed(path, case.build())
    fresh.load_state_dict(decoded.state_dict())
    assert torch.equal(fresh(case.images), decoded(case.images))


@pytest.mark.parametrize("keep_packed", [False, True])
def test_torch_export(case, path, keep_packed):
    loaded = load_packed(path, case.build(), keep_packed=keep_packed)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(loaded, (case.images,), dynamic_shapes=({0: batch},))
    for images in (case.images, case.images[:3]):
        torch.testing.assert_close(program.module()(images), loaded(images), rtol=0, atol=1e-6)
    if keep_packed:  # what is exported holds the payload, not the weights
        names = {name: value.dtype for name, value in program.state_dict.items()}
        assert names["0.parametrizations.weight.original0"] == torch.uint8
        assert "0.weight" not in names


@pytest.mark.parametrize("spec", [LayerSpec(n_in=12, n_planes=2), KEPT], ids=["quantized", "kept"])
def test_tied_weights_kept_packed(spec):
    torch.manual_seed(0)
    model = Recurrent(True)
    allocation = Allocation.of(describe(model), {}, "float32", default=spec)
    as_trained(quantize_(model, allocation), 0)
    raw = to_bytes(pack(model, allocation), allocation)
    decoded, kept = (unpack_into(from_bytes(raw), Recurrent(True), keep_packed=keep) for keep in (False, True))
    assert torch.equal(kept.first.weight, kept.last.weight)
    tokens = torch.randint(0, 12, (6, 4))
    assert torch.equal(kept(tokens), decoded(tokens))


def test_another_number_of_groups_is_another_architecture(case):
    packed = pack(case.model, case.allocation)
    layers = tuple(replace(layer, transposed_groups=1) if layer.name == "6" else layer for layer in packed.layers)
    with pytest.raises(ModelError, match=r"what differs: 6\.weight"):
        unpack_into(replace(packed, layers=layers), case.build())


class Hub(nn.Module, PyTorchModelHubMixin):
    """A user's class, made and saved as the model hubs' mixin does."""

    def __init__(self, width: int, classes: int = 3):
        super().__init__()
        self.first, self.last = nn.Linear(8, width), nn.Linear(width, classes)

    def forward(self, x):
        return self.last(torch.relu(self.first(x)))


@pytest.fixture
def hub(tmp_path):
    """A folder that the mixin saved, its model.safetensors replaced by a packed one, and what was packed."""
    torch.manual_seed(0)
    model = Hub(width=20, classes=4)
    model.save_pretrained(tmp_path / "hub")
    allocation = Allocation.of(describe(model), {"first": LayerSpec(n_in=8)})
    as_trained(quantize_(model, allocation), 0)
    save(pack(model, allocation), allocation, tmp_path / "hub" / "model.safetensors")
    return tmp_path / "hub", model


@pytest.mark.parametrize("keep_packed", [False, True])
def test_a_hub_folder_is_made_by_its_class_and_its_configuration(hub, keep_packed):
    folder, model = hub
    assert close(model, load_packed(folder, Hub, keep_packed=keep_packed), torch.randn(5, 8))
    assert close(model, load_packed(folder, Hub(20, 4)), torch.randn(5, 8))


def test_a_folder_of_ours_is_one_that_the_mixin_understands(hub, tmp_path):
    folder, model = hub
    save_folder(folder / "model.safetensors", tmp_path / "ours", {"model": "my.net:Hub"}, {"width": 20, "classes": 4})
    config = json.loads((tmp_path / "ours" / "config.json").read_text())
    save_folder(folder / "model.safetensors", folder, {"model": "my.net:Hub"})  # the mixin's arguments stay
    assert json.loads((folder / "config.json").read_text()) == config
    assert config == {
        "width": 20,
        "classes": 4,
        "flexor_search": {"model": "my.net:Hub", "file": "model.safetensors"},
    }
    assert close(model, load_packed(tmp_path / "ours", Hub), torch.randn(5, 8))


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ("[1]", FormatError, "config.json: it is not a JSON object"),
        ("{", FormatError, "config.json: it is not a JSON object"),
        ('{"heigth": 3}', ModelError, "could not be made with {'heigth': 3}: TypeError"),
        ("{}", ModelError, "could not be made with {}: TypeError"),
        ('{"width": 21}', ModelError, "tensors are not those of the file"),
    ],
)
def test_a_configuration_that_is_not_the_models(hub, config, error, message):
    (hub[0] / "config.json").write_text(config)
    with pytest.raises(error, match=message):
        load_packed(hub[0], Hub)


def test_what_makes_no_module(path, case):
    assert close(case.model, load_packed(path, case.build), case.images)
    with pytest.raises(ModelError, match="made a dict"):
        load_packed(path, dict)
