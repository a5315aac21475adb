"""Mirror of passes/prune/refit_net.py, tune_net.py and kept_batches.py."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.calibration import Samples, Tap
from tvmopt.frontend.onnx import TensorSpec
from tvmopt.passes.canonicalize.rebuild import rebuild_main
from tvmopt.passes.prune.changed import changed
from tvmopt.passes.prune.net_blocks import NetBlock, longest_stretch
from tvmopt.passes.prune.refit_blocks import Tuning
from tvmopt.passes.prune.refit_layers import RefitLayers, RefitLayersOptions
from tvmopt.passes.prune.refit_net import Budget, tuned_net
from tvmopt.passes.quantize.net_pair import Errand
from tvmopt.report import Report

Build = Callable[..., tvm.IRModule]
ROWS, WIDTH, CLASSES = 3, 8, 5
LAYERS = ("first", "one", "two", "head")
HELD_OUT = 5  # every so many samples one is not fitted to


def _net(build: Build, *, odd: str = "", dropped: bool = False) -> tvm.IRModule:
    """A layer, a residual block of two, a mean over rows, a layer and a softmax.

    Args:
        build: The fixture.
        odd: Behind which layer an operator stands whose derivative is not known.
        dropped: Whether half of the weights of "one" and "two" are zero.
    """
    rng = np.random.default_rng(0)

    def body(builder: relax.BlockBuilder, x: relax.Var) -> relax.Expr:
        def layer(data: relax.Expr, name: str, outputs: int = WIDTH) -> relax.Expr:
            weight = rng.standard_normal((WIDTH, outputs)) / np.sqrt(WIDTH)
            gone = rng.random(weight.shape) < 0.5
            bias = relax.const(rng.standard_normal(outputs).astype(np.float32))
            if dropped and name in ("one", "two"):
                weight[gone] = 0.0
            constant = relax.const(weight.astype(np.float32))
            y = builder.emit(relax.op.matmul(data, constant), name)
            y = builder.emit(relax.op.add(y, bias), f"{name}_sum")
            return builder.emit(relax.op.cumsum(y, axis=0), "odd") if name == odd else y

        stem = builder.emit(relax.op.nn.relu(layer(x, "first")), "stem")
        inner = builder.emit(relax.op.nn.relu(layer(stem, "one")), "inner")
        total = builder.emit(relax.op.add(layer(inner, "two"), stem), "total")
        out = builder.emit(relax.op.nn.relu(total), "out")
        pooled = builder.emit(relax.op.mean(out, axis=[1]), "pooled")
        head = layer(pooled, "head", CLASSES)
        return builder.emit(relax.op.nn.softmax(head), "shares")

    return build(body, (1, ROWS, WIDTH))


@pytest.fixture(scope="module")
def samples() -> Samples:
    shape = (1, ROWS, WIDTH)
    values = np.random.default_rng(5).standard_normal((60, ROWS, WIDTH)).astype(np.float32)
    return Samples([TensorSpec(name="x0", dtype="float32", shape=shape)], {"x0": values})


def _tune(
    mod: tvm.IRModule,
    dense: tvm.IRModule,
    samples: Samples,
    tap: Tap,
    *,
    passes: int = 5,
    taken: tuple[str, ...] = LAYERS,
) -> tuple[tvm.IRModule, Report]:
    report = Report()
    errand = Errand(
        pass_name="RefitLayers",
        what="fit layers",
        reference=dense,
        samples=samples,
        tap=tap,
        report=report,
    )
    how = Tuning(batches=256, steps=1, seed=0, outputs={}, taken=frozenset(taken))
    return changed(mod, tuned_net(mod, errand, how, Budget(passes=passes, work=1))), report


def _constants(mod: tvm.IRModule) -> dict[str, np.ndarray]:
    found = {}
    for var, value in ir.bindings(mod["main"]):
        operands = value.args if isinstance(value, relax.Call) else []
        constant = ir.float_constant(operands[1]) if len(operands) > 1 else None
        if constant is not None:
            found[var.name] = constant
    return found


def _error(mod: tvm.IRModule, dense: tvm.IRModule, samples: Samples, tap: Tap) -> float:
    """Return that of the logits on the samples held out."""
    off = on = 0.0
    run, run_dense = (tap(one, ["head_sum"]) for one in (mod, dense))
    for number, feed in enumerate(samples):
        if number % HELD_OUT == HELD_OUT - 1:
            wanted = run_dense(feed)["head_sum"]
            off += float(np.sum((run(feed)["head_sum"] - wanted) ** 2))
            on += float(np.sum(wanted**2))
    return off / on


@pytest.fixture(scope="module")
def dense(build: Build) -> tvm.IRModule:
    return _net(build)


@pytest.fixture(scope="module")
def pruned(build: Build) -> tvm.IRModule:
    return _net(build, dropped=True)


@pytest.fixture(scope="module")
def tuned(
    pruned: tvm.IRModule, dense: tvm.IRModule, samples: Samples, tap: Tap
) -> tuple[tvm.IRModule, Report]:
    return _tune(pruned, dense, samples, tap, passes=20)


def test_samples_that_were_not_fitted_to_are_met_better(
    pruned: tvm.IRModule,
    dense: tvm.IRModule,
    tuned: tuple[tvm.IRModule, Report],
    samples: Samples,
    tap: Tap,
) -> None:
    before, after = (_error(mod, dense, samples, tap) for mod in (pruned, tuned[0]))
    assert after < 0.5 * before
    (said,) = tuned[1].decisions
    assert said.applied
    assert said.site == "main"
    assert said.reason.startswith("'first' to 'head' tuned together: error ")


def test_zeros_stay_and_all_else_moves(
    pruned: tvm.IRModule, tuned: tuple[tvm.IRModule, Report]
) -> None:
    was, now = _constants(pruned), _constants(tuned[0])
    for name in LAYERS:
        assert np.array_equal(was[name] == 0, now[name] == 0), name
        assert not np.array_equal(was[name], now[name]), name
        assert not np.array_equal(was[f"{name}_sum"], now[f"{name}_sum"]), name


def test_the_same_comes_out_again(
    pruned: tvm.IRModule, dense: tvm.IRModule, samples: Samples, tap: Tap
) -> None:
    one, other = (_tune(pruned, dense, samples, tap, passes=2)[0] for _ in range(2))
    first, second = _constants(one), _constants(other)
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_steps_that_serve_no_better_are_not_taken(
    dense: tvm.IRModule, samples: Samples, tap: Tap
) -> None:
    """A net that lost nothing can only be moved away from what it was, but for rounding."""
    same, _ = _tune(dense, dense, samples, tap)
    # Logits are met to float32's rounding, 1e-14 of the square; a step moves weights by 1e-3.
    assert _error(same, dense, samples, tap) < 1e-12


def test_layers_that_are_not_taken_stay(
    pruned: tvm.IRModule, dense: tvm.IRModule, samples: Samples, tap: Tap
) -> None:
    new, _ = _tune(pruned, dense, samples, tap, taken=("one",))
    was, now = _constants(pruned), _constants(new)
    assert [n for n in was if not np.array_equal(was[n], now[n])] == ["one", "one_sum"]
    same, report = _tune(pruned, dense, samples, tap, taken=())
    assert not report.decisions
    tvm.ir.assert_structural_equal(same, rebuild_main(pruned, lambda _: lambda _v, e: e))


def test_work_limits_the_passes(pruned: tvm.IRModule) -> None:
    block = longest_stretch(pruned)
    assert isinstance(block, NetBlock)
    # Three layers of 8 x 8 on each of 3 rows, and one of 8 x 5 behind the mean: 616 products.
    batches = 10**9 // (616 * 4)
    assert Budget(passes=30, work=1).of(block, batches) == 4
    assert Budget(passes=3, work=1).of(block, batches) == 3
    assert Budget(passes=30, work=1).of(block, 30 * batches) == 1


def test_it_ends_before_the_softmax(pruned: tvm.IRModule) -> None:
    found = longest_stretch(pruned)
    assert isinstance(found, NetBlock)
    assert found.output.name == "head_sum"
    assert [layer.name for layer in found.layers] == list(LAYERS)
    assert [var.name for var in found.inputs] == ["x0"]


def test_where_a_derivative_is_not_known_the_longer_part_is_tuned(
    build: Build, samples: Samples, tap: Tap
) -> None:
    mod, dense = _net(build, odd="first", dropped=True), _net(build, odd="first")
    found = longest_stretch(mod)
    assert isinstance(found, NetBlock)
    assert [layer.name for layer in found.layers] == ["one", "two", "head"]
    new, report = _tune(mod, dense, samples, tap)
    assert report.decisions[0].reason.startswith("'one' to 'head' tuned together")
    assert np.array_equal(_constants(new)["first"], _constants(mod)["first"])


def test_why_nothing_is_tuned_is_said(build: Build, samples: Samples, tap: Tap) -> None:
    def body(builder: relax.BlockBuilder, x: relax.Var) -> relax.Expr:
        layouts = {"data_layout": "NHWC", "kernel_layout": "OHWI", "out_layout": "NHWC"}
        weight = relax.const(np.ones((4, 1, 1, WIDTH // 2), np.float32))
        wide = builder.emit(relax.op.reshape(x, (1, 1, ROWS, WIDTH)), "wide")
        conv = relax.op.nn.conv2d(wide, weight, groups=2, **layouts)
        return builder.emit(conv, "grouped")

    mod = build(body, (1, ROWS, WIDTH))
    new, report = _tune(mod, mod, samples, tap, taken=("grouped",))
    (said,) = report.decisions
    assert not said.applied
    assert said.reason == (
        "not tuned as a whole: it has relax.nn.conv2d, whose derivative is not known"
    )
    assert np.array_equal(_constants(new)["grouped"], _constants(mod)["grouped"])


def test_blocks_are_tuned_only_where_the_whole_is_not(
    build: Build, samples: Samples, tap: Tap
) -> None:
    mod, dense = _net(build, odd="first", dropped=True), _net(build, odd="first")
    report = Report()
    RefitLayers(RefitLayersOptions(passes=1, steps=1), dense, samples, tap, report)(mod)
    tuned = [(d.site, d.reason.split(":")[0]) for d in report.decisions if "tuned" in d.reason]
    assert tuned == [
        ("first", "tuned with its block"),
        ("main", "'one' to 'head' tuned together"),
    ]
