"""Write every global pooling as a reduction that keeps its axes.

Before::

    y: (n, c, 1, 1) = adaptive_avg_pool2d(x: (n, c, h, w), output_size=1)
    z: (n, c, 1, 1) = avg_pool2d(x, pool_size=(h, w))        u = max_pool2d(x, pool_size=(h, w))

After::

    y: (n, c, 1, 1) = mean(x, axis=[2, 3], keepdims=True)    u = max(x, axis=[2, 3], keepdims=True)

Cost: none. Lowering needs one kernel for it.

Source: none; the definition of the operators.
"""

from __future__ import annotations

import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.passes.canonicalize.rebuild import rebuild_main
from tvmopt.report import Report


@tvm.transform.module_pass(opt_level=0, name="CanonicalizeReduction")
class CanonicalizeReduction:
    """Turn poolings whose one window is the whole image into ``mean`` or ``max``."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return the rewritten module; ``mod`` is left as it was."""
        return rebuild_main(mod, lambda _graph: self._rule)

    def _rule(self, var: relax.Var, value: relax.Expr) -> relax.Expr:
        if ir.is_call_to(value, *_ADAPTIVE):
            reduce = relax.op.mean if _keeps_one(value, var) else None
        elif ir.is_call_to(value, *_AVERAGE, *_MAX):
            reduce = relax.op.mean if ir.is_call_to(value, *_AVERAGE) else relax.op.max
            reduce = reduce if _is_global(value) else None
        else:
            return value
        if reduce is None or value.attrs.out_layout != value.attrs.layout:
            return value
        self.report.add(
            "CanonicalizeReduction", var.name, applied=True, reason="its window is the whole image"
        )
        return reduce(value.args[0], axis=_spatial_axes(value), keepdims=True)


_ADAPTIVE = tuple(f"relax.nn.adaptive_avg_pool{n}d" for n in (1, 2, 3))
_AVERAGE = tuple(f"relax.nn.avg_pool{n}d" for n in (1, 2, 3))
_MAX = tuple(f"relax.nn.max_pool{n}d" for n in (1, 2, 3))


def _spatial_axes(call: relax.Call) -> list[int]:
    return [i for i, axis in enumerate(call.attrs.layout) if axis not in "NC"]


def _keeps_one(call: relax.Call, var: relax.Var) -> bool:
    return all(ir.shape(var)[axis] == 1 for axis in _spatial_axes(call))


def _is_global(call: relax.Call) -> bool:
    size = [ir.shape(call.args[0])[axis] for axis in _spatial_axes(call)]
    undilated = all(int(d) == 1 for d in call.attrs.dilation)
    return (
        undilated
        and not any(int(p) for p in call.attrs.padding)
        and [int(k) for k in call.attrs.pool_size] == size
    )
