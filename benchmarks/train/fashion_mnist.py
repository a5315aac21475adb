"""Train the demo network on Fashion-MNIST and write the files of ``tvmopt/demo_data``.

Before::

    Debian's package dataset-fashion-mnist: 60,000 training and 10,000 test images, 28 x 28, gray

After::

    fashion_mnist.onnx               image: (N, 1, 28, 28) uint8 -> logits: (N, 10) float32
    fashion_mnist_test.npz           all test images and labels
    fashion_mnist_calibration.npz    512 training images and labels, for quantization
    classes.json                     the names of the ten classes, by label
    LICENSE-fashion-mnist            the notice that the images come with

The network takes raw pixels: the cast to float and the scaling to [0, 1] are its first operators.
It scales without shifting, so the zero padding of its first convolution is black, as is the
background of every image, and the scaling can be folded into that convolution exactly.

Needs a Debian system with apt and dpkg, and ``pip install torch numpy onnx onnxruntime``.

Sources: H. Xiao, K. Rasul and R. Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking
Machine Learning Algorithms", 2017: the data. K. He, X. Zhang, S. Ren and J. Sun, "Deep Residual
Learning for Image Recognition", CVPR 2016: the residual block. M. Sandler, A. Howard, M. Zhu,
A. Zhmoginov and L.-C. Chen, "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018:
the inverted residual and ReLU6. L. N. Smith and N. Topin, "Super-Convergence: Very Fast Training
of Neural Networks Using Large Learning Rates", 2019: the one-cycle learning rate.
"""

import argparse
import gzip
import hashlib
import json
import logging
import math
import subprocess
import time
import zipfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

LOGGER = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "dataset-fashion-mnist"
DATASET = Path("usr/share/datasets/fashion-mnist")
COPYRIGHT = Path("usr/share/doc") / PACKAGE / "copyright"
SHA256 = {
    "train-images-idx3-ubyte.gz": (
        "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7"
    ),
    "train-labels-idx1-ubyte.gz": (
        "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056"
    ),
    "t10k-images-idx3-ubyte.gz": (
        "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa"
    ),
    "t10k-labels-idx1-ubyte.gz": (
        "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05"
    ),
}
CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
CALIBRATION_IMAGES = 512
CALIBRATION_SEED = 2017
OPSET = 17


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """How the network is trained.

    Attributes:
        epochs: Passes over the training images, at least 1.
        batch: Images in a step; what does not fill a batch is left out of that epoch.
        learning_rate: Peak of the one-cycle schedule.
        momentum: Nesterov momentum of SGD, in [0, 1).
        weight_decay: L2 penalty on convolution and linear weights; biases and batch-norm have none.
        label_smoothing: Share of the target spread over all classes, in [0, 1).
        ema_decay: Share of the averaged weights kept in a step, in [0, 1).
        max_shift_pixels: Largest random shift along each axis.
        seed: Seed of the initial weights, of the order and of the augmentation.
    """

    epochs: int = 16
    batch: int = 128
    learning_rate: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.05
    ema_decay: float = 0.998
    max_shift_pixels: int = 2
    seed: int = 0


def fetch(cache: Path) -> Path:
    """Download and unpack the Debian package, unless ``cache`` has it already.

    Args:
        cache: Folder to keep it in; it is made, with a ``.gitignore`` that covers all of it.

    Returns:
        The root of the unpacked package, whose four data files have the expected SHA-256.

    Raises:
        ValueError: A data file has another SHA-256.
        subprocess.CalledProcessError: apt or dpkg failed.
    """
    unpacked = cache / PACKAGE
    if not (unpacked / DATASET).is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        (cache / ".gitignore").write_text("*\n", encoding="utf-8")
        subprocess.run(["apt-get", "download", PACKAGE], cwd=cache, check=True)
        archive = max(cache.glob(f"{PACKAGE}_*.deb"))
        subprocess.run(["dpkg-deb", "-x", str(archive), str(unpacked)], check=True)
    for name, expected in SHA256.items():
        found = hashlib.sha256((unpacked / DATASET / name).read_bytes()).hexdigest()
        if found != expected:
            raise ValueError(f"{name} must have sha256 {expected}, got {found}")
    return unpacked


def read_idx(path: Path) -> np.ndarray:
    """Return the uint8 array of a gzipped IDX file, in the shape its header states."""
    data = gzip.decompress(path.read_bytes())
    kind, rank = data[2], data[3]
    if kind != 0x08:
        raise ValueError(f"{path.name} must hold unsigned bytes (type 0x08), got {kind:#04x}")
    shape = np.frombuffer(data, ">u4", count=rank, offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)


