"""Run short parts of a net in NumPy rather than compile them.

Passes that go through a net layer by layer run each part on some hundred samples and never again:
to compile one takes seconds, its products take less.

Source: none; derived here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import numpy as np
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.calibration import Feed, Tap
from tvmopt.passes.canonicalize.rebuild import variables
from tvmopt.passes.prune.block_net import BlockNet
from tvmopt.passes.prune.derivatives import forward_of
from tvmopt.passes.prune.net_blocks import NetBlock, Step

_MOST = 20 * 10**9  # multiply-adds in all batches: about what a compile takes
_DEPTHWISE = 8  # times slower, a multiply-add: no product of matrices


def plain_tap(tap: Tap, batches: int) -> Tap:
    """Return a tap that compiles only what is long, or not known in NumPy.

    Args:
        tap: Compiles the others.
        batches: How many will be run, at least 1.
    """

    def make(mod: tvm.IRModule, names: Sequence[str]) -> Callable[[Feed], dict[str, np.ndarray]]:
        block = _block(mod, names)
        if block is None or batches * sum(_work(step.call) for step in block.steps) > _MOST:
            return tap(mod, names)
        net = BlockNet(block, ())
        wanted = {step.var.name: step.var for step in block.steps}

        def run(feed: Feed) -> dict[str, np.ndarray]:
            # Parameters go by their places: a model's own names need not be those of its graph.
            ports = zip(block.inputs, feed.values(), strict=True)
            made, _ = net.run({var.name: value for var, value in ports}, ())
            return {name: made[wanted[name]] for name in names}

        return run

    return make


def _block(mod: tvm.IRModule, names: Sequence[str]) -> NetBlock | None:
    """Return what computes bindings of "main"; None where NumPy does not know it."""
    func = mod["main"]
    steps: list[Step] = []
    made = set(func.params)
    for var, value in ir.bindings(func):
        if not isinstance(value, relax.Call):
            continue  # the outputs; what reads another name of a tensor is not known
        known = made.issuperset(variables(value)) and all(map(_is_float, (var, *value.args)))
        forward = forward_of(value) if known else None
        if forward is None:
            return None
        steps.append(Step(var=var, call=value, forward=forward))
        made.add(var)
    if not {step.var.name for step in steps} >= set(names):
        return None
    return NetBlock(steps=tuple(steps), layers=(), inputs=tuple(func.params), output=steps[-1].var)


def _is_float(arg: relax.Expr) -> bool:
    """Say whether an operand is no tensor, or one of float32."""
    return not isinstance(arg.ty, relax.TensorType) or ir.dtype(arg) == "float32"


def _work(call: relax.Call) -> int:
    """Return about how many multiply-adds an operator takes."""
    made = prod(ir.static_shape(call))
    if ir.is_call_to(call, "relax.matmul"):
        return made * ir.static_shape(call.args[0])[-1]
    if ir.is_call_to(call, "relax.nn.conv2d"):
        taps = prod(ir.static_shape(call.args[1])[1:])
        return made * taps * (1 if int(call.attrs.groups) == 1 else _DEPTHWISE)
    return made
