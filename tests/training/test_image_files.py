"""Training on images that stay in files: read ahead, the same as if they were held, and going on where it was cut."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from flexor_search.errors import DataError
from flexor_search.planning import Recipe
from flexor_search.training import Checkpoint, evaluate, train, train_together
from flexor_search.training.images import Shuffler, TrainImages
from flexor_search.tuning.worker import load_data, save_data
from flexor_search.workloads import Data, Split, image_files, image_folder
from tests.workloads.made_data import write_imagenet

from .models import Untouchable, digits, quantized

RECIPE = Recipe(epochs=2, batch_size=5, augmentation="resized-crop-flip")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_imagenet(tmp_path_factory.mktemp("made"), classes=2, train=8, val=3)


@pytest.fixture
def data(folder, monkeypatch):
    monkeypatch.setattr(image_folder, "SIDE", 16)
    found = image_folder.load(folder)
    return Data(found.train, found.validation, Untouchable())


def net():
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2)), nn.Flatten(), nn.Linear(32, 2)
    )


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_files_and_tensors_train_to_the_same_weights(data):
    held = {
        split.name: Split(split.name, split.batch(slice(0, len(split)))[0], split.labels)
        for split in (data.train, data.validation)
    }
    recipe = replace(RECIPE, augmentation="none")
    one, other = quantized(net), quantized(net)
    first = train(one, data, recipe, seed=1)
    second = train(other, Data(held["train"], held["validation"], Untouchable()), recipe, seed=1)
    assert torch.allclose(weights(one), weights(other), atol=1e-6)
    assert first.validation.accuracy == second.validation.accuracy
    assert evaluate(one, data.validation).loss == pytest.approx(first.validation.loss)


def test_whoever_decodes_the_training_is_the_same(data, monkeypatch):
    one, other = quantized(net), quantized(net)
    train(one, data, RECIPE, seed=1)
    monkeypatch.setattr(image_files, "FEW_IMAGES", 0)
    monkeypatch.setattr(image_files, "n_processors", lambda: 2)
    train(other, data, RECIPE, seed=1)
    assert torch.equal(weights(one), weights(other))


def test_a_training_that_was_cut_goes_on_to_the_same_weights(data, tmp_path):
    whole, cut = quantized(net), quantized(net)
    train(whole, data, RECIPE, seed=1)
    reads = []

    class Cut(type(data.train)):
        def stream(self, order, seeds, size):
            for batch in super().stream(order, seeds, size):
                reads.append(1)
                if len(reads) == 5:
                    raise KeyboardInterrupt
                yield batch

    checkpoint = Checkpoint(tmp_path / "training", 0.0)
    with pytest.raises(KeyboardInterrupt):
        train(cut, Data(Cut(**vars(data.train)), data.validation, Untouchable()), RECIPE, seed=1, checkpoint=checkpoint)
    again, told = quantized(net), []
    train(again, data, RECIPE, seed=1, checkpoint=replace(checkpoint, tell=told.append))
    assert told
    assert torch.equal(weights(again), weights(whole))


def test_together_each_model_sees_the_same_crops_as_alone(data):
    together, alone = [quantized(net, seed) for seed in range(2)], [quantized(net, seed) for seed in range(2)]
    found = train_together(together, data, RECIPE, seeds=[3, 4])
    for seed, model, result in zip([3, 4], alone, found, strict=True):
        assert train(model, data, RECIPE, seed=seed).validation == result.validation
    for one, other in zip(together, alone, strict=True):
        assert torch.equal(weights(one), weights(other))


def test_crops_are_drawn_anew_every_epoch(data):
    images, shuffler = TrainImages.of(data.train, RECIPE, "cpu"), Shuffler(0)
    first, second = images.epoch(shuffler), images.epoch(shuffler)
    assert first.moves.shape == (len(data.train), 1)
    assert len(torch.unique(torch.cat([first.moves, second.moves]))) == 2 * len(data.train)


def test_other_processes_get_the_list_of_files_and_not_the_images(data, tmp_path):
    save_data(data, tmp_path / "data.pt")
    assert (tmp_path / "data.pt").stat().st_size < 20_000
    found = load_data(str(tmp_path / "data.pt"))
    for ours, theirs in ((data.train, found.train), (data.validation, found.validation)):
        assert [theirs.path(index) for index in range(len(theirs))] == [ours.path(index) for index in range(len(ours))]
        assert torch.equal(theirs.batch(slice(0, 2))[0], ours.batch(slice(0, 2))[0])


@pytest.mark.parametrize("augmentation", ["flip", "crop-flip"])
def test_augmentations_of_tensors_are_refused_for_files(data, augmentation):
    with pytest.raises(DataError, match="images in files are augmented by 'resized-crop-flip' or by none"):
        TrainImages.of(data.train, replace(RECIPE, augmentation=augmentation), "cpu")


def test_random_crops_of_tensors_are_refused():
    with pytest.raises(DataError, match="needs images in files"):
        TrainImages.of(digits().train, RECIPE, "cpu")
