"""The passes of passes/canonicalize in the order in which they run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.passes.canonicalize import canonicalize_passes
from tvmopt.report import Report

Build = Callable[..., tvm.IRModule]
Run = Callable[..., list[np.ndarray]]
Counts = Callable[[tvm.IRModule], Counter[str]]
Integers = Callable[..., np.ndarray]

op = relax.op


def _canonicalize(mod: tvm.IRModule) -> tvm.IRModule:
    for one in canonicalize_passes(Report()):
        mod = one(mod)
    return mod


def _const(array: object) -> relax.Expr:
    return relax.const(np.asarray(array, "float32"))


def _network(integers: Integers) -> Callable[[relax.BlockBuilder, relax.Expr], relax.Expr]:
    """What exporters do to a small MobileNetV3-like network."""

    def norm(bb: relax.BlockBuilder, y: relax.Expr, channels: int, name: str) -> relax.Expr:
        params = [_const(np.full(channels, v)) for v in (2.0, 1.0, -1.0, 4.0)]
        whole = bb.emit(op.nn.batch_norm(y, *params, axis=1, epsilon=0.0, training=False))
        return bb.emit(relax.TupleGetItem(whole, 0), name)

    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        e = bb.emit
        y = e(op.nn.pad(x, (0, 0, 0, 0, 0, 1, 0, 1)))
        y = e(op.nn.conv2d(y, _const(integers(1, 8, 3, 3, 3)), strides=2), "stem")
        y = norm(bb, y, 8, "stem_norm")
        gate = e(op.clip(e(op.add(y, _const(3.0))), 0, 6))
        y = e(op.divide(e(op.multiply(y, gate)), _const(6.0)), "hard_swish")
        z = e(op.nn.conv2d(y, _const(integers(2, 8, 1, 3, 3)), padding=1, groups=8), "depthwise")
        z = e(op.maximum(norm(bb, z, 8, "depthwise_norm"), _const(0.0)), "bound")
        s = e(op.nn.adaptive_avg_pool2d(z, (1, 1)))
        s = e(op.reshape(s, (2, 8)))
        w = e(op.permute_dims(_const(integers(3, 8, 8))))
        s = e(op.sigmoid(e(op.matmul(s, w), "squeeze")))
        z = e(op.multiply(z, e(op.reshape(s, (2, 8, 1, 1)))))
        z = e(op.add(z, y), "residual")
        z = e(op.reshape(z, (2, 8 * 4 * 4)))
        return e(op.matmul(z, _const(integers(4, 128, 3))), "logits")

    return body


def test_small_network(build: Build, run: Run, counts: Counts, integers: Integers) -> None:
    before = build(_network(integers), (2, 3, 8, 8))
    after = _canonicalize(before)

    assert counts(after) == {
        "permute_dims": 1,
        "nn.conv2d": 2,
        "add": 4,  # two biases, the 3 of hard-swish, the residual
        "clip": 1,
        "multiply": 3,  # two of hard-swish, one of the gate
        "nn.relu": 1,
        "mean": 1,
        "reshape": 1,  # the flatten; between pooling and gate only ones come and go
        "matmul": 2,
        "sigmoid": 1,
    }
    names = {var.name for var, _ in ir.bindings(after["main"])}
    assert {"stem", "depthwise", "squeeze", "hard_swish", "bound", "residual", "logits"} <= names
    x = integers(0, 2, 3, 8, 8)
    old, new = run(before, x)[0], run(after, x)[0]
    # Everything is exact but dividing by 6 (a product with its reciprocal now) and the mean: each
    # is off by 2 ** -23 of itself, seen through two convolutions and 128 products of up to 3.
    assert np.max(np.abs(new - old)) <= 8 * 2.0**-23 * 128 * 3 * np.max(np.abs(old))
    np.testing.assert_allclose(new, old, rtol=0, atol=1e-6 * np.max(np.abs(old)))


def test_a_second_time_changes_nothing(build: Build, integers: Integers) -> None:
    once = _canonicalize(build(_network(integers), (2, 3, 8, 8)))
    tvm.ir.assert_structural_equal(_canonicalize(once), once)


def test_printed_form(build: Build, integers: Integers, golden: Callable[[str], None]) -> None:
    golden(_canonicalize(build(_network(integers), (2, 3, 8, 8))).script())


def test_the_same_value_twice_is_computed_once(build: Build, counts: Counts) -> None:
    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        return relax.Tuple([bb.emit(op.exp(x)), bb.emit(op.exp(x))])

    assert counts(_canonicalize(build(body, (4,)))) == {"exp": 1}


def test_input_module_is_not_changed(build: Build, integers: Integers) -> None:
    before = build(_network(integers), (2, 3, 8, 8))
    _canonicalize(before)
    tvm.ir.assert_structural_equal(before, build(_network(integers), (2, 3, 8, 8)))


def test_calls_of_other_functions_get_the_logical_tensors(run: Run) -> None:
    """Private functions and PrimFuncs are opaque: their operands and results stay in order."""
    builder = relax.BlockBuilder()
    y = relax.Var("y", relax.TensorType((1, 4, 3, 3), "float32"))
    with builder.function("flipped", [y], private=True):
        with builder.dataflow():
            out = builder.emit_output(op.flip(y, 1))
        builder.emit_func_output(out)
    flipped = builder.get().get_global_var("flipped")
    x = relax.Var("x", relax.TensorType((1, 3, 4, 4), "float32"))
    weight = np.random.default_rng(0).integers(-2, 3, (4, 3, 2, 2)).astype("float32")
    with builder.function("main", [x]):
        with builder.dataflow():
            y = builder.emit(op.nn.conv2d(x, relax.const(weight)), "conv")
            y = builder.emit(relax.Call(flipped, [y]), "call")
            y = builder.emit_te(tvm.topi.nn.relu, y)
            y = builder.emit_output(op.sum(y, [2, 3]))
        builder.emit_func_output(y)
    before = builder.finalize()

    after = _canonicalize(before)

    assert {g.name_hint for g in after.get_global_vars()} == {"main", "flipped", "relu"}
    x_value = np.random.default_rng(1).integers(-3, 4, (1, 3, 4, 4)).astype("float32")
    np.testing.assert_array_equal(run(after, x_value)[0], run(before, x_value)[0])


def test_quantized_convolution_keeps_its_form(build: Build, run: Run, counts: Counts) -> None:
    """QDQ around a convolution, as other tools export it, is what lowering recognises."""
    rng = np.random.default_rng(0)
    weight = relax.const(rng.integers(-7, 8, (4, 3, 3, 3)).astype("int8"))
    bias = relax.const(rng.integers(-9, 10, 4).astype("int32"))
    scales = _const([0.5, 1.0, 2.0, 0.25])
    zeros = relax.const(np.zeros(4, "int8"))
    half, zero = _const(0.5), relax.const(np.int8(3))

    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        e = bb.emit
        x = e(op.quantize(x, half, zero, axis=1, out_dtype="int8"))
        x = e(op.dequantize(x, half, zero, axis=1, out_dtype="float32"))
        w = e(op.dequantize(weight, scales, zeros, axis=0, out_dtype="float32"))
        b = e(op.dequantize(bias, scales, relax.const(np.zeros(4, "int32")), axis=0))
        y = e(op.nn.conv2d(x, w, padding=1))
        y = e(op.nn.relu(e(op.add(y, e(op.reshape(b, (1, 4, 1, 1)))))))
        y = e(op.quantize(y, half, zero, axis=1, out_dtype="int8"))
        return e(op.dequantize(y, half, zero, axis=1, out_dtype="float32"))

    before = build(body, (1, 3, 5, 5))
    after = _canonicalize(before)

    assert counts(after)["quantize"] == 2
    assert counts(after)["dequantize"] == 4
    (conv,) = [c for c in ir.calls(after) if ir.is_call_to(c, "relax.nn.conv2d")]
    weights = [c for c in ir.calls(after) if ir.is_call_to(c, "relax.dequantize")]
    (moved,) = [c for c in weights if ir.shape(c) == (4, 3, 3, 3) and ir.is_constant(c.args[0])]
    assert (conv.attrs.kernel_layout, moved.attrs.axis) == ("OHWI", 0)
    x = rng.integers(-5, 6, (1, 3, 5, 5)).astype("float32")
    np.testing.assert_array_equal(run(after, x)[0], run(before, x)[0])
