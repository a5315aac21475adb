"""Fold an explicit pad into the padding of the convolution or pooling that reads it.

Before::

    p: (n, c, h + t + b, w + l + r) = pad(x: (n, c, h, w), constant 0)
    y = conv2d(p, W, padding=(a, b, c, d))

After::

    y = conv2d(x, W, padding=(a + t, b + l, c + b, d + r))

The same for average pools that count what is padded, and for max pools if the pad is no larger than
anything in the data: minus infinity, or zero behind a relu. The pad may be one of integers, in
front of their ``dequantize``. Cost: one pass over the tensor less.

Source: none; derived here from the definitions of the operators.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax

from tvmopt import forms, ir
from tvmopt.forms import Affine
from tvmopt.passes.canonicalize.rebuild import Rebuild, rebuild_main
from tvmopt.report import Report

_CONVOLUTIONS = ("relax.nn.conv1d", "relax.nn.conv2d", "relax.nn.conv3d")
_AVERAGE = ("relax.nn.avg_pool1d", "relax.nn.avg_pool2d", "relax.nn.avg_pool3d")
_MAX = ("relax.nn.max_pool1d", "relax.nn.max_pool2d", "relax.nn.max_pool3d")
_NOT_NEGATIVE = ("relax.nn.relu", "relax.sigmoid", "relax.exp", "relax.abs", "relax.nn.softmax")


@tvm.transform.module_pass(opt_level=0, name="FoldPadding")
class FoldPadding:
    """Give convolutions and poolings the unpadded data wherever that is exact."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return the rewritten module; ``mod`` is left as it was."""
        return rebuild_main(mod, lambda graph: _Folder(graph, self.report))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pad:
    """A pad in front of an operator, as that operator sees it.

    Attributes:
        data: What is padded.
        shape: Its shape as the operator sees it, with axes of size 1 put in or left out.
        before: The width before each of the operator's axes.
        after: The width after each of them.
        mode: Such as ``"constant"``.
        value: Of a constant pad; the number that it stands for.
        how: What the data's integers mean, if a dequantize stands between; else None.
    """

    data: relax.Expr
    shape: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    mode: str
    value: float
    how: Affine | None


