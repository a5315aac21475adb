"""Say, operator by operator, which places along the axes of its tensors are the same channel.

What no rule knows keeps every place of its operands and of its result where it is. Constants get
their labels from what they meet: a bias is labelled as the sum, the inputs of a weight as the data,
and only the outputs of a weight are labelled anew. Inputs and outputs of the net stay as they are.

Source: none; the definitions of the operators. For the idea, see ``channel_labels``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.passes.prune.channel_labelling import Labelling, Place
from tvmopt.passes.prune.channel_labels import Axes, Axis, Labels
from tvmopt.passes.prune.channel_linear import linear, product

_BY_ELEMENT = frozenset(
    f"relax.{name}"
    for name in (
        *("add", "subtract", "multiply", "divide", "maximum", "minimum", "power", "where", "clip"),
        *("floor_divide", "mod", "equal", "not_equal", "greater", "greater_equal", "less"),
        *("less_equal", "logical_and", "logical_or", "logical_not", "astype", "abs", "ceil", "exp"),
        *("erf", "floor", "log", "negative", "round", "rsqrt", "sigmoid", "sign", "sqrt", "square"),
        *("tanh", "sin", "cos", "isnan", "isinf", "nn.relu", "nn.gelu", "nn.gelu_tanh", "nn.silu"),
        *("nn.leakyrelu", "nn.softplus", "nn.relu6", "broadcast_to"),
    )
)
_POOLS = ("relax.nn.max_pool2d", "relax.nn.avg_pool2d")
_IMAGES = (*_POOLS, "relax.nn.adaptive_avg_pool2d", "relax.image.resize2d")
_REDUCTIONS = ("relax.mean", "relax.sum", "relax.max", "relax.min", "relax.prod", "relax.variance")
_ALONG = ("relax.nn.softmax", "relax.nn.log_softmax")


Rule = Callable[[Labelling, relax.Var, relax.Call], bool]
"""Labels the result of a call and its constants; False where it cannot, and all of it stays."""


def label_channels(mod: tvm.IRModule) -> Labelling:
    """Return the labels of "main", a straight line of bindings with static shapes."""
    func = mod["main"]
    graph = Labelling(func)
    for var, value in ir.bindings(func):
        _bind(graph, var, value)
    results = func.body.body
    for result in results.fields if isinstance(results, relax.Tuple) else [results]:
        graph.fix(result, "it is an output of the net")
    graph.labels.settle()
    return graph


def _bind(graph: Labelling, var: relax.Var, value: relax.Expr) -> None:
    if isinstance(value, relax.Var) and value in graph.axes:
        graph.axes[var] = graph.axes[value]
    elif isinstance(value, relax.TupleGetItem) and value.tuple_value in graph.fields:
        graph.axes[var] = graph.fields[value.tuple_value][value.index]
    elif isinstance(value, relax.Tuple) and all(field in graph.axes for field in value.fields):
        graph.fields[var] = [graph.axes[field] for field in value.fields]
    else:
        rule = _rule(value)
        if rule is None or not rule(graph, var, value):
            graph.unknown(var, value)


def _rule(call: relax.Expr) -> Rule | None:
    if not isinstance(call, relax.Call) or not isinstance(call.op, tvm.ir.Op):
        return None
    name = call.op.name
    if name in _BY_ELEMENT:
        return _by_element
    if name in _IMAGES:
        return _image
    if name in _REDUCTIONS:
        return _reduction
    if name in _ALONG:
        return _along
    if "conv" in name or name == "relax.matmul":
        return linear if ir.is_constant(call.args[1]) else product
    return _RULES.get(name)


def _by_element(graph: Labelling, var: relax.Var, call: relax.Call) -> bool:
    shape = ir.static_shape(var)
    result: list[Axis | None] = [None] * len(shape)
    tensors = [arg for arg in call.args if isinstance(arg.ty, relax.TensorType)]
    for axes in filter(None, map(graph.operand, tensors)):
        for at, axis in zip(range(len(shape) - len(axes), len(shape)), axes, strict=True):
            if axis and result[at] is None:
                result[at] = axis
            elif axis and not graph.labels.unify(result[at] or (), axis):
                return False
    whole = tuple(
        graph.labels.fresh(size) if axis is None else axis
        for axis, size in zip(result, shape, strict=True)
    )
    graph.axes[var] = whole
    for place, arg in enumerate(call.args):
        if ir.is_constant(arg):
            _match(graph, (var, place), arg, whole)
    return True


def _match(graph: Labelling, place: Place, constant: relax.Expr, whole: Axes) -> None:
    """Label a constant that is broadcast against axes."""
    shape = ir.static_shape(constant)
    last = whole[len(whole) - len(shape) :]
    graph.constants[place] = tuple(
        () if size == 1 else axis for size, axis in zip(shape, last, strict=True)
    )


def _image(graph: Labelling, var: relax.Var, call: relax.Call) -> bool:
    data = graph.operand(call.args[0])
    if data is None or call.attrs.layout != "NHWC":
        return False
    for axis in data[1:3]:
        graph.labels.fix(axis, f"{var.name} slides over it")
    shape = ir.static_shape(var)
    graph.axes[var] = (data[0], *map(graph.labels.stay, shape[1:3]), data[3])
    return True


def _reduction(graph: Labelling, var: relax.Var, call: relax.Call) -> bool:
    data = graph.operand(call.args[0])
    if data is None:
        return False
    axes = call.attrs.axis
    over = range(len(data)) if axes is None else [int(axis) % len(data) for axis in axes]
    for at in over:
        graph.labels.keep(data[at], f"{var.name} is taken over it")
    held = [() if at in over else axis for at, axis in enumerate(data)]
    kept = [axis for at, axis in enumerate(held) if call.attrs.keepdims or at not in over]
    graph.axes[var] = tuple(kept)
    return True


def _along(graph: Labelling, var: relax.Var, call: relax.Call) -> bool:
    data = graph.operand(call.args[0])
    if data is None:
        return False
    graph.labels.keep(data[int(call.attrs.axis) % len(data)], f"{var.name} is taken over it")
    graph.axes[var] = data
    return True


def _norm(graph: Labelling, var: relax.Var, call: relax.Call) -> bool:
    data = graph.operand(call.args[0])
    if data is None:
        return False
    over = [data[int(axis) % len(data)] for axis in call.attrs.axes]
    for place, arg in enumerate(call.args[1:], 1):
        if not ir.is_constant(arg) or len(ir.shape(arg)) != len(over):
            return False
        graph.constants[var, place] = tuple(over)
    for axis in over:
        graph.labels.keep(axis, f"{var.name} normalizes over it")
    graph.axes[var] = data
    return True


def _reshape(graph: Labelling, var: relax.Var, call: relax.Call) -> bool:
    data = graph.operand(call.args[0])
    axes = None if data is None else graph.labels.regroup(data, ir.static_shape(var))
    if axes is None:
        return False
    graph.axes[var] = axes
    return True


def _permute(graph: Labelling, var: relax.Var, call: relax.Call) -> bool:
    data = graph.operand(call.args[0])
    if data is None:
        return False
    graph.axes[var] = tuple(data[axis] for axis in ir.permutation(call))
    return True


def _concat(graph: Labelling, var: relax.Var, call: relax.Call) -> bool:
    fields = _fields(graph, call.args[0])
    if fields is None:
        return False
    at = int(call.attrs.axis) % len(fields[0])
    for axes in fields[1:]:
        for place, (one, other) in enumerate(zip(fields[0], axes, strict=True)):
            if place != at and not graph.labels.unify(one, other):
                return False
    sizes = [ir.static_shape(field)[at] for field in _tensors(call.args[0])]
    joined = _chain(graph.labels, [axes[at] for axes in fields], sizes)
    if joined is None:
        return False
    graph.axes[var] = (*fields[0][:at], joined, *fields[0][at + 1 :])
    return True


def _tensors(whole: relax.Expr) -> Sequence[relax.Expr]:
    return whole.fields if isinstance(whole, relax.Tuple) else []


def _fields(graph: Labelling, whole: relax.Expr) -> list[Axes] | None:
    axes = [graph.operand(field) for field in _tensors(whole)]
    known = [one for one in axes if one is not None]
    return known if known and len(known) == len(axes) else None


def _chain(labels: Labels, axes: Sequence[Axis], sizes: Sequence[int]) -> Axis | None:
    """Return the axis of places one behind the other; None where one is a product."""
    places: list[int] = []
    for axis, size in zip(axes, sizes, strict=True):
        if len(axis) > 1:
            return None
        places += axis[0].tolist() if axis else [0] * size
    return (labels.register(np.array(places, np.int64)),)


def _slices(graph: Labelling, var: relax.Var, call: relax.Call) -> bool:
    """Label ``relax.split``."""
    data = graph.operand(call.args[0])
    if data is None or not isinstance(var.ty, relax.TupleType):
        return False
    at, start = int(call.attrs.axis) % len(data), 0
    if len(data[at]) != 1:
        return False
    graph.fields[var] = []
    for field in var.ty.fields:
        size = int(field.shape[at])
        part = graph.labels.register(data[at][0][start : start + size])
        axis = (part,) if size > 1 else ()
        if size == 1:
            graph.labels.fix((part,), f"{var.name} cuts a single channel")
        graph.fields[var].append((*data[:at], axis, *data[at + 1 :]))
        start += size
    return True


def _take(graph: Labelling, var: relax.Var, call: relax.Call) -> bool:
    """Label rows that are looked up in a constant table."""
    table, places = call.args
    data = graph.operand(places)
    if not ir.is_constant(table) or data is None or call.attrs.axis is None:
        return False
    shape, at = ir.static_shape(table), int(call.attrs.axis) % len(ir.shape(table))
    axes = [
        graph.labels.stay(size) if axis == at else graph.labels.fresh(size)
        for axis, size in enumerate(shape)
    ]
    graph.constants[var, 0] = tuple(axes)
    graph.axes[var] = (*axes[:at], *data, *axes[at + 1 :])
    return True


_RULES: dict[str, Rule] = {
    "relax.take": _take,
    "relax.nn.layer_norm": _norm,
    "relax.nn.rms_norm": _norm,
    "relax.reshape": _reshape,
    "relax.permute_dims": _permute,
    "relax.concat": _concat,
    "relax.split": _slices,
}
