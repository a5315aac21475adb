"""EfficientNet-lite0 on natural pictures without labels: how often it says what float32 says.

Only pictures of which the float model is sure by a margin count: where two classes are as likely,
rounding decides, in any engine.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from benchmarks.accuracy.pictures import centred
from benchmarks.accuracy.reference import float_answers
from benchmarks.accuracy.task import Task
from benchmarks.accuracy.verdict import Verdict, compare
from benchmarks.zoo.fetch import fetch, fetch_data
from tvmopt.metrics.agreement import margins, same_class

LEAST_MARGIN = 0.05

# As its authors feed it: mean_rgb and stddev_rgb of their efficientnet_lite_builder.py.
prepare = partial(centred, name="image", middle=127.0, scale=128.0)


def efficientnet() -> Task:
    """Return the task; the views of a picture are samples of their own."""
    path = fetch("effnet_lite0")
    with np.load(fetch_data("natural_images")) as file:
        images, calibration = file["image"], file["calibration_image"]
    answers = float_answers(path, {"image": images}, prepare)
    sure = margins(answers) >= LEAST_MARGIN
    return Task(
        id="effnet_lite0",
        metric="agreement",
        path=path,
        shapes={"image": (1, 3, 224, 224)},
        calibration={"image": calibration},
        evaluation={"image": images[sure]},
        prepare=prepare,
        reference=answers[sure],
        judge=judge,
    )


def count_pictures() -> int:
    """Return how many pictures the evaluation samples are views of."""
    with np.load(fetch_data("natural_images")) as file:
        images, picture = file["image"], file["picture"]
    answers = float_answers(fetch("effnet_lite0"), {"image": images}, prepare)
    return len(np.unique(picture[margins(answers) >= LEAST_MARGIN]))


def judge(answers: np.ndarray, reference: np.ndarray) -> Verdict:
    """Return how often the top class is the float model's."""
    agree = same_class(answers, reference)
    return compare(agree, np.ones_like(agree), answers, reference)
