"""Networks for timing: standard architectures with seeded random weights.

Their speed means something, their outputs do not. Batch norms keep the statistics of noise images
that went through them, so that activations stay in the range a trained network has.

Sources: K. He, X. Zhang, S. Ren and J. Sun, "Deep residual learning for image recognition",
CVPR 2016, with the stride of a bottleneck in its 3x3 convolution; M. Sandler et al.,
"MobileNetV2: inverted residuals and linear bottlenecks", CVPR 2018, table 2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def conv_bn(
    c: int, o: int, kernel: int, stride: int = 1, *, groups: int = 1, act: nn.Module | None = None
) -> nn.Sequential:
    """Return convolution, batch norm and, if given, the activation ``act``."""
    conv = nn.Conv2d(c, o, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(o), *([act] if act is not None else []))


class ResidualBlock(nn.Module):
    """``relu(branch(x) + shortcut(x))``."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, c, h, w) to (n, o, h / stride, w / stride)."""
        return torch.relu(self.branch(x) + self.shortcut(x))


class InvertedResidual(nn.Module):
    """``x + branch(x)``, no activation after it."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, c, h, w) to the same shape."""
        return x + self.branch(x)


def _basic(c: int, width: int, stride: int) -> tuple[nn.Module, int]:
    branch = nn.Sequential(
        conv_bn(c, width, 3, stride, act=nn.ReLU()),
        conv_bn(width, width, 3),
    )
    return branch, width


def _bottleneck(c: int, width: int, stride: int) -> tuple[nn.Module, int]:
    branch = nn.Sequential(
        conv_bn(c, width, 1, act=nn.ReLU()),
        conv_bn(width, width, 3, stride, act=nn.ReLU()),
        conv_bn(width, 4 * width, 1),
    )
    return branch, 4 * width


def resnet(depth: int) -> nn.Module:
    """Return ResNet-18 or ResNet-50 for 1000 classes."""
    block, counts = {18: (_basic, (2, 2, 2, 2)), 50: (_bottleneck, (3, 4, 6, 3))}[depth]
    layers: list[nn.Module] = [
        conv_bn(3, 64, 7, 2, act=nn.ReLU()),
        nn.MaxPool2d(3, 2, padding=1),
    ]
    c = 64
    for stage, count in enumerate(counts):
        for index in range(count):
            stride = 2 if stage > 0 and index == 0 else 1
            branch, o = block(c, 64 << stage, stride)
            same = stride == 1 and c == o
            layers.append(
                ResidualBlock(branch, nn.Identity() if same else conv_bn(c, o, 1, stride))
            )
            c = o
    return nn.Sequential(*layers, *_classifier(c))


def mobilenet_v2() -> nn.Module:
    """Return MobileNetV2 of width 1 for 1000 classes."""
    layers: list[nn.Module] = [conv_bn(3, 32, 3, 2, act=nn.ReLU6())]
    c = 32
    for expansion, o, count, first_stride in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for index in range(count):
            stride = first_stride if index == 0 else 1
            hidden = expansion * c
            branch = nn.Sequential(
                *([conv_bn(c, hidden, 1, act=nn.ReLU6())] if expansion > 1 else []),
                conv_bn(hidden, hidden, 3, stride, groups=hidden, act=nn.ReLU6()),
                conv_bn(hidden, o, 1),
            )
            layers.append(InvertedResidual(branch) if stride == 1 and c == o else branch)
            c = o
    layers.append(conv_bn(c, 1280, 1, act=nn.ReLU6()))
    return nn.Sequential(*layers, *_classifier(1280))


def _classifier(c: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, 1000)]


@torch.no_grad()
def randomize(net: nn.Module, seed: int) -> nn.Module:
    """Fill ``net`` with seeded weights, and its batch norms with the statistics these lead to."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan_in = module.weight[0].numel()
            module.weight.normal_(0.0, (2.0 / fan_in) ** 0.5, generator=generator)
            if module.bias is not None:
                module.bias.zero_()
        if isinstance(module, nn.BatchNorm2d):
            module.weight.uniform_(0.5, 1.5, generator=generator)
            module.bias.normal_(0.0, 0.2, generator=generator)
            module.momentum = None  # the statistics become the plain mean over the batches seen
    net.train()
    net(torch.randn(8, 3, 128, 128, generator=generator))
    return net.eval()
