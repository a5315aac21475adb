"""Mirror of passes/prune/derivatives.py and convolve.py: against differences and the compiler."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt.calibration import Tap
from tvmopt.passes.prune.derivatives import forward_of

Build = Callable[..., tvm.IRModule]
op = relax.op


def _var(name: str, *shape: int) -> relax.Var:
    return relax.Var(name, relax.TensorType(shape, "float32"))


def _conv(data: int, weight: tuple[int, ...], **attrs: object) -> relax.Expr:
    x, w = _var("x", 2, 7, 6, data), _var("w", *weight)
    layouts = {"data_layout": "NHWC", "kernel_layout": "OHWI", "out_layout": "NHWC"}
    return op.nn.conv2d(x, w, **layouts, **attrs)


def _layer_norm(axis: int) -> relax.Expr:
    x, gamma, beta = _var("x", 2, 3, 8), _var("gamma", 8), _var("beta", 8)
    return op.nn.layer_norm(x, gamma, beta, axes=[axis], epsilon=1e-3)


A, B = _var("a", 2, 3, 4), _var("b", 2, 3, 4)
CALLS = {
    "add": op.add(A, B),
    "add one a channel": op.add(A, _var("b", 4)),
    "add one a row": op.add(A, _var("b", 2, 1, 4)),
    "subtract": op.subtract(A, _var("b", 4)),
    "multiply": op.multiply(A, _var("b", 3, 1)),
    "divide": op.divide(A, _var("b", 4)),
    "matmul by a matrix": op.matmul(A, _var("b", 4, 5)),
    "matmul of stacks": op.matmul(_var("a", 2, 3, 4, 5), _var("b", 2, 3, 5, 2)),
    "relu": op.nn.relu(A),
    "sigmoid": op.sigmoid(A),
    "tanh": op.tanh(A),
    "gelu": op.nn.gelu(A),
    "clip": op.clip(A, -0.5, 0.7),
    "reshape": op.reshape(A, (2, 12)),
    "permute": op.permute_dims(A, [2, 0, 1]),
    "reverse": op.permute_dims(A),
    "mean": op.mean(A, axis=[1]),
    "mean kept": op.mean(A, axis=[1, 2], keepdims=True),
    "sum": op.sum(A, axis=[-1]),
    "sum kept": op.sum(A, axis=[0, 2], keepdims=True),
    "sum of all": op.sum(A),
    "maximum": op.maximum(A, _var("b", 4)),
    "square root": op.sqrt(A),
    "broadcast": op.broadcast_to(_var("a", 3, 1), (2, 3, 4)),
    "softmax": op.nn.softmax(A, axis=-1),
    "layer norm": _layer_norm(-1),
    "layer norm, axes counted from the first": _layer_norm(2),
    "conv 3x3": _conv(3, (4, 3, 3, 3), padding=[1, 1, 1, 1]),
    "conv strided, dilated, padded unevenly": _conv(
        3, (4, 3, 2, 3), strides=[2, 1], padding=[1, 0, 2, 1], dilation=[1, 2]
    ),
    "conv padded beyond its taps": _conv(3, (4, 2, 2, 3), padding=[2, 0, 1, 2]),
    "conv dilated": _conv(3, (4, 3, 3, 3), padding=[2, 1, 0, 2], dilation=[2, 1]),
    "conv 1x1": _conv(3, (4, 1, 1, 3)),
    "conv 1x1 strided": _conv(3, (4, 1, 1, 3), strides=[2, 2]),
    "depthwise": _conv(4, (4, 3, 3, 1), padding=[1, 1, 1, 1], groups=4, strides=[2, 1]),
}


def _inputs(call: relax.Call) -> list[np.ndarray]:
    """Values for the operands that are tensors, float64 and away from 0, where relu bends."""
    rng = np.random.default_rng(3)
    shapes = [[int(d) for d in arg.ty.shape] for arg in call.args if isinstance(arg, relax.Var)]
    values = [rng.standard_normal(shape) for shape in shapes]
    away = [v + np.sign(v) * 0.2 for v in values]
    return [np.abs(v) for v in away] if call.op.name == "relax.sqrt" else away


def _run(call: relax.Call, values: list[np.ndarray]) -> tuple[np.ndarray, Callable[..., object]]:
    builder = relax.BlockBuilder()
    with builder.function("main", [a for a in call.args if isinstance(a, relax.Var)]):
        var = builder.emit(call)
        builder.emit_func_output(var)
    forward = forward_of(builder.get()["main"].body.blocks[0].bindings[0].value)
    assert forward is not None
    return forward(*values)


@pytest.mark.parametrize("name", CALLS)
def test_derivatives_are_those_of_differences(name: str) -> None:
    call = CALLS[name]
    values = _inputs(call)
    rng = np.random.default_rng(4)
    out, back = _run(call, values)
    gradient = rng.standard_normal(out.shape)
    found = back(gradient)
    step = 1e-5
    for i, value in enumerate(values):
        along = rng.standard_normal(value.shape)
        moved = [
            _run(call, [v + s * step * along if j == i else v for j, v in enumerate(values)])[0]
            for s in (1, -1)
        ]
        slope = float(np.sum(gradient * (moved[0] - moved[1]) / (2 * step)))
        # Central differences are off by step^2 times a third derivative, which here is below 1e3,
        # and rounding by 1e-16 / step of sums of at most 1e3: 1e-7 and 1e-8.
        assert float(np.sum(found[i] * along)) == pytest.approx(slope, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("name", ["conv 3x3", "depthwise", "gelu", "layer norm", "softmax"])
def test_values_are_those_that_compile(name: str, tap: Tap, build: Build) -> None:
    call = CALLS[name]
    values = [v.astype(np.float32) for v in _inputs(call)]

    def body(builder: relax.BlockBuilder, x: relax.Var) -> relax.Expr:
        rest = [relax.const(v) for v in values[1:]]
        return builder.emit(relax.Call(call.op, [x, *rest], call.attrs), "made")

    mod = build(body, values[0].shape)
    compiled = tap(mod, ["made"])({"x": values[0]})["made"]
    # Sums of at most 27 products, each rounded to 2^-24, or a few steps of math to 2^-22.
    assert np.allclose(_run(call, values)[0], compiled, rtol=2e-5, atol=2e-5)


def test_what_is_not_known_is_said() -> None:
    assert forward_of(op.cumsum(A, axis=0)) is None
    builder = relax.BlockBuilder()
    with builder.function("main", [A]):
        builder.emit_func_output(builder.emit(op.cumsum(A, axis=0)))
    grouped = _conv(4, (4, 3, 3, 2), groups=2)
    with pytest.raises(AssertionError):
        _run(grouped, _inputs(grouped))
