"""Fold an explicit pad into the padding of the convolution or pooling that reads it.

Before::

    p: (n, c, h + t + b, w + l + r) = pad(x: (n, c, h, w), constant 0)
    y = conv2d(p, W, padding=(a, b, c, d))

After::

    y = conv2d(x, W, padding=(a + t, b + l, c + b, d + r))

The same for average pools that count what is padded, and for max pools if the pad is no larger than
anything in the data: minus infinity, or zero behind a relu. Cost: one pass over the tensor less.

Source: none; derived here from the definitions of the operators.
"""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax

from tvmopt import ir
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


class _Folder:
    def __init__(self, graph: Rebuild, report: Report) -> None:
        self.graph = graph
        self.report = report

    def __call__(self, var: relax.Var, value: relax.Expr) -> relax.Expr:
        if not ir.is_call_to(value, *_CONVOLUTIONS, *_AVERAGE, *_MAX):
            return value
        pad = self.graph.definition(value.args[0])
        if not ir.is_call_to(pad, "relax.nn.pad"):
            return value
        reason = self._obstacle(value, pad)
        self.report.add(
            "FoldPadding", var.name, applied=reason is None, reason=reason or "the pad is constant"
        )
        return value if reason is not None else _folded(value, pad)

    def _obstacle(self, call: relax.Call, pad: relax.Call) -> str | None:
        """Return why the pad must stay, or None if it need not."""
        if pad.attrs.pad_mode != "constant":
            return f"the pad is of mode {pad.attrs.pad_mode}"
        width, layout = _width(pad), _layout(call)
        if any(w for axis, pair in zip(layout, width, strict=True) for w in pair if axis in "NC"):
            return "the pad widens the batch or the channels"
        if any(w < 0 for pair in width for w in pair):
            return "the pad crops"
        if ir.is_call_to(call, *_CONVOLUTIONS):
            return None if pad.attrs.pad_value == 0 else "a convolution pads with zeros"
        if call.attrs.ceil_mode:
            return "the pooling rounds its size up"
        if ir.is_call_to(call, *_AVERAGE):
            if pad.attrs.pad_value != 0:
                return "an average pooling pads with zeros"
            counted = call.attrs.count_include_pad or not any(int(p) for p in call.attrs.padding)
            return None if counted else "the pooling counts this pad but not its own"
        return self._obstacle_to_max(call, pad)

    def _obstacle_to_max(self, call: relax.Call, pad: relax.Call) -> str | None:
        lowest = float(np.finfo(ir.dtype(pad.args[0])).min)
        if not (pad.attrs.pad_value <= lowest or self._is_at_least(pad, pad.attrs.pad_value)):
            return "something in the data may be smaller than the pad"
        padded = _padding(call, pad)
        reach = [
            (int(k) - 1) * int(d) + 1
            for k, d in zip(call.attrs.pool_size, call.attrs.dilation, strict=True)
        ]
        if max(int(d) for d in call.attrs.dilation) > 1 or any(
            max(before, after) >= r for before, after, r in zip(*padded, reach, strict=True)
        ):
            return "a window may lie in the pad alone"
        return None

    def _is_at_least(self, pad: relax.Call, bound: float) -> bool:
        """Say whether no element of the padded data is smaller than ``bound``."""
        made = self.graph.definition(pad.args[0])
        if ir.is_call_to(made, "relax.clip"):
            return ir.scalar(made.args[1]) >= bound
        return bound <= 0 and ir.is_call_to(made, *_NOT_NEGATIVE)


def _layout(call: relax.Call) -> str:
    return call.attrs.data_layout if ir.is_call_to(call, *_CONVOLUTIONS) else call.attrs.layout


def _width(pad: relax.Call) -> list[tuple[int, int]]:
    flat = [int(w) for w in pad.attrs.pad_width]
    return list(zip(flat[::2], flat[1::2], strict=True))


def _padding(call: relax.Call, pad: relax.Call) -> tuple[list[int], list[int]]:
    """Return the padding before and after each spatial axis that does the work of both."""
    own = [int(p) for p in call.attrs.padding]
    half = len(own) // 2
    extra = [p for axis, p in zip(_layout(call), _width(pad), strict=True) if axis not in "NC"]
    before = [a + b for a, (b, _) in zip(own[:half], extra, strict=True)]
    after = [a + b for a, (_, b) in zip(own[half:], extra, strict=True)]
    return before, after


def _folded(call: relax.Call, pad: relax.Call) -> relax.Call:
    before, after = _padding(call, pad)
    changes: dict[str, object] = {"padding": [*before, *after]}
    if ir.is_call_to(call, *_AVERAGE):
        changes["count_include_pad"] = True
    return ir.with_changes(call, [pad.args[0], *call.args[1:]], **changes)
