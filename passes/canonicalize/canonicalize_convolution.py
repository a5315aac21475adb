"""Write one-dimensional convolutions and poolings as two-dimensional ones of height 1.

Before::

    y: (n, o, w') = conv1d(x: (n, c, w), W: (o, c, k))

After::

    u: (n, c, 1, w) = expand_dims(x)
    v: (n, o, 1, w') = conv2d(u, W': (o, c, 1, k))
    y: (n, o, w') = squeeze(v)

Cost: none, the reshapes move nothing and ``CanonicalizeLayout`` lets them cancel. The kernels need
one form less.

Source: none; the usual reduction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.passes.canonicalize.rebuild import Rebuild, rebuild_main
from tvmopt.report import Report


@tvm.transform.module_pass(opt_level=0, name="CanonicalizeConvolution")
class CanonicalizeConvolution:
    """Leave no ``conv1d``, ``conv1d_transpose`` or one-dimensional pooling behind."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return the rewritten module; ``mod`` is left as it was."""
        return rebuild_main(mod, lambda graph: _Widener(graph, self.report))


class _Widener:
    def __init__(self, graph: Rebuild, report: Report) -> None:
        self.graph = graph
        self.report = report

    def __call__(self, var: relax.Var, value: relax.Expr) -> relax.Expr:
        make = _TWO_DIMENSIONAL.get(value.op.name) if _is_operator(value) else None
        if make is None:
            return value
        layout = getattr(value.attrs, "data_layout", None) or value.attrs.layout
        if layout != "NCW" or value.attrs.out_layout != layout:
            self._note(var, applied=False, reason=f"its layout is {layout}, not NCW")
            return value
        self._note(var, applied=True, reason="it is two-dimensional with height 1")
        args = [self._with_height(arg, f"{var.name}_2d_{i}") for i, arg in enumerate(value.args)]
        wide = self.graph.emit(make(value.attrs, args), f"{var.name}_2d")
        return relax.op.squeeze(wide, [2])

    def _with_height(self, arg: relax.Expr, name: str) -> relax.Expr:
        value = ir.constant(arg)
        if value is not None:
            return relax.const(value.reshape(*value.shape[:2], 1, *value.shape[2:]), ir.dtype(arg))
        return self.graph.emit(relax.op.expand_dims(arg, 2), name)

    def _note(self, var: relax.Var, *, applied: bool, reason: str) -> None:
        self.report.add("CanonicalizeConvolution", var.name, applied=applied, reason=reason)


def _is_operator(value: relax.Expr) -> bool:
    return isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.Op)


def _pair(first: int, values: Sequence[int]) -> tuple[int, int]:
    return first, int(values[0])


def _padding(values: Sequence[int]) -> tuple[int, int, int, int]:
    return 0, int(values[0]), 0, int(values[1])


def _conv(attrs: tvm.ir.Attrs, args: list[relax.Expr]) -> relax.Call:
    return relax.op.nn.conv2d(
        *args,
        strides=_pair(1, attrs.strides),
        padding=_padding(attrs.padding),
        dilation=_pair(1, attrs.dilation),
        groups=attrs.groups,
        data_layout="NCHW",
        kernel_layout=attrs.kernel_layout.replace("W", "HW"),
        out_dtype=attrs.out_dtype,
    )


def _conv_transpose(attrs: tvm.ir.Attrs, args: list[relax.Expr]) -> relax.Call:
    return relax.op.nn.conv2d_transpose(
        *args,
        strides=_pair(1, attrs.strides),
        padding=_padding(attrs.padding),
        output_padding=_pair(0, attrs.output_padding),
        dilation=_pair(1, attrs.dilation),
        groups=attrs.groups,
        data_layout="NCHW",
        kernel_layout=attrs.kernel_layout.replace("W", "HW"),
        out_dtype=attrs.out_dtype,
    )


def _pool(op: Callable[..., relax.Call]) -> Callable[[tvm.ir.Attrs, list[relax.Expr]], relax.Call]:
    def make(attrs: tvm.ir.Attrs, args: list[relax.Expr]) -> relax.Call:
        return op(
            *args,
            pool_size=_pair(1, attrs.pool_size),
            strides=_pair(1, attrs.strides),
            padding=_padding(attrs.padding),
            dilation=_pair(1, attrs.dilation),
            ceil_mode=attrs.ceil_mode,
            count_include_pad=attrs.count_include_pad,
            layout="NCHW",
        )

    return make


def _adaptive_pool(attrs: tvm.ir.Attrs, args: list[relax.Expr]) -> relax.Call:
    width = ir.shape(args[0])[3] if attrs.output_size is None else attrs.output_size[0]
    return relax.op.nn.adaptive_avg_pool2d(args[0], output_size=(1, int(width)), layout="NCHW")


_TWO_DIMENSIONAL: dict[str, Callable[[tvm.ir.Attrs, list[relax.Expr]], relax.Call]] = {
    "relax.nn.conv1d": _conv,
    "relax.nn.conv1d_transpose": _conv_transpose,
    "relax.nn.max_pool1d": _pool(relax.op.nn.max_pool2d),
    "relax.nn.avg_pool1d": _pool(relax.op.nn.avg_pool2d),
    "relax.nn.adaptive_avg_pool1d": _adaptive_pool,
}
