"""Folders of images: listed, never held; read as torchvision reads them; damaged ones named."""

import logging

import pytest
import torch
from torchvision import transforms
from torchvision.datasets import ImageFolder

from flexor_search.errors import DataError
from flexor_search.workloads import image_files, image_folder
from flexor_search.workloads.image_files import IMAGENET_MEAN, IMAGENET_STD, random_crop, read_image
from tests.workloads.made_data import write_cifar10, write_image, write_imagenet


@pytest.fixture
def imagenet(tmp_path):
    return write_imagenet(tmp_path / "made", classes=3, train=9, val=4)


def test_it_lists_what_torchvision_lists(imagenet):
    data = image_folder.load(imagenet)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [25, 2, 12]
    theirs = {path: label for path, label in ImageFolder(str(imagenet / "train")).samples}  # noqa: C416
    ours = {
        str(split.path(index)): int(split.labels[index])
        for split in (data.train, data.validation)
        for index in range(len(split))
    }
    assert ours == theirs
    assert data.n_classes == 3


def test_no_image_is_held_in_memory(imagenet):
    data = image_folder.load(imagenet)
    assert data.train.images.device.type == "meta"
    assert data.train.images.shape == (25, 3, 224, 224)
    with pytest.raises(TypeError, match="meta device"):
        data.train.images[0].numpy()


def test_images_that_are_scored_are_what_torchvisions_transforms_give(imagenet):
    data = image_folder.load(imagenet)
    usual = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    theirs = ImageFolder(str(imagenet / "val"), usual)
    images, labels = data.test.batch(slice(0, 12))
    assert labels.tolist() == [label for _, label in theirs.samples]
    assert torch.allclose(images, torch.stack([theirs[index][0] for index in range(12)]), atol=1e-5)
    batches = list(data.test.batches(5))
    assert [len(batch) for batch, _ in batches] == [5, 5, 2]
    assert torch.equal(torch.cat([batch for batch, _ in batches]), images)


@pytest.mark.parametrize("size", [(500, 375), (40, 400), (400, 40), (64, 64)])
def test_random_crops_are_torchvisions(size):
    width, height = size
    picture = torch.zeros(3, height, width)
    for seed in range(50):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            top, left, high, wide = transforms.RandomResizedCrop.get_params(picture, [0.08, 1.0], [3 / 4, 4 / 3])
        assert random_crop(width, height, torch.Generator().manual_seed(seed)) == (left, top, wide, high)


def test_a_crop_depends_on_its_seed_alone_and_is_mirrored_half_of_the_time(tmp_path):
    write_image(tmp_path / "one.jpg", 60, 50)
    crops = [read_image(tmp_path / "one.jpg", 16, seed) for seed in range(40)]
    assert torch.equal(crops[7], read_image(tmp_path / "one.jpg", 16, 7))
    assert not torch.equal(crops[7], crops[8])
    assert crops[0].shape == (3, 16, 16)
    assert crops[0].dtype == torch.uint8


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_images_of_other_modes_become_colour(tmp_path, mode):
    from PIL import Image

    Image.new(mode, (30, 20)).save(tmp_path / "one.tiff")
    assert read_image(tmp_path / "one.tiff", 8, None).shape == (3, 8, 8)


def test_batches_are_the_same_whoever_decodes_them(imagenet, monkeypatch):
    split = image_folder.load(imagenet).train
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(1))
    seeds = torch.arange(len(split))[:, None]
    here = list(split.stream(order, seeds, 7))
    monkeypatch.setattr(image_files, "FEW_IMAGES", 0)
    monkeypatch.setattr(image_files, "n_processors", lambda: 2)
    there = list(split.stream(order, seeds, 7))
    assert [len(labels) for _, labels in there] == [7, 7, 7, 4]
    for (images, labels), (others, their_labels) in zip(here, there, strict=True):
        assert torch.equal(images, others)
        assert torch.equal(labels, their_labels)
    images, labels = split.read(order[:6].view(2, 3), seeds[:6].view(2, 3, 1))
    assert torch.equal(images.flatten(0, 1), here[0][0][:6])
    assert labels.shape == (2, 3)


def damage(split, index, share=0.5):
    """Cut a file short, in its pixels or in its header."""
    path = split.path(index)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    return path


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.95], ids="{:.0%} left".format)
def test_a_file_cut_anywhere_is_corrupt(imagenet, share):
    split = image_folder.load(imagenet).test
    path = damage(split, 1, share)
    with pytest.raises(DataError, match=f"^data: {path} cannot be read as an image"):
        split.batch(torch.tensor([1]))


def test_images_are_decoded_when_their_batch_is_asked_for(imagenet, monkeypatch):
    split, read = image_folder.load(imagenet).train, []
    monkeypatch.setattr(image_files, "read_image", lambda path, *more: read.append(path) or read_image(path, *more))
    stream = split.stream(torch.arange(25), torch.arange(25)[:, None], 4)
    for count in (4, 8):
        next(stream)
        assert len(read) == count


