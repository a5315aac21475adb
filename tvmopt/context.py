"""What passes of a recipe learn from and tell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import tvm

from tvmopt.calibration import Feed, Samples, Tap
from tvmopt.prediction import Predict
from tvmopt.report import Report

Progress = Callable[[str, int, int], None]
"""Takes what is under way, how much of it is done, and how much there is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """What passes learn from and tell.

    Attributes:
        samples: Calibration samples.
        tap: Compiles parts of the graph for this machine.
        report: Takes decisions.
        progress: Is told of slow work.
        predict: The cost model of the target.
        blind: Whether samples and tap are placeholders, from which nothing can be learned.
    """

    samples: Samples
    tap: Tap
    report: Report
    progress: Progress
    predict: Predict
    blind: bool = False


def placeholders(predict: Predict) -> Context:
    """Return one sample of nothing, by which every tensor ranges from -1 to 1."""

    def tap(_mod: tvm.IRModule, names: Sequence[str]) -> Callable[[Feed], dict[str, np.ndarray]]:
        return lambda _feed: {name: np.array([-1.0, 1.0], np.float32) for name in names}

    return Context(
        samples=no_samples(),
        tap=tap,
        report=Report(),
        progress=lambda *_: None,
        predict=predict,
        blind=True,
    )


def no_samples() -> Samples:
    """Return a single batch of nothing, for passes that learn from none."""
    return Samples((), {}, "no samples", least=1)
