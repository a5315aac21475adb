"""Mirror of tvmopt/ir.py: the questions about shapes and attributes."""

from __future__ import annotations

import pytest
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.errors import ShapeError


def _var(*shape: int | tvm.tirx.Var) -> relax.Var:
    return relax.Var("x", relax.TensorType(shape, "float32"))


def test_a_static_shape_is_plain_integers() -> None:
    shape = ir.static_shape(_var(2, 3, 5))
    assert shape == (2, 3, 5)
    assert {type(extent) for extent in shape} == {int}
    assert ir.static_shape(_var()) == ()


def test_an_open_dimension_is_named() -> None:
    x = _var(tvm.tirx.Var("n", "int64"), 4)
    assert ir.shape(x) == ("n", 4)
    with pytest.raises(ShapeError, match=r"known at compile time, got \(n, 4\); give") as caught:
        ir.static_shape(x)
    assert "\n" not in str(caught.value)


def test_attributes_of_two_dimensions_are_pairs_and_sides() -> None:
    x, w = _var(1, 8, 8, 3), relax.Var("w", relax.TensorType((4, 3, 3, 3), "float32"))
    layouts = {"data_layout": "NHWC", "kernel_layout": "OHWI"}
    attrs = relax.op.nn.conv2d(x, w, strides=(2, 1), padding=(0, 1, 2, 3), **layouts).attrs
    assert (ir.pair(attrs.strides), ir.sides(attrs.padding)) == ((2, 1), (0, 1, 2, 3))
    with pytest.raises(ValueError, match="too many values"):
        ir.pair(attrs.padding)
