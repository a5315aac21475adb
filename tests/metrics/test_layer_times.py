from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tvmopt import runtime
from tvmopt.errors import DataError, OptionError
from tvmopt.metrics.layer_times import LayerTime, Profile, layer_times
from tvmopt.runtime import StepInfo


def test_every_step_has_its_share(linear: Path, x: np.ndarray) -> None:
    profile = layer_times(linear, {"x": x}, runs=3)
    with runtime.open(linear) as net:
        assert tuple(layer.step for layer in profile.layers) == net.steps
    assert sum(layer.share for layer in profile.layers) == pytest.approx(1.0)
    assert profile.macs == 2 * 4 * 5
    assert (profile.runs, profile.threads) == (3, 1)


def test_the_peak_is_measured(linear: Path, x: np.ndarray) -> None:
    profile = layer_times(linear, {"x": x}, runs=1)
    assert profile.peak_gflops > 0
    for layer in profile.layers:
        if layer.gflops is not None:
            assert layer.peak_share == pytest.approx(layer.gflops / profile.peak_gflops)


def test_bad_requests_are_refused(linear: Path, x: np.ndarray) -> None:
    with pytest.raises(OptionError, match="runs must be at least 1, got 0"):
        layer_times(linear, {"x": x}, runs=0)
    with pytest.raises(DataError, match="'x' must have shape"):
        layer_times(linear, {"x": x[:1]})


def test_layers_predicted_near_their_fastest_run_are_counted_by_their_time() -> None:
    step = StepInfo(layer="l", kernel="k", macs=None, cycles=None, parallel=False)

    def layer(least: float, predicted: float | None) -> LayerTime:
        return LayerTime(
            step=step,
            median_ms=10 * least,  # others were busy
            least_ms=least,
            predicted_ms=predicted,
            share=0.25,
            gflops=None,
            peak_share=None,
        )

    layers = (layer(4.0, 5.0), layer(3.0, 2.25), layer(2.0, 3.0), layer(1.0, None))
    profile = Profile(layers=layers, total_ms=100.0, peak_gflops=1.0, threads=1, runs=1)
    assert profile.predicted_share == pytest.approx(7 / 10)
