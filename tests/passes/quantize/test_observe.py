"""Mirror of passes/quantize/observe.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt.calibration import Samples, Tap
from tvmopt.errors import DataError
from tvmopt.passes.quantize.observe import accumulate, observe

Build = Callable[..., tvm.IRModule]
MakeSamples = Callable[..., Samples]


@pytest.fixture(scope="module")
def net(build: Build) -> tvm.IRModule:
    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        return bb.emit(relax.op.nn.relu(bb.emit(relax.op.negative(x), "minus")), "y")

    return build(body, (2, 3))


def test_statistics_are_those_of_all_samples(
    net: tvm.IRModule, tap: Tap, make_samples: MakeSamples
) -> None:
    data = make_samples((2, 3))
    seen = observe(net, ["x0", "minus", "y"], data, tap)
    whole = np.concatenate([feed["x0"] for feed in data])
    assert (seen["x0"].low, seen["x0"].high) == (whole.min(), whole.max())
    assert (seen["minus"].low, seen["minus"].high) == (-whole.max(), -whole.min())
    assert (seen["y"].low, seen["y"].high) == (0.0, -whole.min())
    assert {s.count for s in seen.values()} == {12}
    assert seen["y"].histogram.counts.sum() == 12


def test_histograms_are_left_out_where_nobody_looks(
    net: tvm.IRModule, tap: Tap, make_samples: MakeSamples
) -> None:
    seen = observe(net, ["y"], make_samples((2, 3)), tap, counted=False)
    assert seen["y"].count == 12
    assert seen["y"].histogram.counts.sum() == 0


def test_one_batch_at_a_time_in_order(net: tvm.IRModule, make_samples: MakeSamples) -> None:
    data, events = make_samples((2, 3)), []

    class Log:
        def __init__(self, name: str) -> None:
            self.name = name

        def update(self, values: np.ndarray) -> None:
            events.append((self.name, float(values[0, 0])))

    def make(
        _mod: tvm.IRModule, names: Sequence[str]
    ) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
        events.append(("compiled", tuple(names)))
        return lambda feed: dict.fromkeys(names, feed["x0"])

    accumulate(net, ["minus", "y"], data, make, Log)
    first = [float(feed["x0"][0, 0]) for feed in data]
    assert events == [
        ("compiled", ("minus", "y")),
        *((name, value) for value in first for name in ("minus", "y")),
    ]


def test_progress_counts_batches(net: tvm.IRModule, tap: Tap, make_samples: MakeSamples) -> None:
    told = []
    observe(net, ["y"], make_samples((2, 3)), tap, progress=lambda *what: told.append(what))
    assert told == [("calibrate", 0, 2), ("calibrate", 1, 2), ("calibrate", 2, 2)]


def test_nothing_asked_compiles_nothing(net: tvm.IRModule, make_samples: MakeSamples) -> None:
    def never(_mod: tvm.IRModule, _names: Sequence[str]) -> object:
        raise AssertionError("compiled")

    assert observe(net, [], make_samples((2, 3)), never) == {}


def test_tensor_that_is_not_finite_is_named(net: tvm.IRModule, make_samples: MakeSamples) -> None:
    def broken(_mod: tvm.IRModule, names: Sequence[str]) -> object:
        return lambda _feed: {name: np.array([1.0, np.nan]) for name in names}

    with pytest.raises(DataError, match="tensor 'y' must be finite on every calibration sample"):
        observe(net, ["y"], make_samples((2, 3)), broken)
