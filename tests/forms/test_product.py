"""Mirror of tvmopt/forms/product.py."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt import forms
from tvmopt.forms import Affine, Define

RNG = np.random.default_rng(2)
DATA = Affine(scale=np.array(0.1, "f4"), zero_point=np.array(7, "i4"), dtype="uint8")
WEIGHT = Affine(
    scale=np.array([0.3, 0.7, 0.9], "f4"), zero_point=np.zeros(3, "i4"), dtype="int8", axis=1
)
CODES = RNG.integers(-63, 64, (4, 3), "int8")
BIAS = RNG.integers(-1000, 1000, 3, "int32")


def _matmul(emit: forms.Emit, x: relax.Var) -> relax.Expr:
    data = emit(forms.dequantize(x, DATA), "data")
    weight = forms.Dequantized(codes=CODES, how=WEIGHT).build(emit, "w")
    bias = emit(forms.dequantize(relax.const(BIAS), forms.bias_how(DATA, WEIGHT, 0)), "b")
    return relax.op.add(emit(relax.op.matmul(data, weight), "y"), bias)


def test_a_matmul_with_bias_is_matched(
    function: Callable[..., tvm.IRModule], define: Callable[[tvm.IRModule], Define]
) -> None:
    mod = function(_matmul, (2, 4), "uint8")
    look_up = define(mod)
    add = look_up(mod["main"].body.body)
    found = forms.match_product(look_up(add.args[0]), look_up)
    assert found is not None
    assert found.data.same_as(mod["main"].params[0])
    assert found.data_how.same(DATA)
    assert found.weight_how.same(WEIGHT)
    np.testing.assert_array_equal(found.codes, CODES)
    bias = forms.match_bias(add.args[1], look_up, found.data_how, found.weight_how)
    np.testing.assert_array_equal(bias, BIAS)


@pytest.mark.parametrize("change", ["unit", "dtype", "axis"])
def test_other_biases_cannot_be_added_to_accumulators(
    change: str, function: Callable[..., tvm.IRModule], define: Callable[[tvm.IRModule], Define]
) -> None:
    how = forms.bias_how(DATA, WEIGHT, 0)
    codes = BIAS
    if change == "unit":
        how = Affine(scale=how.scale * np.float32(1.001), zero_point=how.zero_point, dtype="int32")
    elif change == "dtype":
        codes = BIAS.astype(np.int8)
    else:
        codes = BIAS.reshape(3, 1)
    mod = function(lambda _emit, _x: forms.dequantize(relax.const(codes), how), ())
    assert forms.match_bias(mod["main"].body.body, define(mod), DATA, WEIGHT) is None


@pytest.mark.parametrize("layout", ["OHWI", "OIHW"])
def test_a_convolutions_scales_follow_its_outputs(
    layout: str, function: Callable[..., tvm.IRModule], define: Callable[[tvm.IRModule], Define]
) -> None:
    shape = (3, 2, 2, 4) if layout == "OHWI" else (3, 4, 2, 2)

    def body(emit: forms.Emit, x: relax.Var, axis: int = 0) -> relax.Expr:
        how = Affine(
            scale=WEIGHT.scale if axis == 0 else np.ones(shape[axis], "f4"),
            zero_point=np.zeros((), "i4"),
            dtype="int8",
            axis=axis,
        )
        weight = forms.Dequantized(codes=np.ones(shape, np.int8), how=how).build(emit, "w")
        data = emit(forms.dequantize(x, DATA), "data")
        return relax.op.nn.conv2d(data, weight, data_layout="NHWC", kernel_layout=layout)

    mod = function(body, (1, 5, 5, 4), "uint8")
    found = forms.match_product(define(mod)(mod["main"].body.body), define(mod))
    assert found is not None
    assert found.codes is not None
    assert found.codes.shape == shape
    by_inputs = function(lambda emit, x: body(emit, x, axis=1), (1, 5, 5, 4), "uint8")
    look_up = define(by_inputs)
    assert forms.match_product(look_up(by_inputs["main"].body.body), look_up) is None


def test_float_operands_are_no_product(
    function: Callable[..., tvm.IRModule], define: Callable[[tvm.IRModule], Define]
) -> None:
    mod = function(lambda _emit, x: relax.op.matmul(x, x), (4, 4))
    assert forms.match_product(define(mod)(mod["main"].body.body), define(mod)) is None
