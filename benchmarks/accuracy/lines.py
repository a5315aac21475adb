"""PP-OCRv4 on 300 rendered lines: how often it reads what it reads in float32."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import onnx

from benchmarks.accuracy.pictures import centred
from benchmarks.accuracy.reference import float_answers
from benchmarks.accuracy.task import Task
from benchmarks.accuracy.verdict import Verdict, compare
from benchmarks.zoo.fetch import fetch, fetch_data
from tvmopt.metrics.strings import read_ctc, same_string

prepare = partial(centred, name="x", middle=127.5, scale=127.5)


def recognition() -> Task:
    """Return the task; calibrated on lines of another text."""
    path = fetch("ppocr4_rec")
    with np.load(fetch_data("text_lines")) as file:
        evaluation = {"image": file["image"]}
        calibration = {"image": file["calibration_image"]}
    return Task(
        id="ppocr4_rec",
        metric="same strings",
        path=path,
        shapes={"x": (1, 3, 48, 320)},
        calibration=calibration,
        evaluation=evaluation,
        prepare=prepare,
        reference=float_answers(path, evaluation, prepare),
        judge=partial(judge, characters=read_characters(path)),
    )


def read_characters(path: Path) -> list[str]:
    """Return what the model's symbols write; its file holds all but the last, a space."""
    entries = onnx.load(path, load_external_data=False).metadata_props
    listed = next(entry.value for entry in entries if entry.key == "character")
    return [*listed.splitlines(), " "]


def judge(answers: np.ndarray, reference: np.ndarray, characters: list[str]) -> Verdict:
    """Return how often the string is the float model's."""
    same = same_string(read_ctc(answers, characters), read_ctc(reference, characters))
    return compare(same, np.ones_like(same), answers, reference)
