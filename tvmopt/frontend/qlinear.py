"""Spell ONNX Runtime's quantized operators (domain com.microsoft) in ONNX's own.

Before::

    c = com.microsoft.QLinearAdd(A, a_scale, a_zero, B, b_scale, b_zero, c_scale, c_zero)

After::

    a = DequantizeLinear(A, a_scale, a_zero);  b = DequantizeLinear(B, b_scale, b_zero)
    c = QuantizeLinear(Add(a, b), c_scale, c_zero)

What runs on the integers is lowering's business. It is done before folding, because ONNX infers no
shapes across operators of another domain.

Source: ONNX Runtime, "Contrib operators" (docs/ContribOperators.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir

from tvmopt.errors import UnsupportedError

_DOMAIN = "com.microsoft"
Value = onnx_ir.Value | None
Attributes = Mapping[str, onnx_ir.Attr]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Site:
    """One node, and those that are to stand in its place.

    Attributes:
        node: The node.
        opset: Version of the default operator set.
        made: The new nodes so far, in order.
    """

    node: onnx_ir.Node
    opset: int
    made: list[onnx_ir.Node] = field(default_factory=list)

    def input(self, index: int) -> Value:
        """Return an input; None where an optional one is left out."""
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    def emit(
        self, op: str, inputs: Sequence[Value], what: str = "", attributes: Attributes | None = None
    ) -> onnx_ir.Value:
        """Append a node; the one that computes has the name of the old one."""
        name = f"{self.node.name}_{what}" if what else self.node.name
        node = onnx_ir.Node("", op, inputs, list((attributes or {}).values()), name=name)
        node.outputs[0].name = f"{self.node.outputs[0].name}_{what or 'real'}"
        self.made.append(node)
        return node.outputs[0]

    def real(self, first: int, axis: int | None = None) -> onnx_ir.Value:
        """Return the integers at ``first`` as floats by the two inputs that follow."""
        inputs = [self.input(first + i) for i in range(3)]
        attributes = {} if axis is None else {"axis": onnx_ir.AttrInt64("axis", axis)}
        return self.emit("DequantizeLinear", inputs, f"in{first}", attributes)

    def quantized(self, y: onnx_ir.Value, first: int) -> onnx_ir.Value:
        """Return floats as integers by the scale at ``first`` and the zero point behind it."""
        return self.emit("QuantizeLinear", [y, self.input(first), self.input(first + 1)], "out")

    def attribute(self, name: str, default: int) -> int:
        """Return an integer attribute."""
        attr = self.node.attributes.get(name)
        return default if attr is None else attr.as_int()


def spell_out(model: onnx_ir.Model, label: str) -> None:
    """Replace every such operator by ONNX's own, in place.

    Args:
        model: Its functions are inlined.
        label: The model file, for messages.

    Raises:
        UnsupportedError: One has a form that is not compiled.
    """
    opset = model.opset_imports.get("", 0)
    for node in list(model.graph):
        write = _WRITERS.get(node.op_type) if node.domain == _DOMAIN else None
        if write is None:
            continue
        site = _Site(node=node, opset=opset)
        if site.attribute("channels_last", 0):
            raise UnsupportedError(
                f"{label}: node {node.name!r} ({node.op_type}): channels_last must be 0"
            )
        try:
            result = write(site)
        except UnsupportedError as err:
            where = f"{label}: node {node.name!r} ({node.op_type})"
            raise UnsupportedError(f"{where}: {err}") from err
        _replace(model.graph, node, site.made, result)


def _replace(
    graph: onnx_ir.Graph, node: onnx_ir.Node, made: list[onnx_ir.Node], result: onnx_ir.Value
) -> None:
    old = node.outputs[0]
    graph.insert_before(node, made)
    result.name, result.type, result.shape = old.name, old.type, old.shape
    old.name = f"{old.name}_before"
    old.replace_all_uses_with(result, replace_graph_outputs=True)
    graph.remove(node, safe=True)


Writer = Callable[[_Site], onnx_ir.Value]


def _unary(op: str, *kept: str) -> Writer:
    """Return the writer of X and Y, each with a scale and a zero point, and some attributes."""

    def write(site: _Site) -> onnx_ir.Value:
        attributes = {n: a for n, a in site.node.attributes.items() if n in kept}
        return site.quantized(site.emit(op, [site.real(0)], attributes=attributes), 3)

    return write


def _binary(op: str) -> Writer:
    """Return the writer of A, B and C, each with a scale and a zero point."""
    return lambda site: site.quantized(site.emit(op, [site.real(0), site.real(3)]), 6)


def _softmax(site: _Site) -> onnx_ir.Value:
    meant = site.attribute("opset", 13)
    # Before version 13 all axes from the given one on were one.
    if (meant < 13) != (site.opset < 13):
        raise UnsupportedError(f"opset must be that of the model, {site.opset}, got {meant}")
    return _unary("Softmax", "axis")(site)


def _reduce_mean(site: _Site) -> onnx_ir.Value:
    if site.opset < 18 or "axes" not in site.node.attributes:
        return _unary("ReduceMean", "axes", "keepdims")(site)
    axes = onnx_ir.tensor(list(site.node.attributes["axes"].as_ints()), onnx_ir.DataType.INT64)
    given = site.emit("Constant", [], "axes", {"value": onnx_ir.AttrTensor("value", axes)})
    keep = {n: a for n, a in site.node.attributes.items() if n == "keepdims"}
    return site.quantized(site.emit("ReduceMean", [site.real(0), given], attributes=keep), 3)


def _concat(site: _Site) -> onnx_ir.Value:
    """Write Y's scale and zero point, and then X, its scale and zero point for each part."""
    parts = [site.real(first) for first in range(2, len(site.node.inputs), 3)]
    axis = {"axis": site.node.attributes["axis"]}
    return site.quantized(site.emit("Concat", parts, attributes=axis), 0)


