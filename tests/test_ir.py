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


def _twice(first: str, second: str, third: str) -> tvm.IRModule:
    x = _var(4)
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            a = builder.emit(relax.op.nn.relu(x), "a")
            b = builder.emit(relax.op.exp(a), "b")
            c = builder.emit_output(relax.op.add(a, b), "c")
        builder.emit_func_output(c)
    mod = builder.get()
    # The builder makes names differ; a parser, or a function put together by hand, need not.
    names = dict(zip("abc", (first, second, third), strict=True))
    env, renamed = {x: x}, []
    for binding in mod["main"].body.blocks[0].bindings:
        var = type(binding.var)(names[binding.var.name], binding.var.ty)
        call = binding.value
        value = relax.Call(call.op, [env[arg] for arg in call.args], call.attrs)
        env[binding.var] = var
        renamed.append(relax.VarBinding(var, value))
    body = relax.SeqExpr([relax.DataflowBlock(renamed)], renamed[-1].var)
    func = relax.Function([x], body, mod["main"].ret_ty, attrs=mod["main"].attrs)
    return relax.transform.Normalize()(tvm.IRModule({"main": func}))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("a", "a", "a"), ["a", "a_1", "a_2"]),
        (("x", "b", "b"), ["x_1", "b", "b_1"]),
        (("a", "a_1", "a"), ["a", "a_1", "a_2"]),
    ],
)
def test_names_are_made_to_differ(given: tuple[str, str, str], expected: list[str]) -> None:
    mod = _twice(*given)
    new = ir.unique_names(mod)
    assert [var.name for var, _ in ir.bindings(new["main"])] == expected
    tvm.ir.assert_structural_equal(new, mod, map_free_vars=True)
    assert ir.unique_names(new) is new
