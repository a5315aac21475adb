"""Store a constant operand once where broadcasting repeats it.

Before::

    y: (n, h, w, c) = add(x, C: (1, h, w, c) all ones)

After::

    y: (n, h, w, c) = add(x, C': (1, 1, 1, 1))

An axis along which a constant does not vary is cut to size 1, if the other operands keep the
result's shape. Cost: the constant is read from cache, or not at all, instead of from memory.

Source: none; derived here. Exporters write out broadcasts of scalars in full.
"""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.passes.canonicalize.rebuild import rebuild_main
from tvmopt.report import Report

_BROADCASTING = tuple(
    f"relax.{name}"
    for name in (
        *("add", "subtract", "multiply", "divide", "power", "maximum", "minimum", "where"),
        *("equal", "not_equal", "less", "less_equal", "greater", "greater_equal"),
        *("floor_divide", "mod", "floor_mod", "logical_and", "logical_or", "logical_xor"),
    )
)


def shrink(value: np.ndarray, needed: tuple[int, ...]) -> np.ndarray:
    """Cut each axis along which ``value`` does not vary to size 1.

    Args:
        value: Any shape; NaNs count as equal.
        needed: The axes that must keep their size.

    Returns:
        A view that broadcasts to ``value``, bit for bit.
    """
    for axis, size in enumerate(value.shape):
        if size > 1 and axis not in needed:
            first = value.take([0], axis)
            # Bytes, not numbers: -0.0 is not 0.0, and a NaN is itself.
            if np.broadcast_to(first, value.shape).tobytes() == value.tobytes():
                value = first
    return value


@tvm.transform.module_pass(opt_level=0, name="CanonicalizeConstants")
class CanonicalizeConstants:
    """Shrink the constant operands of elementwise operators."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return the rewritten module; ``mod`` is left as it was."""
        return rebuild_main(mod, lambda _graph: self._rule)

    def _rule(self, var: relax.Var, value: relax.Expr) -> relax.Expr:
        if not ir.is_call_to(value, *_BROADCASTING):
            return value
        args = [self._shrunk(var, value, i) for i in range(len(value.args))]
        if all(a.same_as(b) for a, b in zip(args, value.args, strict=True)):
            return value
        return ir.with_changes(value, args)

    def _shrunk(self, var: relax.Var, call: relax.Call, index: int) -> relax.Expr:
        arg = call.args[index]
        value = ir.constant(arg)
        # A vector is small, and what lowering expects as a bias.
        if value is None or sum(size > 1 for size in value.shape) < 2:
            return arg
        smaller = shrink(value, _needed(var, call, index))
        if smaller.size == value.size:
            return arg
        self.report.add(
            "CanonicalizeConstants",
            var.name,
            applied=True,
            reason=f"a constant of shape {value.shape} varies as {smaller.shape} does",
        )
        return relax.const(np.array(smaller, order="C"), ir.dtype(arg))


def _needed(var: relax.Var, call: relax.Call, index: int) -> tuple[int, ...]:
    """Return the axes of an operand that alone give the result its size."""
    rank = len(ir.shape(var))
    shapes = [
        (1,) * (rank - len(ir.shape(a))) + tuple(ir.shape(a))
        for i, a in enumerate(call.args)
        if i != index and not ir.is_constant(a)
    ]
    own = len(ir.shape(call.args[index]))
    return tuple(
        axis
        for axis in range(own)
        if all(dims[rank - own + axis] != ir.shape(var)[rank - own + axis] for dims in shapes)
    )
