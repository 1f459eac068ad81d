"""A user's own models and data, good and bad, as a module of the user's would hold them."""

MODULE = '''
import sys
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

CALLS = []


def pictures(count, seed, shape=(1, 8, 8), classes=4):
    generator = torch.Generator().manual_seed(seed)
    prototypes = torch.randn(classes, *shape, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(count) % classes
    return prototypes[labels] + 0.7 * torch.randn(count, *shape, generator=generator), labels


def build():
    """A perceptron; its first and last layer are kept by the default rule."""
    CALLS.append("build")
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 640), nn.ReLU(), nn.Linear(640, 4)
    )


def loaders():
    """Two data sets and a loader that shuffles."""
    CALLS.append("loaders")
    train, validation, test = (TensorDataset(*pictures(count, seed)) for seed, count in enumerate((240, 80, 80)))
    return train, DataLoader(validation, batch_size=32), test


def one_dimensional():
    return nn.Sequential(
        nn.Conv1d(2, 32, 5, bias=False), nn.BatchNorm1d(32), nn.ReLU(), nn.Conv1d(32, 64, 5, stride=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(64 * 12, 160), nn.ReLU(), nn.Linear(160, 4),
    )


def signals():
    """Two parts: validation is a tenth of the first."""
    return tuple(TensorDataset(*pictures(count, seed, (2, 32))) for seed, count in enumerate((240, 80)))


def explode():
    raise AssertionError("this must never be called")


def two_lines():
    raise RuntimeError("one line\\nand another")


def leave():
    sys.exit(7)


def not_a_model():
    return [1, 2]


def no_layers():
    return nn.Sequential(nn.Flatten(), nn.ReLU())


def no_logits():
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 40, 3), nn.Conv2d(40, 40, 3))


def hopeless():
    """Every training of it fails."""

    class Hopeless(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = build()

        def forward(self, images):
            return self.net(images) * (torch.nan if self.training else 1.0)

    return Hopeless()


def changed(part, change):
    parts = [pictures(count, seed) for seed, count in enumerate((240, 80, 80))]
    parts[part] = change(*parts[part])
    return tuple(TensorDataset(*one) for one in parts)


def label_too_large():
    return changed(2, lambda images, labels: (images, labels + 1))


def label_negative():
    return changed(0, lambda images, labels: (images, labels - 1))


def label_no_number():
    return changed(0, lambda images, labels: (images, labels.float()))


def wrong_channels():
    return tuple(TensorDataset(*pictures(80, seed, (3, 9, 9))) for seed in range(3))


def empty():
    return changed(1, lambda images, labels: (images[:0], labels[:0]))


def broken_pixel():
    def spoil(images, labels):
        images[17, 0, 2, 3] = torch.nan
        return images, labels

    return changed(1, spoil)


def one_part():
    return (TensorDataset(*pictures(80, 0)),)


def not_data():
    return [1], [2], [3]


class Raising(Dataset):
    def __len__(self):
        return 10

    def __getitem__(self, index):
        raise OSError("the disk is gone")


def raising_items():
    return Raising(), Raising()
'''
