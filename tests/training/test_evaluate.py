"""evaluate against numpy, and the checks made before any training."""

import numpy as np
import pytest
import torch
from torch import nn

from flexor_search.errors import DataError, ModelError
from flexor_search.planning import Recipe
from flexor_search.training import check_fits, evaluate, resolve_precision
from flexor_search.workloads import Data, Split

from .models import digits, small_net


def test_accuracy_and_cross_entropy_over_several_batches():
    torch.manual_seed(0)
    split = digits().train  # 1,097 images: more than one evaluation batch
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10))
    score = evaluate(model, split)
    pixels = (split.images.double().numpy() / 255 - split.mean) / split.std
    weight, bias = (parameter.detach().double().numpy() for parameter in model[2].parameters())
    logits = pixels.reshape(len(split), -1) @ weight.T + bias
    labels = split.labels.numpy()
    log_likelihood = logits[np.arange(len(split)), labels] - np.log(np.exp(logits).sum(1))
    assert score.accuracy == (logits.argmax(1) == labels).mean()
    assert score.loss == pytest.approx(-log_likelihood.mean(), rel=1e-5)
    assert not model.training


@pytest.mark.parametrize("recipe", [Recipe(precision="bfloat16"), Recipe(memory_format="channels_last")])
def test_the_recipes_precision_and_memory_format_change_little(recipe):
    torch.manual_seed(0)
    model, split = small_net(), digits().validation
    exact, found = evaluate(model, split), evaluate(model, split, recipe=recipe)
    assert found.loss == pytest.approx(exact.loss, rel=0.02)
    assert (found.loss != exact.loss) or recipe.precision == "float32"


class InPlace(nn.Module):
    """Normalizes the images that it is given, in place."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x.sub_(0.5).div_(0.25))


def test_a_model_that_works_in_place_leaves_the_data_as_they_are():
    torch.manual_seed(0)
    images, labels = torch.rand(200, 1, 8, 8), torch.arange(200) % 10
    split = Split("validation", images.clone(), labels)
    model = InPlace(small_net())
    check_fits(model, Data(split, split, split))
    first = evaluate(model, split)
    assert evaluate(model, split) == first
    assert torch.equal(split.images, images)
    assert first.loss == pytest.approx(evaluate(model.net, Split("", (images - 0.5) / 0.25, labels)).loss, rel=1e-5)


def test_resolve_precision():
    assert resolve_precision("float32", "cuda") == "float32"
    assert resolve_precision("bfloat16", "cpu") == "bfloat16"
    assert resolve_precision("auto", "cpu") in ("float32", "bfloat16")


@pytest.mark.parametrize(
    ("capabilities", "wanted"), [({}, "float32"), ({"avx512_bf16": True}, "bfloat16"), ({"amx_bf16": True}, "bfloat16")]
)
def test_auto_is_bfloat16_where_the_processor_computes_in_it(capabilities, wanted, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert resolve_precision("auto", "cpu") == wanted


def data_of(images, labels):
    split = Split("train", images, torch.tensor(labels))
    return Data(split, split, split)


class Gives(nn.Module):
    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, x):
        return self.output(x)


FITTING = data_of(torch.zeros(3, 1, 8, 8), [0, 9, 1])


def test_data_that_fit_pass_and_the_model_is_unchanged():
    model = small_net()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    check_fits(model, FITTING)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(3, 3, 8, 8), [0, 1, 2], r"shape \(3, 8, 8\) do not go through the model"),
        (torch.zeros(3, 1, 12, 12), [0, 1, 2], r"shape \(1, 12, 12\) do not go through the model"),
        (torch.zeros(3, 1, 8, 8), [0, 1, 10], "label 10 is out of range: the model has 10 outputs"),
    ],
)
def test_data_that_do_not_fit(images, labels, message):
    with pytest.raises(DataError, match=message) as caught:
        check_fits(small_net(), data_of(images, labels))
    assert "\n" not in str(caught.value)


def test_a_label_past_the_outputs_in_any_split_is_found():
    fine, wrong = FITTING.train, Split("test", torch.zeros(1, 1, 8, 8), torch.tensor([12]))
    with pytest.raises(DataError, match="label 12"):
        check_fits(small_net(), Data(fine, fine, wrong))


def test_an_error_without_words_is_named_by_its_kind():
    def fails(x):
        raise ZeroDivisionError

    with pytest.raises(DataError, match="ZeroDivisionError"):
        check_fits(Gives(fails), FITTING)


@pytest.mark.parametrize(
    ("output", "got"),
    [
        (lambda x: (x.flatten(1), x), "tuple"),
        (lambda x: {"logits": x.flatten(1)}, "dict"),
        (lambda x: x, r"\(2, 1, 8, 8\)"),
        (lambda x: x.flatten(), r"\(128,\)"),
        (lambda x: x.flatten(1)[:1], r"\(1, 64\)"),
    ],
)
def test_an_output_that_is_not_logits(output, got):
    with pytest.raises(ModelError, match=f"logits of shape .*got {got} for 2 images"):
        check_fits(Gives(output), FITTING)


@pytest.mark.parametrize("name", ["train", "validation", "test"])
def test_images_of_every_split_go_through_the_model(name):
    splits = {
        one: Split(one, torch.zeros(3, 1, 8, 8), torch.tensor([0, 9, 1])) for one in ("train", "validation", "test")
    }
    splits[name] = Split(name, torch.zeros(3, 1, 12, 12), torch.tensor([0, 9, 1]))
    with pytest.raises(DataError, match=rf"data: {name} images of shape \(1, 12, 12\) do not go through the model"):
        check_fits(small_net(), Data(**splits))


class Tokens(nn.Module):
    """Six tokens of six numbers, normalized by their places."""

    def __init__(self, between):
        super().__init__()
        self.linear, self.between, self.norm, self.head = nn.Linear(6, 6), between, nn.BatchNorm1d(6), nn.Linear(36, 3)

    def forward(self, x):
        x = self.linear(x)
        return self.head(self.norm(x if self.between is None else self.between(x)).flatten(1))


def test_a_batch_norm_that_normalizes_other_axes_than_it_would_be_folded_into_is_refused():
    data = data_of(torch.randn(9, 6, 6), [0, 1, 2] * 3)
    with pytest.raises(ModelError, match=r"norm normalizes axis 1 of what linear gives, of shape \(2, 6, 6\)"):
        check_fits(Tokens(None), data)
    check_fits(Tokens(nn.Identity()), data)
    check_fits(nn.Sequential(nn.Flatten(), nn.Linear(36, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)), data)


def test_a_layer_of_another_dtype_is_refused():
    class Head(nn.Linear):
        def forward(self, x):
            return super().forward(x.double())

    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), Head(8, 10, dtype=torch.float64))
    with pytest.raises(ModelError, match=r"layer '2' is of torch.float64; give an instance in float32"):
        check_fits(model, FITTING)


def test_a_step_of_the_recipes_size_is_tried():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))
    check_fits(model, FITTING, Recipe(batch_size=2))
    with pytest.raises(ModelError, match="one training step on 1 images failed: Expected more than 1 value"):
        check_fits(model, FITTING, Recipe(batch_size=1))