@pytest.mark.parametrize("few", [0, 64], ids=["other processes", "here"])
def test_a_corrupt_image_is_named_and_training_goes_on_with_the_next(imagenet, caplog, monkeypatch, few):
    split = image_folder.load(imagenet).train
    path = damage(split, 3)
    monkeypatch.setattr(image_files, "FEW_IMAGES", few)
    with caplog.at_level(logging.WARNING):
        ((images, labels),) = split.stream(torch.tensor([2, 3]), torch.tensor([[5], [6]]), 2)
    assert f"{path} cannot be read as an image" in caplog.text
    assert "the next image takes its place" in caplog.text
    assert torch.equal(images[1], read_image(split.path(4), 224, 6))
    assert labels[1] == split.labels[4]


@pytest.mark.parametrize("few", [0, 64], ids=["other processes", "here"])
def test_a_corrupt_image_among_those_that_are_scored_ends_the_run_and_is_named(imagenet, monkeypatch, few):
    split = image_folder.load(imagenet).test
    path = damage(split, 1)
    monkeypatch.setattr(image_files, "FEW_IMAGES", few)
    with pytest.raises(DataError, match=f"^data: {path} cannot be read as an image.*; fetch it again") as told:
        list(split.batches(4))
    assert "Traceback" not in str(told.value)


def test_where_all_are_corrupt_training_ends(imagenet):
    split = image_folder.load(imagenet).train
    for index in range(len(split)):
        damage(split, index)
    with pytest.raises(DataError, match="nor can the 9 behind it; fetch the data again"):
        split.read(torch.tensor([0]), torch.tensor([[0]]))


def test_a_class_folder_without_images_is_named(imagenet):
    (imagenet / "train" / "n00000003").mkdir()
    (imagenet / "val" / "n00000003").mkdir()
    (imagenet / "train" / "n00000003" / "notes.txt").write_text("nothing")
    with pytest.raises(DataError, match=r"class folder .*train/n00000003 holds no images"):
        image_folder.load(imagenet)


def test_classes_that_differ_are_refused(imagenet):
    write_image(imagenet / "val" / "n00000009" / "one.jpg")
    with pytest.raises(DataError, match="differ in 1 class folders, such as n00000009"):
        image_folder.load(imagenet)


def test_a_folder_without_class_folders_is_refused(tmp_path):
    write_image(tmp_path / "train" / "one.jpg")
    write_image(tmp_path / "val" / "one.jpg")
    with pytest.raises(DataError, match="train holds no class folders; give every class a folder"):
        image_folder.load(tmp_path)


def test_a_folder_of_another_data_set_is_refused_and_named(tmp_path):
    write_cifar10(tmp_path)
    with pytest.raises(DataError, match="does not hold the folders train and val; it seems to hold CIFAR-10"):
        image_folder.load(tmp_path)


def test_its_fingerprint_is_made_of_names_sizes_and_labels(imagenet):
    split = image_folder.load(imagenet).test
    before = b"".join(split.identity())
    assert b"".join(image_folder.load(imagenet).test.identity()) == before
    damage(split, 2)
    assert b"".join(image_folder.load(imagenet).test.identity()) != before


def test_a_part_of_it_is_taken_without_reading(imagenet):
    split = image_folder.load(imagenet).train
    part = split.take(5)
    assert len(part) == len(part.images) == 5
    assert type(part) is type(split)
    assert part.path(0).exists()


def test_folders_in_a_class_folder_are_listed_in_torchvisions_order(imagenet):
    for name in ("a/d/b.JPEG", "a/d/a.png", "a-b/c.jpg", "a/e.JPEG"):
        path = imagenet / "val" / "n00000001" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, 30, 30)
    (imagenet / "val" / "n00000001" / "a" / "notes.txt").write_text("not an image")
    test = image_folder.load(imagenet).test
    theirs = ImageFolder(str(imagenet / "val")).samples
    assert [(str(test.path(i)), int(test.labels[i])) for i in range(len(test))] == theirs
    assert len(theirs) == 16


def test_a_long_listing_tells_how_far_it_is(imagenet, caplog, monkeypatch):
    monkeypatch.setattr(image_folder, "_TOLD_EVERY", -1.0)
    with caplog.at_level(logging.INFO, logger="flexor_search.workloads"):
        image_folder.load(imagenet)
    assert "data: 18 images listed, 2 of 3 class folders of" in caplog.text
    assert caplog.text.count("class folders of") == 6


def test_a_link_to_nothing_is_named(imagenet):
    path = imagenet / "train" / sorted(path.name for path in (imagenet / "train").iterdir())[1] / "gone.JPEG"
    path.symlink_to("nowhere.JPEG")
    with pytest.raises(DataError, match=f"{path} cannot be read: No such file"):
        image_folder.load(imagenet)


@pytest.mark.parametrize("few", [0, 64], ids=["other processes", "here"])
def test_reading_draws_no_number_of_the_trainings(imagenet, monkeypatch, few):
    split = image_folder.load(imagenet).test
    monkeypatch.setattr(image_files, "FEW_IMAGES", few)
    before = torch.get_rng_state()
    list(split.batches(4))
    assert torch.equal(torch.get_rng_state(), before)
