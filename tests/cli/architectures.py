"""Models of kinds that the project does not ship, as a user's module would hold them; copied to the user's folder."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

CLASSES = 4
WEIGHTS = "squeezenet.pt"


def separable_block(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(n_in, n_in, 3, padding=1, groups=n_in, bias=False), nn.BatchNorm2d(n_in), nn.ReLU6()),
        *(nn.Conv2d(n_in, n_out, 1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU6()),
    )


def separable() -> nn.Module:
    """Depthwise and pointwise convolutions, as MobileNet has them."""
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU6()),
        *(separable_block(16, 32), separable_block(32, 64)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, CLASSES)),
    )


class Attention(nn.Module):
    """Self-attention of Linear layers alone."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, tokens: Tensor) -> Tensor:
        parts = [layer(tokens).unflatten(2, (self.heads, -1)).transpose(1, 2) for layer in self.inward]
        return self.out(functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2))

    @property
    def inward(self) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
        return self.query, self.key, self.value


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention, self.norm2 = nn.LayerNorm(width), Attention(width, heads), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class VisionTransformer(nn.Module):
    """Patches of 4x4, Linear layers only, a learned place for each patch."""

    def __init__(self, width: int = 32, depth: int = 2, heads: int = 2) -> None:
        super().__init__()
        self.patches = nn.Linear(3 * 16, width)
        self.place = nn.Parameter(torch.randn(16, width) / 50)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        tokens = functional.unfold(images, 4, stride=4).transpose(1, 2)
        return self.head(self.norm(self.blocks(self.patches(tokens) + self.place)).mean(1))


class Tied(nn.Module):
    """Two layers that are one weight, as of an encoder and its decoder; one of them is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.inward = nn.Linear(3 * 256, 48)
        self.there, self.back = nn.Linear(48, 48), nn.Linear(48, 48)
        self.back.weight = self.there.weight
        self.head = nn.Linear(48, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.inward(images.flatten(1)).relu()
        return self.head(hidden + self.back(self.there(self.there(hidden).relu()).relu()))


def sequences_net() -> nn.Module:
    """Convolutions along a sequence, dilated, without padding."""
    return nn.Sequential(
        *(nn.Conv1d(6, 32, 5), nn.BatchNorm1d(32), nn.ReLU()),
        *(nn.Conv1d(32, 64, 3, dilation=2, bias=False), nn.BatchNorm1d(64), nn.ReLU()),
        *(nn.Conv1d(64, 64, 3, groups=2), nn.ReLU(), nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Linear(64, CLASSES)),
    )


def bare_squeezenet() -> nn.Module:
    from torchvision.models import squeezenet1_1

    return squeezenet1_1(num_classes=CLASSES, dropout=0.0)


def pretrained() -> nn.Module:
    """One of torchvision's, with weights from a file that lies here."""
    model = bare_squeezenet()
    model.load_state_dict(torch.load(WEIGHTS, weights_only=True))
    return model


def without_norms() -> nn.Module:
    """Convolutions with biases and nothing that normalizes."""
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU()),
        *(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 16, 64), nn.ReLU(), nn.Linear(64, CLASSES)),
    )


def made(count: int, seed: int, *shape: int) -> TensorDataset:
    """Four prototypes in noise."""
    generator = torch.Generator().manual_seed(seed)
    prototypes = torch.randn(CLASSES, *shape, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(count) % CLASSES
    return TensorDataset(prototypes[labels] + 0.5 * torch.randn(count, *shape, generator=generator), labels)


def pictures() -> tuple[TensorDataset, ...]:
    return made(128, 0, 3, 16, 16), made(40, 1, 3, 16, 16), made(40, 2, 3, 16, 16)


def larger_pictures() -> tuple[TensorDataset, ...]:
    return made(128, 0, 3, 32, 32), made(40, 1, 3, 32, 32), made(40, 2, 3, 32, 32)


def sequences() -> tuple[TensorDataset, ...]:
    return made(128, 0, 6, 40), made(40, 1, 6, 40), made(40, 2, 6, 40)