class _Folder:
    def __init__(self, graph: Rebuild, report: Report) -> None:
        self.graph = graph
        self.report = report

    def __call__(self, var: relax.Var, value: relax.Expr) -> relax.Expr:
        if not ir.is_call_to(value, *_CONVOLUTIONS, *_AVERAGE, *_MAX):
            return value
        pad = self._pad(value.args[0])
        if pad is None:
            return value
        reason = self._obstacle(value, pad)
        self.report.add(
            "FoldPadding", var.name, applied=reason is None, reason=reason or "the pad is constant"
        )
        return value if reason is not None else self._folded(var, value, pad)

    def _pad(self, data: relax.Expr) -> _Pad | None:
        """Find the pad that makes ``data``, perhaps behind a reshape that only moves ones."""
        call, seen = self.graph.definition(data), ir.static_shape(data)
        quantized = forms.match_dequantize(call)
        how = None if quantized is None or quantized[1].scale.ndim else quantized[1]
        if quantized is not None and how is not None:
            data = quantized[0]
            call = self.graph.definition(data)
        if ir.is_call_to(call, "relax.reshape"):
            data = call.args[0]
            call = self.graph.definition(data)
        if not ir.is_call_to(call, "relax.nn.pad"):
            return None
        flat = [int(w) for w in call.attrs.pad_width]
        place = _same_axes(ir.static_shape(data), seen)
        if place is None or any(w for w in flat if w < 0):
            return None
        before, after = [0] * len(seen), [0] * len(seen)
        for axis, there in place.items():
            before[there], after[there] = flat[2 * axis], flat[2 * axis + 1]
        return _Pad(
            data=call.args[0],
            shape=tuple(d - b - a for d, b, a in zip(seen, before, after, strict=True)),
            before=tuple(before),
            after=tuple(after),
            mode=call.attrs.pad_mode,
            value=_number(float(call.attrs.pad_value), how),
            how=how,
        )

    def _obstacle(self, call: relax.Call, pad: _Pad) -> str | None:
        """Return why the pad must stay, or None if it need not."""
        if pad.mode != "constant":
            return f"the pad is of mode {pad.mode}"
        widths = zip(_layout(call), pad.before, pad.after, strict=True)
        if any(b or a for axis, b, a in widths if axis in "NC"):
            return "the pad widens the batch or the channels"
        if ir.is_call_to(call, *_CONVOLUTIONS):
            return None if pad.value == 0 else "a convolution pads with zeros"
        if call.attrs.ceil_mode:
            return "the pooling rounds its size up"
        if ir.is_call_to(call, *_AVERAGE):
            if pad.value != 0:
                return "an average pooling pads with zeros"
            counted = call.attrs.count_include_pad or not any(int(p) for p in call.attrs.padding)
            return None if counted else "the pooling counts this pad but not its own"
        return self._obstacle_to_max(call, pad)

    def _obstacle_to_max(self, call: relax.Call, pad: _Pad) -> str | None:
        dtype = np.dtype(ir.dtype(pad.data))
        lowest = float((np.finfo if dtype.kind == "f" else np.iinfo)(dtype).min)
        lowest = _number(lowest, pad.how)
        if not (pad.value <= lowest or self._is_at_least(pad.data, pad.value)):
            return "something in the data may be smaller than the pad"
        before, after = _padding(call, pad)
        undilated = all(int(d) == 1 for d in call.attrs.dilation)
        sizes = [int(k) for k in call.attrs.pool_size]
        if undilated and all(max(b, a) < k for b, a, k in zip(before, after, sizes, strict=True)):
            return None
        return "a window may lie in the pad alone"

    def _is_at_least(self, data: relax.Expr, bound: float) -> bool:
        """Say whether no element of the data is smaller than ``bound``."""
        made = self.graph.definition(data)
        if ir.is_call_to(made, "relax.clip"):
            return ir.scalar(made.args[1]) >= bound
        quantized = forms.match_dequantize(made)
        if quantized is not None and quantized[1].scale.ndim == 0:
            return _number(quantized[1].low, quantized[1]) >= bound
        return bound <= 0 and ir.is_call_to(made, *_NOT_NEGATIVE)

    def _folded(self, var: relax.Var, call: relax.Call, pad: _Pad) -> relax.Call:
        before, after = _padding(call, pad)
        changes: dict[str, object] = {"padding": [*before, *after]}
        if ir.is_call_to(call, *_AVERAGE):
            changes["count_include_pad"] = True
        data = pad.data
        if ir.shape(data) != pad.shape:
            data = self.graph.emit(relax.op.reshape(data, pad.shape), f"{var.name}_unpadded")
        if pad.how is not None:
            data = self.graph.emit(forms.dequantize(data, pad.how), f"{var.name}_data")
        return ir.with_changes(call, [data, *call.args[1:]], **changes)


def _number(value: float, how: Affine | None) -> float:
    """Return the number that an integer stands for."""
    return value if how is None else float((value - how.zero_point) * how.scale)


def _same_axes(inner: tuple[int, ...], outer: tuple[int, ...]) -> dict[int, int] | None:
    """Return which axis of ``outer`` each axis of ``inner`` larger than 1 is; None if reshaped."""
    mine = [i for i, d in enumerate(inner) if d != 1]
    theirs = [i for i, d in enumerate(outer) if d != 1]
    if [inner[i] for i in mine] != [outer[i] for i in theirs]:
        return None
    return dict(zip(mine, theirs, strict=True))


def _layout(call: relax.Call) -> str:
    return call.attrs.data_layout if ir.is_call_to(call, *_CONVOLUTIONS) else call.attrs.layout


def _padding(call: relax.Call, pad: _Pad) -> tuple[list[int], list[int]]:
    """Return the padding before and after each spatial axis that does the work of both."""
    own = [int(p) for p in call.attrs.padding]
    half = len(own) // 2
    spatial = [i for i, axis in enumerate(_layout(call)) if axis not in "NC"]
    before = [a + pad.before[i] for a, i in zip(own[:half], spatial, strict=True)]
    after = [a + pad.after[i] for a, i in zip(own[half:], spatial, strict=True)]
    return before, after
