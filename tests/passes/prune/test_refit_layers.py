"""Mirror of passes/prune/refit_layers.py, refit_blocks.py, tune_block.py and their parts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.calibration import Samples, Tap
from tvmopt.errors import OptionError
from tvmopt.frontend.onnx import TensorSpec
from tvmopt.passes.canonicalize.rebuild import rebuild_main
from tvmopt.passes.prune.block_net import BlockNet, trained_of
from tvmopt.passes.prune.net_blocks import NetBlock, net_blocks
from tvmopt.passes.prune.refit_layers import RefitLayers, RefitLayersOptions
from tvmopt.passes.prune.whitening import Coordinates, split
from tvmopt.report import Report

Build = Callable[..., tvm.IRModule]
SHAPE, CHANNELS = (2, 6, 6, 4), 8
CONVS = ("stem", "one", "two", "deep")
RESULT = "head_sum"


def _net(build: Build) -> tvm.IRModule:
    """A convolution, a residual block of two, a depthwise one, a mean and a matrix."""
    rng = np.random.default_rng(0)

    def weight(*shape: int) -> relax.Expr:
        values = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        return relax.const(values.astype(np.float32))

    def body(builder: relax.BlockBuilder, x: relax.Var) -> relax.Expr:
        def conv(data: relax.Expr, name: str, inputs: int, groups: int = 1) -> relax.Expr:
            layouts = {"data_layout": "NHWC", "kernel_layout": "OHWI", "out_layout": "NHWC"}
            own = weight(CHANNELS, 3, 3, inputs // groups)
            y = builder.emit(
                relax.op.nn.conv2d(data, own, padding=[1, 1, 1, 1], groups=groups, **layouts), name
            )
            return builder.emit(relax.op.add(y, weight(1, 1, 1, CHANNELS)), f"{name}_sum")

        stem = builder.emit(relax.op.nn.relu(conv(x, "stem", SHAPE[3])), "stem_act")
        one = builder.emit(relax.op.nn.relu(conv(stem, "one", CHANNELS)), "one_act")
        total = builder.emit(relax.op.add(conv(one, "two", CHANNELS), stem), "total")
        out = builder.emit(relax.op.nn.relu(total), "out")
        deep = builder.emit(relax.op.nn.relu(conv(out, "deep", CHANNELS, CHANNELS)), "deep_act")
        pooled = builder.emit(relax.op.mean(deep, axis=[1, 2]), "pooled")
        head = builder.emit(relax.op.matmul(pooled, weight(CHANNELS, 5)), "head")
        return builder.emit(relax.op.add(head, weight(5)), RESULT)

    return build(body, SHAPE)


@pytest.fixture(scope="module")
def dense(build: Build) -> tvm.IRModule:
    return _net(build)


@pytest.fixture(scope="module")
def pruned(dense: tvm.IRModule) -> tvm.IRModule:
    """The same with half of the weights of "one" and "two" zero."""
    gone = np.random.default_rng(1).random((CHANNELS, 3, 3, CHANNELS)) < 0.5

    def rule(var: relax.Var, value: relax.Expr) -> relax.Expr:
        if var.name not in ("one", "two"):
            return value
        kept = np.where(gone, 0, ir.float_constant(value.args[1])).astype(np.float32)
        return ir.with_changes(value, [value.args[0], relax.const(kept)])

    return rebuild_main(dense, lambda _graph: rule)


@pytest.fixture(scope="module")
def samples() -> Samples:
    values = np.random.default_rng(5).standard_normal((24, *SHAPE[1:])).astype(np.float32)
    return Samples([TensorSpec(name="x0", dtype="float32", shape=SHAPE)], {"x0": values}, least=1)


def _constants(mod: tvm.IRModule) -> dict[str, np.ndarray]:
    return {
        var.name: ir.float_constant(value.args[1])
        for var, value in ir.bindings(mod["main"])
        if isinstance(value, relax.Call)
        and len(value.args) > 1
        and ir.float_constant(value.args[1]) is not None
    }


def _outputs(mod: tvm.IRModule, samples: Samples, tap: Tap) -> np.ndarray:
    run = tap(mod, [RESULT])
    return np.concatenate([run(feed)[RESULT] for feed in samples])


def _error(mod: tvm.IRModule, dense: tvm.IRModule, samples: Samples, tap: Tap) -> float:
    wanted = _outputs(dense, samples, tap)
    return float(np.sum((_outputs(mod, samples, tap) - wanted) ** 2) / np.sum(wanted**2))


def _refit(
    mod: tvm.IRModule, dense: tvm.IRModule, samples: Samples, tap: Tap, **options: object
) -> tuple[tvm.IRModule, Report]:
    report = Report()
    outputs = options.pop("outputs", None)
    made = RefitLayersOptions(**options)
    return RefitLayers(made, dense, samples, tap, report, outputs=outputs)(mod), report


@pytest.fixture(scope="module")
def refitted(
    dense: tvm.IRModule, pruned: tvm.IRModule, samples: Samples, tap: Tap
) -> tuple[tvm.IRModule, Report]:
    return _refit(pruned, dense, samples, tap, steps=6, scope="blocks")


def test_layers_and_then_blocks_bring_the_net_nearer(
    dense: tvm.IRModule,
    pruned: tvm.IRModule,
    refitted: tuple[tvm.IRModule, Report],
    samples: Samples,
    tap: Tap,
) -> None:
    before = _error(pruned, dense, samples, tap)
    layers, _ = _refit(pruned, dense, samples, tap, scope="layers")
    after = _error(layers, dense, samples, tap), _error(refitted[0], dense, samples, tap)
    assert after[0] < 0.5 * before
    assert after[1] < after[0]
    said = [d.reason for d in refitted[1].decisions if d.site == "two"][-1]
    own = [float(part) for part in said.split("error ")[1].split(" of")[0].split(" -> ")]
    assert own[1] < 0.95 * own[0]


def test_zeros_stay_and_dense_layers_move(
    pruned: tvm.IRModule, refitted: tuple[tvm.IRModule, Report]
) -> None:
    changed, was = _constants(refitted[0]), _constants(pruned)
    for name in (*CONVS, "head"):
        assert np.array_equal(changed[name] == 0, was[name] == 0), name
    # Dense layers move too, a depthwise one with its block.
    assert not np.array_equal(changed["deep"], was["deep"])
    assert not np.array_equal(changed["head_sum"], was["head_sum"])
    assert [var.name for var, _ in ir.bindings(refitted[0]["main"])] == [
        var.name for var, _ in ir.bindings(pruned["main"])
    ]


def test_each_fit_is_told_and_none_made_it_worse(
    refitted: tuple[tvm.IRModule, Report],
) -> None:
    said = [d.reason for d in refitted[1].decisions if d.site == "two" and d.applied]
    assert [reason.split()[0] for reason in said] == ["fitted:", "tuned"]
    errors = [d.reason.split("error ")[1] for d in refitted[1].decisions if "error" in d.reason]
    assert len(errors) == 9  # four layers by themselves, five with their blocks
    for text in errors:
        before, after = text.split(" of")[0].split(" -> ")
        assert float(after) <= float(before)


def test_the_modules_given_stay(
    build: Build, dense: tvm.IRModule, pruned: tvm.IRModule, refitted: tuple[tvm.IRModule, Report]
) -> None:
    assert refitted[0] is not pruned
    assert np.mean(_constants(pruned)["one"] == 0) > 0.4
    assert np.array_equal(_constants(pruned)["deep"], _constants(dense)["deep"])
    tvm.ir.assert_structural_equal(dense, _net(build), map_free_vars=True)


def test_a_net_that_lost_nothing_stays_nearly_as_it_is(
    dense: tvm.IRModule, samples: Samples, tap: Tap
) -> None:
    same, _ = _refit(dense, dense, samples, tap, scope="layers")
    # Outputs are met to float32's rounding, 1e-14 of the square, and nothing makes them worse.
    assert _error(same, dense, samples, tap) < 1e-12


def test_layers_that_are_skipped_stay(
    dense: tvm.IRModule, pruned: tvm.IRModule, samples: Samples, tap: Tap
) -> None:
    skip = {"two": "it is said so"}
    new, report = _refit(
        pruned, dense, samples, tap, layers=("one", "two"), skip=skip, scope="layers"
    )
    now, was = _constants(new), _constants(pruned)
    assert [n for n in was if not np.array_equal(now[n], was[n])] == ["one", "one_sum"]
    assert ("two", "it is said so") in [(d.site, d.reason) for d in report.decisions]


def test_reordered_outputs_are_compared_with_what_they_were(
    dense: tvm.IRModule, samples: Samples, tap: Tap
) -> None:
    order = np.array([5, 2, 7, 1, 0, 3, 6, 4])

    def rule(var: relax.Var, value: relax.Expr) -> relax.Expr:
        if var.name not in ("one", "one_sum", "two"):
            return value
        held = ir.float_constant(value.args[1])
        held = held[order] if var.name == "one" else held[..., order]
        return ir.with_changes(value, [value.args[0], relax.const(held)])

    moved = rebuild_main(dense, lambda _graph: rule)
    # The sums of "two" run in another order: rounding alone.
    assert _error(moved, dense, samples, tap) < 1e-10
    new, _ = _refit(
        moved, dense, samples, tap, outputs={"one": order}, layers=("one",), scope="layers"
    )
    assert _error(new, dense, samples, tap) < 1e-10
    # Without being told it is fitted to other channels' outputs, and breaks.
    lost, _ = _refit(moved, dense, samples, tap, scope="layers", layers=("one",))
    assert _error(lost, dense, samples, tap) > 1e-5


def test_a_forecast_changes_nothing(dense: tvm.IRModule, pruned: tvm.IRModule) -> None:
    assert RefitLayers(RefitLayersOptions(), dense, None, None, Report())(pruned) is pruned


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ridge": 0.0}, r"ridge must be in \(0, 1\], got 0.0"),
        ({"rows": 0}, "rows must be at least 1, got 0"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"batches": 0}, "batches must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"passes": 0}, "passes must be at least 1, got 0"),
        ({"work": 0}, "work must be at least 1, got 0"),
        ({"scope": "all"}, "scope must be one of 'layers', 'blocks', 'net', got 'all'"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        RefitLayersOptions(**options)


def test_a_pattern_must_fit(
    dense: tvm.IRModule, pruned: tvm.IRModule, samples: Samples, tap: Tap
) -> None:
    with pytest.raises(OptionError, match="'none' must match a layer"):
        _refit(pruned, dense, samples, tap, layers=("none",))


@pytest.mark.parametrize("whole", [True, False])
def test_gradients_by_coordinates_are_those_of_differences(
    pruned: tvm.IRModule, whole: bool
) -> None:
    block = next(b for b in net_blocks(pruned) if isinstance(b, NetBlock) and len(b.layers) == 2)
    rng = np.random.default_rng(7)
    trained = trained_of(block)
    net = BlockNet(block, trained)
    moments = np.eye(9 * CHANNELS) + 0.2
    coordinates = [
        Coordinates(one, rng.random(one.value.shape) + 0.5, moments if whole else None)
        for one in trained
    ]
    inputs = {"stem_act": rng.random((2, 6, 6, CHANNELS)).astype(np.float32)}
    gradient = rng.standard_normal((2, 6, 6, CHANNELS)).astype(np.float32)

    def value(z: np.ndarray) -> float:
        made, _ = net.run(inputs, list(split(z, coordinates)))
        return float(np.sum(made[block.output] * gradient, dtype=np.float64))

    start = np.zeros(sum(one.size for one in coordinates))
    _, pull = net.run(inputs, list(split(start, coordinates)))
    parts = zip(coordinates, pull({block.output: gradient}), strict=True)
    slope = np.concatenate([one.gradient(part) for one, part in parts])
    along = rng.standard_normal(start.shape)
    step = 1e-3
    found = (value(step * along) - value(-step * along)) / (2 * step)
    # float32 sums of 576 products of size 1 are off by 1e-4, over a step of 2e-3; and relu bends.
    assert float(slope @ along) == pytest.approx(found, rel=0.05, abs=0.5)
    assert all(
        np.array_equal(now == 0, one.value == 0)
        for now, one in zip(split(along, coordinates), trained, strict=True)
        if one.is_weight
    )