def _where(site: _Site) -> onnx_ir.Value:
    """Write the condition, X, Y, each with a scale and a zero point, and those of Z."""
    return site.quantized(site.emit("Where", [site.input(0), site.real(1), site.real(4)]), 7)


def _gemm(site: _Site) -> onnx_ir.Value:
    """Write A and B with their scales and zero points, C in int32, and Y's, if there are.

    C counts in units of the product of the scales.
    """
    alpha = site.node.attributes.get("alpha")
    if alpha is not None and alpha.as_float() != 1.0:
        raise UnsupportedError(f"alpha must be 1, got {alpha.as_float()!r}")
    by_rows = site.attribute("transB", 0)
    operands = [site.real(0), site.real(3, 0 if by_rows else 1)]
    if site.input(6) is not None:
        unit = site.emit("Mul", [site.input(1), site.input(4)], "unit")
        axis = {"axis": onnx_ir.AttrInt64("axis", -1)}
        operands.append(site.emit("DequantizeLinear", [site.input(6), unit], "bias", axis))
    kept = {n: a for n, a in site.node.attributes.items() if n in ("transA", "transB")}
    y = site.emit("Gemm", operands, attributes=kept)
    return y if site.input(7) is None else site.quantized(y, 7)


_WRITERS: Mapping[str, Writer] = {
    "QGemm": _gemm,
    "QLinearAdd": _binary("Add"),
    "QLinearAveragePool": _unary(
        "AveragePool",
        "auto_pad",
        "ceil_mode",
        "count_include_pad",
        "kernel_shape",
        "pads",
        "strides",
    ),
    "QLinearConcat": _concat,
    "QLinearGlobalAveragePool": _unary("GlobalAveragePool"),
    "QLinearLeakyRelu": _unary("LeakyRelu", "alpha"),
    "QLinearMul": _binary("Mul"),
    "QLinearReduceMean": _reduce_mean,
    "QLinearSigmoid": _unary("Sigmoid"),
    "QLinearSoftmax": _softmax,
    "QLinearWhere": _where,
}
OPERATORS = frozenset((_DOMAIN, name) for name in _WRITERS)
