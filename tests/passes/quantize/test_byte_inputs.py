"""Mirror of passes/quantize/byte_inputs.py."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.passes.canonicalize.rebuild import Rebuild
from tvmopt.passes.quantize.byte_inputs import byte_meanings, source_of
from tvmopt.passes.quantize.integer_flow import find_flow
from tvmopt.passes.quantize.layers import find_layers

Emit = Callable[[relax.Expr], relax.Expr]
Line = Callable[[Emit, relax.Expr], relax.Expr]
Run = Callable[..., list[np.ndarray]]

SHAPE = (1, 4, 4, 4)
op = relax.op


def _const(value: float, ndim: int = 0) -> relax.Expr:
    return relax.const(np.full((1,) * ndim, value, np.float32))


def _graph(line: Line, tail: Callable, dtype: str = "uint8") -> tvm.IRModule:
    builder = relax.BlockBuilder()
    image = relax.Var("image", relax.TensorType(SHAPE, dtype))
    with builder.function("main", [image]):
        with builder.dataflow():
            cast = builder.emit(op.astype(image, "float32"), "cast")
            y = line(lambda value: builder.emit(value, "y"), cast)
            result = builder.emit_output(tail(builder, y), "result")
        builder.emit_func_output(result)
    return builder.finalize()


_LINES: dict[str, tuple[Line, float, int, str]] = {
    "bytes as they are": (lambda _e, x: x, 1.0, 0, "uint8"),
    "signed bytes": (lambda _e, x: x, 1.0, 0, "int8"),
    "scaled": (lambda e, x: e(op.multiply(x, _const(0.5))), 0.5, 0, "uint8"),
    "scaled from the left": (lambda e, x: e(op.multiply(_const(0.5, 4), x)), 0.5, 0, "uint8"),
    "divided": (lambda e, x: e(op.divide(x, _const(255.0))), 1 / 255, 0, "uint8"),
    "centred": (lambda e, x: e(op.subtract(x, _const(127.0))), 1.0, 127, "uint8"),
    "centred and divided": (
        lambda e, x: e(op.divide(e(op.subtract(x, _const(127.0))), _const(128.0))),
        1 / 128,
        127,
        "uint8",
    ),
    "divided and centred": (
        lambda e, x: e(op.add(_const(-0.5, 1), e(op.divide(x, _const(254.0))))),
        1 / 254,
        127,
        "uint8",
    ),
}


@pytest.mark.parametrize("name", _LINES)
def test_line_of_bytes_has_a_meaning(name: str, run: Run) -> None:
    line, scale, zero, dtype = _LINES[name]
    mod = _graph(line, lambda bb, y: bb.emit(op.negative(y)), dtype)
    values = dict(ir.bindings(mod["main"]))
    negative = next(v for v in values.values() if ir.is_call_to(v, "relax.negative"))
    how = byte_meanings(values)[negative.args[0]]
    assert (float(how.scale), int(how.zero_point), how.dtype) == (np.float32(scale), zero, dtype)
    assert source_of(negative.args[0], values).same_as(mod["main"].params[0])
    limits = np.iinfo(dtype)
    codes = np.random.default_rng(0).integers(limits.min, limits.max + 1, SHAPE).astype(dtype)
    meant = (codes.astype(np.int32) - zero).astype(np.float32) * how.scale
    # Two steps rounded where the meaning rounds once: each to 2^-24 of what stands there, at
    # most 255 steps.
    np.testing.assert_allclose(-run(mod, codes)[0], meant, rtol=0, atol=2.0**-22 * 255 * scale)


_OTHERS: dict[str, Line] = {
    "a zero between two bytes": lambda e, x: e(op.subtract(x, _const(127.5))),
    "a zero that is no byte": lambda e, x: e(op.add(x, _const(1.0))),
    "a falling line": lambda e, x: e(op.multiply(x, _const(-1.0))),
    "one number a channel": lambda e, x: e(
        op.multiply(x, relax.const(np.arange(1, 5, dtype="float32")))
    ),
    "divided by nothing": lambda e, x: e(op.divide(x, _const(0.0))),
    "a reciprocal": lambda e, x: e(op.divide(_const(1.0), x)),
    "one more axis": lambda e, x: e(op.reshape(e(op.multiply(x, _const(2.0, 5))), SHAPE)),
}


@pytest.mark.parametrize("name", _OTHERS)
def test_what_bytes_cannot_mean_has_no_meaning(name: str) -> None:
    mod = _graph(_OTHERS[name], lambda bb, y: bb.emit(op.negative(y)))
    found = byte_meanings(dict(ir.bindings(mod["main"])))
    assert [var.name for var in found] == ["cast"]


def test_first_layer_reads_the_bytes(convolve: Callable[..., relax.Expr]) -> None:
    def tail(bb: relax.BlockBuilder, y: relax.Expr) -> relax.Expr:
        return convolve(bb, convolve(bb, y, "a", 4), "b", 4)

    line, *_ = _LINES["centred and divided"]
    func = _graph(line, tail)["main"]
    found = find_flow(Rebuild(func, relax.BlockBuilder()), find_layers(func))
    assert [float(how.scale) for how in found.bytes.values()] == [1 / 128]
    assert {var.name for var in found.ranges} == {"a_act"}


def test_other_functions_of_bytes_are_tables(convolve: Callable[..., relax.Expr]) -> None:
    func = _graph(_OTHERS["a zero between two bytes"], lambda bb, y: convolve(bb, y, "a", 4))[
        "main"
    ]
    found = find_flow(Rebuild(func, relax.BlockBuilder()), find_layers(func))
    assert {var.name for var in found.bytes} == {"cast"}
    assert {var.name for var in found.ranges} == {"y"}
