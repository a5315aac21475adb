"""A model with real data to judge it by."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import tvmopt
from benchmarks.accuracy.verdict import Verdict

Arrays = Mapping[str, np.ndarray]
Run = Callable[[Arrays], np.ndarray]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Task:
    """A float model, data to calibrate and to evaluate with, and a measure.

    Attributes:
        id: A name for tables.
        metric: What the measure is.
        path: The float model's ONNX file.
        shapes: Of its inputs, with batch 1.
        calibration: Samples along the first axis, as they are stored; none is an evaluation sample.
        evaluation: Likewise.
        prepare: Turns stored samples, any number of them, into the model's inputs.
        reference: What the float model answers to the evaluation samples, (n, ...).
        judge: Compares answers with the reference: ``judge(answers, reference)``.
    """

    id: str
    metric: str
    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    calibration: Arrays = field(repr=False)
    evaluation: Arrays = field(repr=False)
    prepare: Callable[[Arrays], dict[str, np.ndarray]] = field(repr=False)
    reference: np.ndarray = field(repr=False)
    judge: Callable[[np.ndarray, np.ndarray], Verdict] = field(repr=False)

    @property
    def count(self) -> int:
        """The number of evaluation samples."""
        return len(self.reference)

    def load(self) -> tvmopt.Model:
        """Load the float model with batch 1."""
        return tvmopt.load(self.path, self.shapes)

    def samples(self, count: int | None = None) -> dict[str, np.ndarray]:
        """Return the first ``count`` (None: all) calibration samples as the model's inputs."""
        return self.prepare({name: array[:count] for name, array in self.calibration.items()})

    def first(self) -> dict[str, np.ndarray]:
        """Return the first evaluation sample as the model's inputs."""
        return self.prepare({name: array[:1] for name, array in self.evaluation.items()})

    def answers(self, run: Run) -> np.ndarray:
        """Return ``run``'s output for each evaluation sample, (n, ...)."""
        outputs = None
        for i in range(self.count):
            feed = self.prepare({name: array[i : i + 1] for name, array in self.evaluation.items()})
            output = run(feed)
            if outputs is None:
                outputs = np.empty((self.count, *output.shape[1:]), output.dtype)
            outputs[i] = output[0]
        assert outputs is not None, "a task has samples"
        return outputs

    def evaluate(self, artefact: Path | str | Run) -> Verdict:
        """Judge an artefact, or a function from one batch of inputs to the output."""
        if callable(artefact):
            return self.judge(self.answers(artefact), self.reference)
        with contextlib.closing(tvmopt.runtime.open(artefact)) as net:
            return self.judge(self.answers(net), self.reference)
