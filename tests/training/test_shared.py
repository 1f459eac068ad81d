"""One training for every allocation, and the scores it gives: the same by any route, and after any interruption."""

import copy
import importlib
import random
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from flexor_search.planning import KEPT, LayerSpec, Recipe, SearchSpace, make_space
from flexor_search.planning.space import Variable
from flexor_search.planning.space_file import SpaceFile
from flexor_search.quantization import describe, set_profile
from flexor_search.training import Score, seeded
from flexor_search.training.shared import (
    STATISTICS_BATCHES,
    ProfileScorer,
    SharedNetworkError,
    check_learned,
    score_profiles,
    shared_model,
    train_shared,
)
from flexor_search.workloads import Data, Split

from .models import digits, few_digits
from .test_checkpoint import assert_same, killed_after, values

shared_module = importlib.import_module("flexor_search.training.shared")
RECIPE = Recipe(epochs=3, batch_size=32, learning_rate=1e-2)
pytestmark = pytest.mark.usefixtures("one_thread")


def net():
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 20, 3), nn.BatchNorm2d(20), nn.ReLU(), nn.Flatten(), nn.Dropout(0.1)),
        *(nn.Linear(80, 20), nn.ReLU(), nn.Linear(20, 10)),
    )


def space_of(model, rates=("5/20", "10/20", "20/20")):
    file = {"keep": [], "default": {"rates": list(rates)}}
    return make_space(describe(model), SpaceFile.model_validate(file))


class Block(nn.Module):
    """Two convolutions and what goes round them."""

    def __init__(self, width):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x):
        inner = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(x + self.norm2(self.conv2(inner)))


