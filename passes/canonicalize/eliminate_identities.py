"""Take out operators that return their operand, bit for bit.

Before::

    y = multiply(x, 1);  z = reshape(reshape(y, s), t);  u = permute_dims(permute_dims(z, p), q)

After::

    z = reshape(x, t);  u = permute_dims(z, p[q])

Also: dropout, casts to the same type, broadcasts, reshapes and pads that change nothing, slices of
everything, concatenations of one tensor, division by 1, subtraction of 0; and an integer less
itself, which is 0.

What is not exact stays: ``x + 0`` turns -0.0 into 0.0 (adding -0.0 does not, and is taken out).

Source: none; the identities are those of IEEE 754.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.passes.canonicalize.rebuild import Rebuild, rebuild_main
from tvmopt.report import Report


@tvm.transform.module_pass(opt_level=0, name="EliminateIdentities")
class EliminateIdentities:
    """Let the readers of an identity read its operand."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return the rewritten module; ``mod`` is left as it was."""
        return rebuild_main(mod, lambda graph: _Eliminator(graph, self.report))


class _Eliminator:
    def __init__(self, graph: Rebuild, report: Report) -> None:
        self.graph = graph
        self.report = report

    def __call__(self, var: relax.Var, value: relax.Expr) -> relax.Expr:
        if isinstance(value, relax.TupleGetItem):
            return self._item(var, value)
        if not isinstance(value, relax.Call) or not isinstance(value.op, tvm.ir.Op):
            return value
        if _cancels(value):
            self.report.add(
                "EliminateIdentities", var.name, applied=True, reason="an integer less itself is 0"
            )
            return relax.const(np.zeros(ir.static_shape(var), ir.dtype(var)), ir.dtype(var))
        same = self._operand(var, value)
        if same is not None:
            return self._eliminated(var, value, same)
        return self._joined(value)

    def _operand(self, var: relax.Var, call: relax.Call) -> relax.Expr | None:
        """Return the operand that the call returns, if it is an identity."""
        if call.op.name in _KEEP_THE_VALUES and ir.same_type(call.args[0], var):
            return call.args[0]
        check = _IDENTITIES.get(call.op.name)
        same = None if check is None else check(call)
        return same if same is not None and ir.same_type(same, var) else None

    def _item(self, var: relax.Var, item: relax.TupleGetItem) -> relax.Expr:
        call = self.graph.definition(item.tuple_value)
        if item.index == 0 and ir.is_call_to(call, "relax.nn.dropout"):
            return self._eliminated(var, call, call.args[0])
        return item

    def _joined(self, call: relax.Call) -> relax.Call:
        """Write a reshape of a reshape, or a transposition of a transposition, as one."""
        if ir.is_call_to(call, "relax.reshape"):
            x = call.args[0]
            while ir.is_call_to(inner := self.graph.definition(x), *_RESHAPES):
                x = inner.args[0]
            return call if x.same_as(call.args[0]) else relax.op.reshape(x, call.args[1])
        if ir.is_call_to(call, "relax.permute_dims"):
            inner = self.graph.definition(call.args[0])
            if ir.is_call_to(inner, "relax.permute_dims"):
                first, second = ir.permutation(inner), ir.permutation(call)
                return relax.op.permute_dims(inner.args[0], [first[a] for a in second])
        return call

    def _eliminated(self, var: relax.Var, call: relax.Call, same: relax.Expr) -> relax.Expr:
        name = call.op.name.removeprefix("relax.")
        self.report.add(
            "EliminateIdentities", var.name, applied=True, reason=f"this {name} changes nothing"
        )
        return same


# Whatever these do to the shape, the elements stay and keep their order.
_RESHAPES = ("relax.reshape", "relax.flatten", "relax.squeeze", "relax.expand_dims")
# With the type of their operand, these return it. TVM types a split into one as a tensor.
_KEEP_THE_VALUES = (
    *_RESHAPES,
    *("relax.astype", "relax.broadcast_to", "relax.nn.pad", "relax.split", "relax.tile"),
)


def _cancels(call: relax.Call) -> bool:
    """Say whether a call subtracts a tensor of integers from itself; a float may be infinite."""
    if not ir.is_call_to(call, "relax.subtract") or not call.args[0].same_as(call.args[1]):
        return False
    return ir.dtype(call.args[0]).startswith(("int", "uint"))


def _is_all(expr: relax.Expr, number: float) -> bool:
    """Say whether ``expr`` is a constant of nothing but ``number``, its sign of zero included."""
    value = ir.constant(expr)
    if value is None or value.dtype.kind not in "fiu" or value.size == 0:
        return False
    signs = value.dtype.kind != "f" or np.all(np.signbit(value) == np.signbit(number))
    return bool(signs and np.all(value == number))


def _unless(number: float, *, commutes: bool) -> Callable[[relax.Call], relax.Expr | None]:
    """Return a check for ``x op number``, and if it commutes for ``number op x``."""

    def check(call: relax.Call) -> relax.Expr | None:
        if _is_all(call.args[1], number):
            return call.args[0]
        return call.args[1] if commutes and _is_all(call.args[0], number) else None

    return check


def _add(call: relax.Call) -> relax.Expr | None:
    """Find ``x + -0.0`` among floats, ``x + 0`` among integers."""
    zero = 0 if ir.dtype(call.args[0]).startswith(("int", "uint")) else -0.0
    return _unless(zero, commutes=True)(call)


def _permute(call: relax.Call) -> relax.Expr | None:
    rank = len(ir.shape(call.args[0]))
    return call.args[0] if ir.permutation(call) == list(range(rank)) else None


def _concat(call: relax.Call) -> relax.Expr | None:
    parts = call.args[0]
    return parts.fields[0] if isinstance(parts, relax.Tuple) and len(parts.fields) == 1 else None


def _slice(call: relax.Call) -> relax.Expr | None:
    """Find a slice that keeps every element in its order; its type is checked by the caller."""
    steps = call.args[4].fields if len(call.args) > 4 else ()
    return call.args[0] if all(ir.scalar(step) == 1 for step in steps) else None


_IDENTITIES: dict[str, Callable[[relax.Call], relax.Expr | None]] = {
    "relax.add": _add,
    "relax.subtract": _unless(0.0, commutes=False),
    "relax.multiply": _unless(1.0, commutes=True),
    "relax.divide": _unless(1.0, commutes=False),
    "relax.power": _unless(1.0, commutes=False),
    "relax.permute_dims": _permute,
    "relax.concat": _concat,
    "relax.strided_slice": _slice,
}
