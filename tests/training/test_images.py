"""Training images on the device: order, augmentation and batches, against torchvision one image at a time."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms import functional as oracle

from flexor_search.errors import DataError
from flexor_search.planning import Recipe
from flexor_search.training import train, train_together
from flexor_search.training.images import PADDING, Shuffler, TrainImages, fits, moved
from flexor_search.workloads import Data, Split

from .models import parameters, quantized, small_net

RECIPE = Recipe(epochs=2, batch_size=8, augmentation="crop-flip")


def pictures(count=40, channels=1, height=8, width=8, seed=0):
    random = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (count, channels, height, width), generator=random, dtype=torch.uint8)
    return Split("train", images, torch.arange(count) % 10, mean=0.3, std=0.2)


@given(
    st.integers(1, 3),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.lists(
        st.tuples(st.integers(0, 2 * PADDING), st.integers(0, 2 * PADDING), st.integers(0, 1)), min_size=1, max_size=5
    ),
    st.sampled_from([torch.uint8, torch.float32]),
)
def test_images_are_moved_as_torchvision_moves_each(channels, size, moves, dtype):
    images = pictures(len(moves), channels, *size).images.to(dtype)
    found = moved(images, torch.tensor(moves, dtype=torch.uint8))
    assert found.dtype == dtype
    for image, (down, right, mirrored), result in zip(images, moves, found, strict=True):
        wanted = oracle.crop(oracle.pad(image, [PADDING] * 4), down, right, *size)
        assert torch.equal(result, oracle.hflip(wanted) if mirrored else wanted)


def test_epochs_depend_on_the_seed_alone_and_differ():
    first, other, again = Shuffler(1), Shuffler(2), Shuffler(1)
    epochs = [first.epoch(100, "crop-flip") for _ in range(2)]
    assert sorted(epochs[0].order.tolist()) == list(range(100))
    assert torch.equal(again.epoch(100, "crop-flip").moves, epochs[0].moves)
    assert not torch.equal(epochs[0].moves, epochs[1].moves)
    assert not torch.equal(other.epoch(100, "crop-flip").order, epochs[0].order)


def test_every_place_is_as_likely_and_half_are_mirrored():
    moves = Shuffler(0).epoch(90_000, "crop-flip").moves.long()
    places = torch.bincount(moves[:, 0] * (2 * PADDING + 1) + moves[:, 1], minlength=81)
    expected = 90_000 / 81
    assert float(((places - expected) ** 2 / expected).sum()) < 130  # chi-squared, 80 degrees: beyond 1 in 3,000
    assert abs(int(moves[:, 2].sum()) - 45_000) < 600  # 4 standard deviations
    flips = Shuffler(0).epoch(1000, "flip").moves
    assert torch.equal(flips[:, :2], torch.full((1000, 2), PADDING, dtype=torch.uint8))
    assert 400 < int(flips[:, 2].sum()) < 600


def test_without_augmentation_batches_are_the_splits_own():
    split = pictures()
    images = TrainImages.of(split, Recipe(), "cpu")
    epoch = images.epoch(Shuffler(0))
    for step in range(5):
        order, moves = epoch.step(step, 8)
        found, labels = images.batch(order, moves)
        wanted, wanted_labels = split.batch(epoch.order[step * 8 : step * 8 + 8])
        assert torch.equal(found, wanted)
        assert torch.equal(labels, wanted_labels)


def test_a_border_is_black_before_it_is_normalized():
    split = pictures(1)
    images = TrainImages.of(split, RECIPE, "cpu")
    found, _ = images.batch(torch.tensor([0]), torch.tensor([[0, 0, 0]], dtype=torch.uint8))
    black = split.normalized(torch.zeros(1, dtype=torch.uint8))
    assert torch.allclose(found[0, 0, :PADDING], black.expand(PADDING, 8))


def test_images_stay_as_they_are_stored():
    assert TrainImages.of(pictures(), RECIPE, "cpu").split.images.dtype == torch.uint8


def test_what_fits_leaves_half_of_the_memory():
    split = pictures(100)
    size = 100 * 64 + 100 * 8
    assert fits(split, 2 * size)
    assert not fits(split, 2 * size - 1)


def test_of_images_on_the_device_a_step_is_given_where_to_look():
    """The indices and moves only; what it is to do with them comes to the same as for images that lie elsewhere."""
    here, epoch = TrainImages.of(pictures(), RECIPE, "cpu"), Shuffler(0).epoch(40, "crop-flip")
    elsewhere = replace(here, device=torch.device("meta"))
    assert elsewhere.prepare is None
    given, made = list(here.batches(epoch, 8, 2)), list(elsewhere.batches(epoch, 8, 2))
    assert len(given) == len(made) == 3
    for step, ((order, moves), (images, labels)) in enumerate(zip(given, made, strict=True), 2):
        assert torch.equal(order, epoch.order[step * 8 : step * 8 + 8])
        assert torch.equal(moves, epoch.moves[step * 8 : step * 8 + 8])
        found, classes = here.prepare(order, moves)
        assert torch.equal(classes, order % 10)
        assert (images.device.type, images.shape, images.dtype) == ("meta", found.shape, found.dtype)
        assert labels.shape == classes.shape


def test_what_has_no_height_and_width_cannot_be_augmented():
    flat = Split("train", torch.zeros(4, 6), torch.tensor([0, 1, 0, 1]))
    with pytest.raises(
        DataError, match=r"augmentation 'crop-flip' needs images .*got \(6,\); set augmentation = \"none\""
    ):
        TrainImages.of(flat, RECIPE, "cpu")


def test_together_or_alone_a_model_sees_the_same_images(monkeypatch):
    seen, original = [], TrainImages.batch
    monkeypatch.setattr(TrainImages, "batch", lambda self, o, m: (seen.append(r := original(self, o, m)), r)[1])
    split = pictures()
    data = Data(split, split, split)
    for seed in (3, 4):
        train(quantized(small_net), data, RECIPE, seed=seed)
    alone = [images for images, _ in seen]
    seen.clear()
    train_together([quantized(small_net), quantized(small_net)], data, RECIPE, seeds=(3, 4))
    steps = len(alone) // 2
    assert len(seen) == 2 * steps == 20
    for step in range(steps):  # a step of each in turn
        assert torch.equal(seen[2 * step][0], alone[step])
        assert torch.equal(seen[2 * step + 1][0], alone[steps + step])


def test_augmentation_changes_what_is_learned():
    split = pictures()
    data = Data(split, split, split)
    models = [quantized(small_net) for _ in range(2)]
    train(models[0], data, RECIPE, seed=0)
    train(models[1], data, replace(RECIPE, augmentation="none"), seed=0)
    assert any(not torch.equal(value, parameters(models[1])[name]) for name, value in parameters(models[0]).items())