def residual_net():
    return nn.Sequential(
        *(nn.Conv2d(1, 12, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU()),
        *(Block(12), Block(12), nn.Flatten(), nn.Linear(192, 10)),
    )


def mixed_space(model):
    """Every layer may have a code of any family, two planes, or its weights as they are."""
    menu = (
        *(LayerSpec(n_in=5, n_out=20), LayerSpec("dense", 6, 20), LayerSpec("taps", 8, 10, 3)),
        *(LayerSpec(n_in=20, n_out=20), LayerSpec(n_in=12, n_out=20, n_planes=2), KEPT),
    )
    shapes = describe(model)
    return SearchSpace(shapes, tuple(Variable((layer.name,), menu) for layer in shapes.layers))


def shared(data, paths="sandwich", checkpoint=None, recipe=RECIPE, build=net, space_of=space_of):
    with seeded(0):
        model = build()
        space = space_of(model)
        shared_model(model, space, recipe)
    train_shared(model, space, data, recipe, seed=1, paths=paths, checkpoint=checkpoint)
    return model, space


@pytest.fixture(scope="module")
def trained():
    torch.set_num_threads(1)
    return shared(few_digits(640), recipe=replace(RECIPE, epochs=10))


def plainly_scored(model, data, recipe, profile):
    """Statistics written out: every batch norm's mean over the batches, of inputs normalized by each batch's own."""
    model = copy.deepcopy(model).eval()
    set_profile(model, profile)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    seen = {norm: [] for norm in norms}
    for norm in norms:
        norm.register_forward_pre_hook(
            lambda module, given: seen[module].append((given[0].mean((0, 2, 3)), given[0].var((0, 2, 3))))
        )
        norm.track_running_stats = False
        norm.running_mean = norm.running_var = None  # then a batch's own are used
    split = data.train.take(STATISTICS_BATCHES * recipe.batch_size)
    with torch.no_grad():
        for images, _ in split.batches(recipe.batch_size):
            model(images)
        for norm in norms:
            norm._forward_pre_hooks.clear()
            norm.running_mean = torch.stack([mean for mean, _ in seen[norm]]).mean(0)
            norm.running_var = torch.stack([var for _, var in seen[norm]]).mean(0)
        images, labels = data.validation.batch(slice(None))
        logits = model(images)
        accuracy = (logits.argmax(1) == labels).float().mean().item()
        return accuracy, functional.cross_entropy(logits, labels).item()


def test_scores_are_those_of_statistics_estimated_anew_in_any_order(trained):
    model, space = trained
    data = few_digits(640)
    profiles = [(0, 0, 0, 0), (0, 0, 0, 2), (0, 0, 1, 2), (1, 0, 1, 2), (2, 2, 2, 2), (2, 2, 2, 0), (0, 0, 0, 2)]
    random.Random(0).shuffle(profiles)
    scorer, whole = ProfileScorer(model, data, RECIPE), ProfileScorer(Wrapped(model), data, RECIPE)
    assert len(scorer._parts) == len(space.variables)
    for profile in profiles:
        score, other = scorer(profile), whole(profile)
        accuracy, loss = plainly_scored(model, data, RECIPE, profile)
        assert score.loss == pytest.approx(loss, rel=1e-4)
        assert score.accuracy == pytest.approx(accuracy)
        assert (other.accuracy, other.loss) == pytest.approx((score.accuracy, score.loss), rel=1e-5)


class Wrapped(nn.Module):
    """The same model, no longer a plain sequence."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, images):
        return self.inner(images)


def test_neighbours_that_begin_alike_use_what_is_known(trained):
    model, _ = trained
    data, calls = few_digits(640), []
    scorer = ProfileScorer(model, data, RECIPE)
    hooks = [model[i].register_forward_hook(lambda *_, i=i: calls.append(i)) for i in (0, 4)]
    profiles = [(a, b, c, 0) for a in range(3) for b in range(3) for c in range(3)]
    random.Random(1).shuffle(profiles)
    found = dict(score_profiles(scorer, profiles))
    for hook in hooks:
        hook.remove()
    assert found.keys() == set(profiles)
    each = STATISTICS_BATCHES + 1  # forward passes of a part
    assert (calls.count(0), calls.count(4)) == (3 * each, 9 * each)


def test_a_training_of_all_learns_and_more_bits_are_worth_more(trained):
    model, _ = trained
    scorer = ProfileScorer(model, digits(), RECIPE)
    low, high = scorer((0,) * 4), scorer((2,) * 4)
    assert high.accuracy > 0.7
    assert high.loss < low.loss
    check_learned(high, digits())


def test_residual_networks_of_codes_of_every_family_are_trained_and_judged_alike():
    data = few_digits(640)
    recipe = replace(RECIPE, epochs=30)
    model, _ = shared(data, "random", None, recipe, residual_net, mixed_space)
    scorer, whole = ProfileScorer(model, data, recipe), ProfileScorer(Wrapped(model), data, recipe)
    assert len(scorer._parts) == 4
    profiles = [(i,) * 6 for i in range(6)]
    profiles += [(0, 1, 2, 3, 4, 5), (0, 1, 2, 3, 5, 4), (0, 1, 2, 4, 5, 3), (5, 4, 3, 2, 1, 0)]
    scores = {}
    for profile in profiles:
        accuracy, loss = plainly_scored(model, data, recipe, profile)
        scores[profile] = score = scorer(profile)
        assert (score.accuracy, score.loss) == (pytest.approx(accuracy), pytest.approx(loss, rel=1e-4))
        assert whole(profile).loss == pytest.approx(loss, rel=1e-4)
    assert scores[(3,) * 6].accuracy > 0.5
    assert (
        min(score.accuracy for score in scores.values()) > 0.2
    )  # chance is 0.1: each has learned, whatever its family


@pytest.mark.parametrize("paths", ["random", "sandwich"])
@pytest.mark.parametrize(("build", "space"), [(net, space_of), (residual_net, mixed_space)])
def test_killed_in_the_middle_it_comes_to_the_same_bits(tmp_path, paths, build, space):
    path, data = tmp_path / "x.safetensors", few_digits()

    def train(checkpoint=None):
        return shared(data, paths, checkpoint, build=build, space_of=space)

    expected, _ = train()
    for writes in (4, 7):
        told, done = killed_after(writes, path, train)
        assert done is None
    assert "goes on from there" in told[0]
    checkpoint = killed_after(99, path, lambda checkpoint: checkpoint)[1]
    assert_same(values(train(checkpoint)[0]), values(expected))


def test_a_network_that_diverges_is_told():
    nowhere = Recipe(epochs=1, batch_size=32, learning_rate=1e30, schedule="constant", warmup=0.0)
    with pytest.raises(SharedNetworkError, match="does not learn"):
        shared(few_digits(), recipe=nowhere)


def test_chance_is_no_learning():
    labels = torch.tensor([0] * 60 + [1] * 40)
    split = Split("validation", torch.zeros(100, 2), labels)
    data = Data(split, split, split)
    check_learned(Score(0.75, 0.5), data)
    for score in (Score(0.6, 0.7), Score(0.65, 0.6), Score(0.9, float("nan"))):
        with pytest.raises(SharedNetworkError, match=r"always saying one class has 60.0 %"):
            check_learned(score, data)


def test_without_batch_norm_nothing_is_estimated():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 10))
    space = space_of(model)
    shared_model(model, space, RECIPE)
    scorer = ProfileScorer(model, few_digits(), RECIPE)
    assert scorer._statistics == []
    assert 0 <= scorer((0, 1)).accuracy <= 1


class SubtractsHalf(nn.Module):
    """The kind of part that works in place."""

    def forward(self, x):
        return x.sub_(0.5)


def test_parts_that_work_in_place_leave_what_is_kept():
    with seeded(0):
        model = nn.Sequential(SubtractsHalf(), *net())
        space = space_of(model)
        shared_model(model, space, RECIPE)
    scorer = ProfileScorer(model, few_digits(160), RECIPE)
    profiles = [(0, 0, 0, 0), (0, 2, 1, 2), (2, 1, 0, 1)]
    first = [scorer(profile) for profile in profiles]
    assert [scorer(profile) for profile in profiles] == first


def test_a_sequence_whose_images_would_not_fit_goes_through_batch_by_batch(trained, monkeypatch):
    model, _ = trained
    data = few_digits(640)
    by_parts = ProfileScorer(model, data, RECIPE)
    images = sum(by_parts.image_counts)
    assert by_parts._most_passing() == images * 8 * 8 * 8 // 4 * 4  # after the first convolution's pooling, float32
    monkeypatch.setattr(shared_module, "_PASSING_BYTES", by_parts._most_passing() - 1)
    whole = ProfileScorer(model, data, RECIPE)
    assert (len(by_parts._parts), len(whole._parts)) == (4, 1)
    for profile in ((0, 1, 2, 0), (2, 2, 2, 2)):
        assert whole(profile).loss == pytest.approx(by_parts(profile).loss, rel=1e-5)


class TwoThings(nn.Module):
    def forward(self, x):
        return x, x


class FirstThing(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 20)

    def forward(self, both):
        return self.linear(both[0])


def test_a_sequence_that_passes_more_than_a_tensor_goes_through_as_a_whole():
    with seeded(0):
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), TwoThings(), FirstThing(), nn.ReLU(), nn.Linear(20, 10))
        space = space_of(model)
        shared_model(model, space, RECIPE)
    assert 0 <= ProfileScorer(model, few_digits(), RECIPE)((0, 1, 2)).accuracy <= 1
