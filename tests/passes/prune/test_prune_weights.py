"""Mirror of passes/prune/prune_weights.py and float_layers.py: a small net, pruned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.calibration import Samples, Tap
from tvmopt.errors import OptionError
from tvmopt.passes.prune.prune_weights import PruneWeights, PruneWeightsOptions
from tvmopt.report import Report

Build = Callable[..., tvm.IRModule]
Counts = Callable[[tvm.IRModule], Counter[str]]
ROWS, WIDTH = 40, 32


def _weight(seed: int, *shape: int) -> relax.Expr:
    values = np.random.default_rng(seed).standard_normal(shape) / np.sqrt(shape[0])
    return relax.const(values.astype(np.float32))


@pytest.fixture(scope="module")
def net(build: Build) -> tvm.IRModule:
    """Four linear layers with biases, of which the two in the middle may be pruned."""

    def body(builder: relax.BlockBuilder, x: relax.Var) -> relax.Expr:
        for i in range(4):
            y = builder.emit(relax.op.matmul(x, _weight(i, WIDTH, WIDTH)), f"fc{i}")
            y = builder.emit(relax.op.add(y, _weight(9 + i, WIDTH)), f"sum{i}")
            x = builder.emit(relax.op.nn.relu(y), f"act{i}") if i < 3 else y
        return x

    return build(body, (ROWS, WIDTH))


@pytest.fixture(scope="module")
def samples(make_samples: Callable[..., Samples]) -> Samples:
    return make_samples((ROWS, WIDTH))


def _weights(mod: tvm.IRModule) -> dict[str, np.ndarray]:
    return {
        var.name: ir.float_constant(value.args[1])
        for var, value in ir.bindings(mod["main"])
        if ir.is_call_to(value, "relax.matmul")
    }


def _error(mod: tvm.IRModule, dense: tvm.IRModule, samples: Samples, tap: Tap) -> float:
    runs = [tap(net, ["sum3"]) for net in (mod, dense)]
    outputs = [[run(feed)["sum3"] for feed in samples] for run in runs]
    return float(np.mean(np.square(np.array(outputs[0]) - np.array(outputs[1]))))


def _prune(
    mod: tvm.IRModule, samples: Samples, tap: Tap, **options: object
) -> tuple[tvm.IRModule, Report]:
    report = Report()
    return PruneWeights(PruneWeightsOptions(**options), samples, tap, report)(mod), report


def test_the_inner_layers_have_blocks_of_zeros(
    net: tvm.IRModule, samples: Samples, tap: Tap, counts: Counts
) -> None:
    pruned, report = _prune(net, samples, tap, sparsity=0.75, structure="16x4", rounds=2)
    weights = _weights(pruned)
    for name in ("fc1", "fc2"):
        blocks = weights[name].T.reshape(2, 16, 8, 4).any((1, 3))
        assert blocks.sum() == 4
    for name in ("fc0", "fc3"):  # in another order where channels of fc1 and fc2 moved
        assert np.array_equal(np.sort(weights[name], None), np.sort(_weights(net)[name], None))
    assert counts(pruned) == counts(net)
    assert [d.applied for d in report.decisions] == [False, False, True, True]
    assert "75% of the 16x4 blocks are 0" in report.decisions[-1].reason


def test_channels_stay_where_they_are_if_that_is_asked_for(
    net: tvm.IRModule, samples: Samples, tap: Tap
) -> None:
    options = PruneWeightsOptions(structure="4x1", reorder=False, rounds=1)
    kept = PruneWeights(options, samples, tap, Report())
    pruned = _weights(kept(net))
    assert not kept.outputs
    assert all(np.array_equal(pruned[name], _weights(net)[name]) for name in ("fc0", "fc3"))
    moved = PruneWeights(PruneWeightsOptions(structure="4x1", rounds=1), samples, tap, Report())
    moved(net)
    assert "fc1" in moved.outputs
    assert any("its channels reordered" in d.reason for d in moved.report.decisions)


def test_the_dense_net_is_left_as_it_was(net: tvm.IRModule, samples: Samples, tap: Tap) -> None:
    before = {name: weight.copy() for name, weight in _weights(net).items()}
    _prune(net, samples, tap, sparsity=0.5, structure="4x1", rounds=1)
    after = _weights(net)
    assert all(np.array_equal(after[name], before[name]) for name in before)


def test_refitting_keeps_the_outputs_better(net: tvm.IRModule, samples: Samples, tap: Tap) -> None:
    errors = {
        repair: _error(
            _prune(net, samples, tap, sparsity=0.5, structure="8x1", rounds=2, repair=repair)[0],
            net,
            samples,
            tap,
        )
        for repair in (True, False)
    }
    assert errors[True] < errors[False]


def test_a_layer_of_fewer_outputs_than_a_block_stays_dense(
    net: tvm.IRModule, samples: Samples, tap: Tap
) -> None:
    pruned, report = _prune(net, samples, tap, structure="64x1")
    assert all(np.array_equal(a, b) for a, b in zip(*map(_each, (pruned, net)), strict=True))
    assert report.decisions[1].reason == "its 32 outputs are fewer than a block's 64"


def _each(mod: tvm.IRModule) -> list[np.ndarray]:
    return list(_weights(mod).values())


def test_layers_that_are_named_stay_dense(net: tvm.IRModule, samples: Samples, tap: Tap) -> None:
    skip: Mapping[str, str] = {"fc1": "the user says so"}
    pruned, report = _prune(net, samples, tap, structure="8x1", rounds=1, skip=skip)
    assert np.array_equal(_weights(pruned)["fc1"], _weights(net)["fc1"])
    assert not np.array_equal(_weights(pruned)["fc2"], _weights(net)["fc2"])
    assert any(d.site == "fc1" and d.reason == "the user says so" for d in report.decisions)


def test_a_pattern_that_matches_nothing_is_refused(
    net: tvm.IRModule, samples: Samples, tap: Tap
) -> None:
    with pytest.raises(OptionError, match="conv"):
        _prune(net, samples, tap, layers=("conv*",))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"sparsity": 1.0}, r"sparsity must be in \(0, 1\), got 1.0"),
        ({"sparsity": 0.0}, r"sparsity must be in \(0, 1\), got 0.0"),
        (
            {"structure": "16by4"},
            "structure must be 'auto', 'unstructured', outputs by inputs such as '16x4', or N:M "
            "such as '2:4', got '16by4'",
        ),
        (
            {"structure": "1:4", "sparsity": 0.6},
            "sparsity must be 0.75 where structure is '1:4', got 0.6; leave it out",
        ),
        (
            {"importance": "gradient"},
            "importance must be one of 'magnitude', 'wanda', 'taylor', 'obs', 'sparsegpt', 'admm', "
            "got 'gradient'",
        ),
        ({"ridge": 0.0}, r"ridge must be in \(0, 1\], got 0.0"),
        ({"rounds": 0}, "rounds must be at least 1, got 0"),
        ({"rows": 0}, "rows must be at least 1, got 0"),
    ],
)
def test_options_outside_their_domain_are_refused(option: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        PruneWeightsOptions(**option)
