"""Say which places along the axes of convolutions and matmuls are the same channel.

Source: none; the definitions of the operators. For the idea, see ``channel_labels``.
"""

from __future__ import annotations

from tvm import relax

from tvmopt import ir
from tvmopt.passes.canonicalize.linear_sites import linear_site
from tvmopt.passes.prune.channel_labelling import Labelling, Weight
from tvmopt.passes.prune.channel_labels import Axis


def linear(graph: Labelling, var: relax.Var, call: relax.Call) -> bool:
    """Label a convolution or a matmul by a constant matrix; False where it cannot."""
    data = graph.operand(call.args[0])
    site = linear_site(call, len(ir.shape(var)))
    if data is None or site is None or (site.transposed and site.groups > 1):
        return False
    labels, at = graph.labels, site.channel_axis
    weight = [labels.stay(size) for size in site.weight.shape]
    channels, outputs = data[at], site.weight.shape[site.output_axis]
    groups: Axis = ()
    if site.groups == 1:
        result, weight[site.input_axis] = labels.fresh(outputs), channels
    else:
        each = site.weight.shape[site.input_axis]
        cut = labels.regroup((channels,), (site.groups, each))
        if cut is None:
            return False
        groups = cut[0]
        result = (*groups, *labels.fresh(outputs // site.groups))
        weight[site.input_axis] = cut[1]
    weight[site.output_axis] = result
    graph.constants[var, 1] = tuple(weight)
    graph.weights[var] = Weight(
        output_axis=site.output_axis, input_axis=site.input_axis, groups=groups
    )
    other = data[:at] if site.is_matmul else tuple(map(labels.stay, ir.static_shape(var)[:at]))
    if not site.is_matmul:
        for axis in (*data[:at], *data[at + 1 :]):
            labels.fix(axis, f"{var.name} slides over it")
    behind = tuple(map(labels.stay, ir.static_shape(var)[at + 1 :]))
    graph.axes[var] = (*other, result, *behind)
    return True


def product(graph: Labelling, var: relax.Var, call: relax.Call) -> bool:
    """Label a matmul of two tensors; False where it cannot."""
    a, b = (graph.operand(arg) for arg in call.args)
    if not ir.is_call_to(call, "relax.matmul") or a is None or b is None:
        return False
    if min(len(a), len(b)) < 2 or not graph.labels.unify(a[-1], b[-2]):
        return False
    batch: list[Axis] = [()] * (max(len(a), len(b)) - 2)
    for axes in (a[:-2], b[:-2]):
        for at, axis in zip(range(len(batch) - len(axes), len(batch)), axes, strict=True):
            if axis and not batch[at]:
                batch[at] = axis
            elif axis and not graph.labels.unify(batch[at], axis):
                return False
    graph.contracted[var] = a[-1]
    graph.axes[var] = (*batch, a[-2], b[-1])
    return True
