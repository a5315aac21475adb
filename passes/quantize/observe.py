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


A = TypeVar("A", bound=Accumulator)


def observe(
    mod: tvm.IRModule,
    names: Sequence[str],
    samples: Samples,
    tap: Tap,
    *,
    counted: bool = True,
) -> dict[str, Statistics]:
    """Return the statistics of named tensors over all samples.

    Args:
        mod: A module whose binding names are unique.
        names: Bindings or parameters of "main".
        samples: What is fed, one batch at a time.
        tap: Compiles the module so that it gives the named tensors.
        counted: Whether to fill the histograms.

    Raises:
        DataError: A tensor is not finite on some sample.
    """
    return accumulate(mod, names, samples, tap, partial(Statistics, counted=counted))


def accumulate(
    mod: tvm.IRModule,
    names: Sequence[str],
    samples: Samples,
    tap: Tap,
    make: Callable[[str], A],
) -> dict[str, A]:
    """Return what ``make(name)`` holds of each named tensor after all samples.

    Args:
        mod: A module whose binding names are unique.
        names: Bindings or parameters of "main".
        samples: What is fed, one batch at a time.
        tap: Compiles the module so that it gives the named tensors.
        make: Begins an accumulator; the tensor's name is for its messages.
    """
    found = {name: make(name) for name in names}
    if not found:
        return found
    run = tap(mod, list(found))
    for feed in samples:
        values = run(feed)
        for name, accumulator in found.items():
            accumulator.update(values[name])
    return found
