"""Compute what an ONNX graph computes from constants alone: shape arithmetic, constant ``If``s.

Before::

    s = Shape(x: (1, 3, 240, 240));  p = Concat(Slice(s), ...);  y = Pad(x, p)

After::

    y = Pad(x, [0, 0, 0, 0, 0, 0, 1, 1])

Source: onnxscript's optimizer, whose folding pass (on ONNX's reference evaluator) does the work;
what is chosen here is which nodes it may fold. ``QuantizeLinear`` and ``DequantizeLinear`` never
are: folding ``DequantizeLinear`` of an int8 weight would turn it into floats four times the size
and hide the quantization from every later pass. For the same reason a ``Cast`` of 8 or 16 bits to
more stays where it makes a matrix wider.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir
from onnx_ir.passes import common
from onnxscript import optimizer

from tvmopt.errors import ModelError
from tvmopt.frontend.messages import first_line, quietly

# A fold may not make more elements than its constants had, or than this: 64 Ki elements are
# position tables and masks; what is larger (ConstantOfShape, Expand, Tile) is cheaper to compute.
MOST_NEW_ELEMENTS = 1 << 16
# Rounds of folding: each constant If that is inlined can make the next one's condition constant.
MOST_ROUNDS = 16

_KEPT = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
# Work in proportion to their elements, so constants of any size are folded. A reference
# convolution or matrix product of two large constants would take minutes instead.
_CHEAP = frozenset({
    "Add", "Cast", "Concat", "ConstantOfShape", "Div", "Equal", "Expand", "Flatten", "Gather",
    "Identity", "Mul", "Neg", "Range", "Reciprocal", "Reshape", "Slice", "Sqrt", "Squeeze", "Sub",
    "Tile", "Transpose", "Unsqueeze", "Where",
})  # fmt: skip


def inline(model: onnx_ir.Model, label: str) -> None:
    """Replace calls of the model's own functions by their bodies, in place.

    Raises:
        ModelError: The functions call each other in a circle, or a call does not fit.
    """
    with quietly():
        common.RemoveInitializersFromInputsPass()(model)
        if not model.functions:
            return
        try:
            common.InlinePass()(model)
        except Exception as err:
            raise ModelError(
                f"{label}: its functions cannot be inlined: {first_line(err)}"
            ) from err


def fold(model: onnx_ir.Model, label: str) -> None:
    """Fold constants and drop dead nodes, in place; every input has a static shape.

    Raises:
        ModelError: A node's constants or shapes contradict each other.
    """
    _forget_shapes(model)
    try:
        with quietly(), np.errstate(all="ignore"):
            for _ in range(MOST_ROUNDS):
                folded = optimizer.fold_constants(
                    model,
                    onnx_shape_inference=True,
                    input_size_limit=MOST_NEW_ELEMENTS,
                    output_size_limit=MOST_NEW_ELEMENTS,
                    should_fold=_may_fold,
                )
                common.RemoveUnusedNodesPass()(model)
                if not folded:
                    break
    except Exception as err:
        raise ModelError(f"{label}: constants cannot be folded: {first_line(err)}") from err
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)


def _forget_shapes(model: onnx_ir.Model) -> None:
    """Drop recorded shapes of intermediate values: they may be those of another input shape."""
    for graph in model.graphs():
        for node in graph:
            for value in node.outputs:
                value.shape = None


def _may_fold(node: onnx_ir.Node) -> bool | None:
    """Say whether to fold a node of constants; None leaves it to onnxscript's size limits."""
    if node.op_type in _KEPT or node.domain not in {"", "ai.onnx"}:
        return False
    if node.op_type == "Cast" and _widens_matrix(node):
        return False
    held = sum(v.const_value.size for v in node.inputs if v is not None and v.const_value)
    made = 0
    for value in node.outputs:
        if value.shape is None or not value.shape.is_static():
            return None if held <= MOST_NEW_ELEMENTS and node.op_type in _CHEAP else False
        made += math.prod(value.shape.numpy())
    if made > max(held, MOST_NEW_ELEMENTS):
        return False
    return True if node.op_type in _CHEAP else None


def _widens_matrix(node: onnx_ir.Node) -> bool:
    """Say whether a Cast makes a constant matrix, or more, of 16 bits or fewer wider."""
    value, to = node.inputs[0], node.attributes.get("to")
    stored = None if value is None else value.const_value
    if stored is None or to is None or stored.dtype == onnx_ir.DataType.BOOL:
        return False
    result = onnx_ir.DataType(to.as_int())
    is_matrix = sum(size != 1 for size in stored.shape.numpy()) > 1
    return is_matrix and stored.dtype.bitwidth <= 16 < result.bitwidth
