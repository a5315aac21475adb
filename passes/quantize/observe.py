"""Run the calibration samples and keep statistics of the tensors that a pass asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, TypeVar

import numpy as np
import tvm

from tvmopt.calibration import Samples, Tap
from tvmopt.passes.quantize.histogram import Statistics


class Accumulator(Protocol):
    """What takes in a tensor batch by batch, in memory that does not grow."""

    def update(self, values: np.ndarray) -> None:
        """Take in one batch."""


Progress = Callable[[str, int, int], None]
"""Takes what is under way, how much of it is done, and how much there is."""


def silent(_what: str, _done: int, _all: int) -> None:
    """Tell nobody."""


A = TypeVar("A", bound=Accumulator)


def observe(
    mod: tvm.IRModule,
    names: Sequence[str],
    samples: Samples,
    tap: Tap,
    *,
    counted: bool = True,
    progress: Progress = silent,
) -> dict[str, Statistics]:
    """Return the statistics of named tensors over all samples.

    Args:
        mod: A module whose binding names are unique.
        names: Bindings or parameters of "main".
        samples: What is fed, one batch at a time.
        tap: Compiles the module so that it gives the named tensors.
        counted: Whether to fill the histograms.
        progress: Is told of each batch.

    Raises:
        DataError: A tensor is not finite on some sample.
    """
    make = partial(Statistics, counted=counted)
    return accumulate(mod, names, samples, tap, make, progress=progress)


def accumulate(
    mod: tvm.IRModule,
    names: Sequence[str],
    samples: Samples,
    tap: Tap,
    make: Callable[[str], A],
    *,
    progress: Progress = silent,
) -> dict[str, A]:
    """Return what ``make(name)`` holds of each named tensor after all samples.

    Args:
        mod: A module whose binding names are unique.
        names: Bindings or parameters of "main".
        samples: What is fed, one batch at a time.
        tap: Compiles the module so that it gives the named tensors.
        make: Begins an accumulator; the tensor's name is for its messages.
        progress: Is told of each batch.
    """
    found = {name: make(name) for name in names}
    if not found:
        return found
    run = tap(mod, list(found))
    for done, feed in enumerate(samples):
        progress("calibrate", done, len(samples))
        values = run(feed)
        for name, accumulator in found.items():
            accumulator.update(values[name])
    progress("calibrate", len(samples), len(samples))
    return found
