"""Train a ResNet-8 on Fashion-MNIST: ``python train_resnet8.py ID OUT IMAGES LABELS``.

IMAGES and LABELS are the training files of the data set. The network is the reference of the
accuracy tables: large enough to be compressed, small enough to be trained in minutes on a CPU. It
takes raw pixels, as the demo's network does; scaling them is its first operator.

Sources: K. He, X. Zhang, S. Ren and J. Sun, "Deep Residual Learning for Image Recognition", CVPR
2016, for the network (one block a stage); L. N. Smith and N. Topin, "Super-Convergence: Very Fast
Training of Neural Networks Using Large Learning Rates", 2019, for the schedule.
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

OPSET = 17
EPOCHS, BATCH, PEAK_RATE, WEIGHT_DECAY = 10, 128, 4e-3, 0.02
CLASSES = 10


def _unit(c: int, o: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(c, o, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(o))


class Block(nn.Module):
    """Two 3 x 3 convolutions and a shortcut, which is a 1 x 1 convolution where sizes differ."""

    def __init__(self, c: int, o: int) -> None:
        super().__init__()
        stride = 1 if c == o else 2
        self.first, self.second = _unit(c, o, stride=stride), _unit(o, o)
        self.shortcut = nn.Identity() if c == o else _unit(c, o, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, c, h, w) to (n, o, h / stride, w / stride)."""
        inner = torch.relu(self.first(x))
        return torch.relu(self.second(inner) + self.shortcut(x))


class ResNet8(nn.Module):
    """A stem, three blocks of 16, 32 and 64 channels, and a linear classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _unit(1, 16)
        self.blocks = nn.Sequential(Block(16, 16), Block(16, 32), Block(32, 64))
        self.classifier = nn.Linear(64, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        """Map raw pixels (n, 1, 28, 28) uint8 to logits (n, 10)."""
        x = torch.relu(self.stem(image.float() * (1 / 255)))
        return self.classifier(self.blocks(x).mean(dim=(2, 3)))


def read_idx(path: Path, header: int) -> np.ndarray:
    """Return the bytes of a gzipped IDX file behind its header."""
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)


def train(images: Tensor, labels: Tensor) -> nn.Module:
    """Return a trained network; the same on the same machine."""
    torch.manual_seed(0)
    net = ResNet8().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=WEIGHT_DECAY)
    steps = len(images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=EPOCHS * steps)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(images))[: steps * BATCH].split(BATCH):
            mirrored = torch.rand(BATCH, 1, 1, 1) < 0.5
            batch = torch.where(mirrored, images[rows].flip(3), images[rows])
            loss = nn.functional.cross_entropy(net(batch), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return net.eval()


def main(out: str, image_file: Path, label_file: Path) -> None:
    """Train and write the ONNX file."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    images = torch.from_numpy(read_idx(image_file, 16).reshape(-1, 1, 28, 28).copy())
    labels = torch.from_numpy(read_idx(label_file, 8).astype(np.int64))
    net = train(images, labels).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    torch.onnx.export(
        net,
        (images[:1],),
        out,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "N"}, "logits": {0: "N"}},
        opset_version=OPSET,
        dynamo=False,
    )


if __name__ == "__main__":
    main(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
