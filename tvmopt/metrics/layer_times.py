"""Where the time of one inference goes, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tvmopt import runtime
from tvmopt.errors import OptionError
from tvmopt.runtime import StepInfo


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerTime:
    """One step of the artefact.

    Attributes:
        step: Its layer and its kernel.
        median_ms: The median run's.
        least_ms: The fastest run's: what others did at the same time shows least in it.
        share: Of the sum of all medians, in [0, 1].
        gflops: 2 MACs / time, or None where MACs are not counted.
        peak_share: ``gflops`` over what all threads' cores do at most, or None.
        predicted_ms: What the analytic cost says, its cycles shared out among the threads of a
            parallel kernel, or None where nothing predicts the kernel.
    """

    step: StepInfo
    median_ms: float
    least_ms: float
    predicted_ms: float | None
    share: float
    gflops: float | None
    peak_share: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """A profiled artefact.

    Attributes:
        layers: In the order they run.
        total_ms: The sum of the medians.
        peak_gflops: Of one core, measured just before.
        threads: Of the instance.
        runs: How many were timed.
    """

    layers: tuple[LayerTime, ...]
    total_ms: float
    peak_gflops: float
    threads: int
    runs: int

    @property
    def macs(self) -> int:
        """Of one run, as far as they are counted."""
        return sum(layer.step.macs or 0 for layer in self.layers)

    @property
    def peak_share(self) -> float:
        """All work over all time, as a share of the threads' peak."""
        return 2e-6 * self.macs / self.total_ms / (self.peak_gflops * self.threads)

    @property
    def predicted_share(self) -> float:
        """The share of the fastest runs' time that layers take whose prediction is near theirs.

        Near is within ``TOLERANCE`` of it.
        """
        near = sum(
            layer.least_ms
            for layer in self.layers
            if layer.predicted_ms is not None
            and abs(layer.predicted_ms - layer.least_ms) <= TOLERANCE * layer.least_ms
        )
        return near / (sum(layer.least_ms for layer in self.layers) or float("nan"))


WARM_RUNS = 3
TOLERANCE = 0.3  # of a layer's time: how far a prediction may be off and still is a good one


def layer_times(
    model: Path, inputs: Mapping[str, np.ndarray], *, threads: int = 1, runs: int = 50
) -> Profile:
    """Time every step of an artefact, in this process.

    Args:
        model: The artefact.
        inputs: One batch, by name.
        threads: Of the instance.
        runs: How many are timed, after a few that are not.

    Raises:
        OptionError: ``runs`` is below 1.
        TvmoptError: The artefact cannot be opened, or the inputs do not fit.
    """
    if runs < 1:
        raise OptionError(f"runs must be at least 1, got {runs!r}")
    with runtime.open(model, threads) as net:
        peak = net.peak_gflops()
        clock = _clock_hz(net.manifest["target"], peak)
        net.profile(inputs, runs=WARM_RUNS)
        times = net.profile(inputs, runs=runs)
    medians = [float(np.median(time.seconds)) for time in times]
    least = [float(np.min(time.seconds)) for time in times]
    total = sum(medians) or float("nan")
    layers = tuple(
        _layer(time.step, (median, fastest), total, peak, clock, threads)
        for time, median, fastest in zip(times, medians, least, strict=True)
    )
    return Profile(
        layers=layers, total_ms=total * 1e3, peak_gflops=peak, threads=threads, runs=runs
    )


def _clock_hz(target: Mapping[str, Any], peak_gflops: float) -> float:
    """Return the clock at which a core of ``target`` reaches that peak."""
    flops_per_cycle = 2 * target["vector_bits"] // 32 * target["fma_per_cycle"]
    return peak_gflops * 1e9 / flops_per_cycle


def _layer(
    step: StepInfo,
    times: tuple[float, float],
    total: float,
    peak: float,
    clock: float,
    threads: int,
) -> LayerTime:
    seconds, fastest = times
    # A clock reading too coarse for the step is no rate.
    gflops = 2e-9 * step.macs / seconds if step.macs and seconds > 0 else None
    most = peak * threads
    sharing = threads if step.parallel else 1
    cycles = step.cycles if clock > 0 else None
    return LayerTime(
        step=step,
        median_ms=seconds * 1e3,
        least_ms=fastest * 1e3,
        predicted_ms=None if cycles is None else cycles / clock / sharing * 1e3,
        share=seconds / total,
        gflops=gflops,
        peak_share=gflops / most if gflops is not None and most > 0 else None,
    )
