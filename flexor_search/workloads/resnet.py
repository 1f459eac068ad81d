"""Residual networks for small images, as He et al. (2016) describe them for CIFAR-10, with shortcuts of option A."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class _Block(nn.Module):
    """Two convolutions beside a shortcut without weights: where it narrows, channels of zeros are added."""

    def __init__(self, channels: int, wide: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, wide, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(wide)
        self.conv2 = nn.Conv2d(wide, wide, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(wide)
        self.stride, self.more = stride, wide - channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        shortcut = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))
        return torch.relu(y + shortcut)


class ResNet(nn.Module):
    """Three stages of 16, 32 and 64 channels, then the mean over all places and a linear layer.

    Args:
        depth: 6n + 2 layers: 20, 32, 44, ...
        in_channels: of images.
        n_classes: logits.

    Raises:
        ValueError: no such depth.
    """

    def __init__(self, depth: int = 20, in_channels: int = 3, n_classes: int = 10) -> None:
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"depth: must be 6n + 2 with n at least 1, such as 20 or 32, got {depth}")
        self.conv1, self.bn1 = nn.Conv2d(in_channels, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        count = depth // 6
        self.layer1 = nn.Sequential(*(_Block(16, 16, 1) for _ in range(count)))
        self.layer2 = nn.Sequential(_Block(16, 32, 2), *(_Block(32, 32, 1) for _ in range(count - 1)))
        self.layer3 = nn.Sequential(_Block(32, 64, 2), *(_Block(64, 64, 1) for _ in range(count - 1)))
        self.linear = nn.Linear(64, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images (n, in_channels, height, width)."""
        y = self.layer3(self.layer2(self.layer1(torch.relu(self.bn1(self.conv1(x))))))
        return self.linear(y.mean((2, 3)))
