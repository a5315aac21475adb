"""Run several batches of a block as one, one behind the other along the first axis.

For small nets that is most of the time: a batch of one sample costs more calls than arithmetic.

Source: none; derived here.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
from tvm import relax

from tvmopt import ir
from tvmopt.passes.prune.kept_batches import Batch
from tvmopt.passes.prune.net_blocks import NetBlock

_BYTES = 4 << 20  # of what a block makes of some batches: about what stays in a cache
_EACH = ("relax.add", "relax.subtract", "relax.multiply", "relax.divide", "relax.maximum")
_APART = (
    *("relax.nn.conv2d", "relax.nn.relu", "relax.sigmoid", "relax.tanh", "relax.nn.gelu"),
    *("relax.clip", "relax.reshape", "relax.sqrt"),
)


def at_once(block: NetBlock) -> int:
    """Return how many batches of a block are run as one, at least 1; 1 where they would mix."""
    batch = ir.static_shape(block.output)[:1]
    read = all(ir.static_shape(var)[:1] == batch for var in block.inputs)
    if not batch or not read or not all(_apart(step.call, batch[0]) for step in block.steps):
        return 1
    numbers = sum(prod(ir.static_shape(step.call)) for step in block.steps)
    return max(1, _BYTES // (4 * numbers))


def stacked(batches: Sequence[Batch]) -> Batch:
    """Return some batches as one."""
    if len(batches) == 1:
        return batches[0]
    inputs = {name: np.concatenate([one[0][name] for one in batches]) for name in batches[0][0]}
    wanted = zip(*(one[1] for one in batches), strict=True)
    return inputs, tuple(np.concatenate(arrays) for arrays in wanted)


def _apart(call: relax.Call, batch: int) -> bool:
    """Say whether an operator keeps samples apart, which lie along the first axis of all it reads.

    Args:
        call: One whose derivative is known.
        batch: Samples of a batch.
    """
    shape, attrs = ir.static_shape(call), call.attrs
    if shape[:1] != (batch,):
        return False
    match str(call.op.name):
        case name if name in _APART:
            return True
        case name if name in _EACH:
            return all(_fits(arg, len(shape)) for arg in call.args)
        case "relax.matmul":
            by_matrix = len(shape) < 3 and not isinstance(call.args[1], relax.Var)
            stacks = len(shape) > 2 and _fits(call.args[1], len(shape))
            return _fits(call.args[0], len(shape)) and (by_matrix or stacks)
        case "relax.permute_dims":
            return attrs.axes is not None and int(attrs.axes[0]) == 0
        case "relax.mean" | "relax.sum":
            return attrs.axis is not None and all(int(a) % _rank(call) for a in attrs.axis)
        case "relax.nn.softmax":
            return int(attrs.axis) % len(shape) != 0
        case "relax.broadcast_to":
            return _rank(call) == len(shape)
        case "relax.nn.layer_norm":
            return len(shape) > 1
    return False


def _fits(arg: relax.Expr, rank: int) -> bool:
    """Say whether an operand has samples along the first of ``rank`` axes, or is for all alike."""
    shape = ir.static_shape(arg)
    if isinstance(arg, relax.Var):
        return len(shape) == rank
    return len(shape) < rank or shape[:1] == (1,)


def _rank(call: relax.Call) -> int:
    return len(ir.static_shape(call.args[0]))
