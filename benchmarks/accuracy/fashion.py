"""Fashion-MNIST: the demo's network and a ResNet-8, 10,000 test images, 512 training images."""

from __future__ import annotations

from functools import partial
from importlib import resources
from pathlib import Path

import numpy as np

from benchmarks.accuracy.reference import Arrays, float_answers
from benchmarks.accuracy.task import Task
from benchmarks.accuracy.verdict import against_labels
from benchmarks.zoo.fetch import fetch


def demo() -> Task:
    """Return the demo's network; all of it is shipped."""
    return _task("fashion_mnist", _shipped("fashion_mnist.onnx"))


def resnet8() -> Task:
    """Return the ResNet-8, which is trained once, in some ten minutes."""
    return _task("fashion_resnet8", fetch("fashion_resnet8"))


def _task(name: str, path: Path) -> Task:
    evaluation, labels = _images("fashion_mnist_test.npz")
    calibration, _ = _images("fashion_mnist_calibration.npz")
    return Task(
        id=name,
        metric="accuracy",
        path=path,
        shapes={"image": (1, 1, 28, 28)},
        calibration=calibration,
        evaluation=evaluation,
        prepare=dict,
        reference=float_answers(path, evaluation, dict),
        judge=partial(against_labels, labels=labels),
    )


def _images(name: str) -> tuple[Arrays, np.ndarray]:
    with np.load(_shipped(name)) as file:
        return {"image": file["image"]}, file["labels"]


def _shipped(name: str) -> Path:
    return Path(str(resources.files("tvmopt.demo_data") / name))