def read_split(unpacked: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return one split of the data set.

    Args:
        unpacked: What ``fetch`` returned.
        split: "train" or "t10k".

    Returns:
        Images (n, 1, 28, 28) uint8, and labels (n,) int64 in [0, 10).
    """
    images = read_idx(unpacked / DATASET / f"{split}-images-idx3-ubyte.gz")
    labels = read_idx(unpacked / DATASET / f"{split}-labels-idx1-ubyte.gz")
    return images[:, None], labels.astype(np.int64)


def license_text(copyright_file: Path) -> str:
    """Return the notice of the images, from the Expat paragraph of Debian's copyright file."""
    paragraph = copyright_file.read_text(encoding="utf-8").split("\nLicense: Expat\n Permission")[1]
    lines = ["Permission" + paragraph.splitlines()[0], *paragraph.splitlines()[1:]]
    body = "\n".join("" if line.strip() == "." else line.strip() for line in lines)
    holder = "Copyright (c) 2017 Zalando SE, https://tech.zalando.com"
    return f"Fashion-MNIST\n\nThe MIT License (MIT)\n\n{holder}\n\n{body.strip()}\n"


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write what ``numpy.savez_compressed`` would, at the highest level of deflate."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)


def write_data(unpacked: Path, output: Path) -> None:
    """Write the test and the calibration images, the class names and the notice to ``output``."""
    images, labels = read_split(unpacked, "t10k")
    write_npz(output / "fashion_mnist_test.npz", {"image": images, "labels": labels})
    images, labels = read_split(unpacked, "train")
    rng = np.random.default_rng(CALIBRATION_SEED)
    chosen = rng.choice(len(images), CALIBRATION_IMAGES, replace=False)
    calibration = {"image": images[chosen], "labels": labels[chosen]}
    write_npz(output / "fashion_mnist_calibration.npz", calibration)
    classes = json.dumps(CLASSES, indent=2) + "\n"
    (output / "classes.json").write_text(classes, encoding="utf-8")
    notice = license_text(unpacked / COPYRIGHT)
    (output / "LICENSE-fashion-mnist").write_text(notice, encoding="utf-8")


class ConvUnit(nn.Sequential):
    """A convolution without bias, padded to keep the size, batch-norm and, unless linear, ReLU6."""

    def __init__(
        self, c: int, o: int, kernel: int, *, stride: int = 1, groups: int = 1, linear: bool = False
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c, o, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(o)
        if not linear:
            self.act = nn.ReLU6()


class Residual(nn.Module):
    """ResNet's basic block: two 3 x 3 convolutions, the sum with the input, then ReLU6."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.conv1 = ConvUnit(c, c, 3)
        self.conv2 = ConvUnit(c, c, 3, linear=True)
        self.act = nn.ReLU6()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (n, c, h, w) to the same shape."""
        return self.act(x + self.conv2(self.conv1(x)))


class InvertedResidual(nn.Module):
    """MobileNetV2's block: expand, 3 x 3 depthwise, project linearly, the sum with the input."""

    def __init__(self, c: int, expansion: int) -> None:
        super().__init__()
        hidden = c * expansion
        self.expand = ConvUnit(c, hidden, 1)
        self.depthwise = ConvUnit(hidden, hidden, 3, groups=hidden)
        self.project = ConvUnit(hidden, c, 1, linear=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (n, c, h, w) to the same shape."""
        return x + self.project(self.depthwise(self.expand(x)))


class FashionNet(nn.Module):
    """The demo network: plain, residual and inverted residual blocks for 28 x 28 gray images."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvUnit(1, 8, 3)
        self.down1 = ConvUnit(8, 24, 3, stride=2)
        self.stage1 = Residual(24)
        self.down2 = ConvUnit(24, 64, 3, stride=2)
        self.stage2 = nn.Sequential(*(InvertedResidual(64, 3) for _ in range(3)))
        self.head = ConvUnit(64, 128, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(128, len(CLASSES))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map raw pixels (n, 1, 28, 28) uint8 to logits (n, 10) float32."""
        x = image.float() * (1 / 255)
        x = self.stage1(self.down1(self.stem(x)))
        x = self.head(self.stage2(self.down2(x)))
        return self.classifier(torch.flatten(self.pool(x), 1))


def count_macs(model: nn.Module) -> int:
    """Return the multiply-accumulates of all convolutions and linear layers for one image."""
    macs = 0

    def count(module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        nonlocal macs
        weight = module.get_parameter("weight")
        macs += output.numel() * (weight.numel() // weight.shape[0])

    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad():
        model.eval()(torch.zeros(1, 1, 28, 28, dtype=torch.uint8))
    for hook in hooks:
        hook.remove()
    return macs


def augment(image: torch.Tensor, max_shift_pixels: int) -> torch.Tensor:
    """Mirror each image or not, and shift it by its own random offset.

    Args:
        image: (n, 1, h, w) uint8.
        max_shift_pixels: Largest shift along each axis; what comes in is black.

    Returns:
        Images of the same shape and dtype.
    """
    n, _, h, w = image.shape
    reach = max_shift_pixels
    padded = nn.functional.pad(image[:, 0], (reach, reach, reach, reach))
    dy, dx = torch.randint(0, 2 * reach + 1, (2, n, 1))
    rows, columns = torch.arange(h) + dy, torch.arange(w).expand(n, w)
    columns = torch.where(torch.rand(n, 1) < 0.5, columns.flip(1), columns) + dx
    return padded[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]][:, None]


def make_optimizer(model: nn.Module, options: TrainOptions) -> torch.optim.Optimizer:
    """Return Nesterov SGD that decays only weights of two or more dimensions."""
    weights = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": weights, "weight_decay": options.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    rate, momentum = options.learning_rate, options.momentum
    return torch.optim.SGD(groups, lr=rate, momentum=momentum, nesterov=True)


def blend(
    averaged: torch.Tensor, current: torch.Tensor, count: torch.Tensor | int, *, decay: float
) -> torch.Tensor:
    """Return the next moving average, whose decay grows with ``count`` so that it never lags."""
    early = (1 + int(count)) / (10 + int(count))
    keep = min(decay, early)
    return keep * averaged + (1 - keep) * current


def train(images: torch.Tensor, labels: torch.Tensor, options: TrainOptions) -> nn.Module:
    """Train a new network.

    Args:
        images: (n, 1, 28, 28) uint8.
        labels: (n,) int64 in [0, 10).
        options: How to train; the same options give the same weights on the same machine.

    Returns:
        The network with averaged weights, in evaluation mode. No other data chose anything in it.
    """
    torch.manual_seed(options.seed)
    model = FashionNet().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = AveragedModel(model, avg_fn=partial(blend, decay=options.ema_decay), use_buffers=True)
    optimizer = make_optimizer(model, options)
    steps = len(images) // options.batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, options.learning_rate, total_steps=options.epochs * steps, pct_start=0.2
    )
    criterion = nn.CrossEntropyLoss(label_smoothing=options.label_smoothing)
    for epoch in range(options.epochs):
        start, total = time.perf_counter(), 0.0
        model.train()
        for chosen in torch.randperm(len(images))[: steps * options.batch].split(options.batch):
            image = augment(images[chosen], options.max_shift_pixels)
            loss = criterion(model(image), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            average.update_parameters(model)
            total += loss.item()
        seconds = time.perf_counter() - start
        LOGGER.info("epoch %d: loss %.4f, %.0f s", epoch + 1, total / steps, seconds)
    return average.module.eval()


def export(model: nn.Module, path: Path) -> None:
    """Write the network as ONNX, with batch-norm folded and the batch dimension named ``N``."""
    torch.onnx.export(
        model.to(memory_format=torch.contiguous_format),  # type: ignore[call-overload]
        (torch.zeros(1, 1, 28, 28, dtype=torch.uint8),),
        str(path),
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "N"}, "logits": {0: "N"}},
        opset_version=OPSET,
        dynamo=False,
    )


def measure_accuracy(model: Path, data: Path, batch: int = 500) -> float:
    """Return the share of images that ONNX Runtime classifies as labelled, in [0, 1].

    Args:
        model: ONNX file with an input ``image``.
        data: npz file with ``image`` and ``labels``.
        batch: Images in a run.
    """
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    with np.load(data) as arrays:
        images, labels = arrays["image"], arrays["labels"]
    parts = np.array_split(images, math.ceil(len(images) / batch))
    logits = np.concatenate([session.run(None, {"image": part})[0] for part in parts])
    return float(np.mean(logits.argmax(axis=1) == labels))


def parse_arguments() -> argparse.Namespace:
    """Return the command line's options."""
    options = TrainOptions()
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=options.epochs, help="training epochs")
    parser.add_argument("--seed", type=int, default=options.seed, help="seed of the training")
    parser.add_argument("--cache", type=Path, default=ROOT / "benchmarks/.cache", help="downloads")
    parser.add_argument("--output", type=Path, default=ROOT / "tvmopt/demo_data", help="results")
    return parser.parse_args()


def main() -> None:
    """Fetch the data, train, export, and report the accuracy of the exported file."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    arguments = parse_arguments()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    unpacked = fetch(arguments.cache)
    arguments.output.mkdir(parents=True, exist_ok=True)
    write_data(unpacked, arguments.output)
    images, labels = read_split(unpacked, "train")
    options = TrainOptions(epochs=arguments.epochs, seed=arguments.seed)
    model = train(torch.from_numpy(images.copy()), torch.from_numpy(labels), options)
    path = arguments.output / "fashion_mnist.onnx"
    export(model, path)
    accuracy = measure_accuracy(path, arguments.output / "fashion_mnist_test.npz")
    parameters = sum(p.numel() for p in model.parameters())
    LOGGER.info("accuracy %.2f %% on the test images, by ONNX Runtime", 100 * accuracy)
    LOGGER.info(
        "%d parameters, %d MACs, %d bytes", parameters, count_macs(model), path.stat().st_size
    )


if __name__ == "__main__":
    main()
