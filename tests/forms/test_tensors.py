"""Mirror of tvmopt/forms/tensors.py."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt import forms, ir
from tvmopt.forms import Define


def _run(mod: tvm.IRModule, x: np.ndarray) -> list[np.ndarray]:
    machine = relax.VirtualMachine(tvm.compile(mod, target="llvm"), tvm.cpu())
    return [t.numpy() for t in machine["main"](tvm.runtime.tensor(x))]


@pytest.mark.parametrize("kind", ["both signs", "positive", "negative", "zero"])
def test_quantize_tensor_is_onnx_dynamic_quantize_linear(
    kind: str, function: Callable[..., tvm.IRModule]
) -> None:
    x = np.random.default_rng(8).standard_normal((5, 7), dtype=np.float32)
    x = {"positive": np.abs(x), "negative": -np.abs(x), "zero": 0 * x}.get(kind, x)
    mod = function(lambda emit, x: relax.Tuple(list(forms.quantize_tensor(x, emit, "q"))), x.shape)
    codes, scale, zero = _run(mod, x)

    # The formulas of the operator's specification, each step rounded to float32.
    low, high = min(x.min(), np.float32(0)), max(x.max(), np.float32(0))
    expected = (high - low if high != low else np.float32(1)) / np.float32(255)
    point = np.rint(np.clip(np.float32(0) - low / expected, 0, 255))
    np.testing.assert_array_equal(scale, expected)
    np.testing.assert_array_equal(zero, point.astype(np.uint8))
    np.testing.assert_array_equal(codes, np.clip(np.rint(x / expected) + point, 0, 255))


def test_a_product_of_integers_is_matched(
    function: Callable[..., tvm.IRModule], define: Callable[[tvm.IRModule], Define]
) -> None:
    weight = np.arange(-12, 12, dtype=np.int8).reshape(8, 3)
    point = np.array([1, 2, 3], np.int8)

    def body(emit: forms.Emit, x: relax.Var) -> relax.Expr:
        codes, _, zero = forms.quantize_tensor(x, emit, "q")
        data = forms.center(codes, zero, emit, "data")
        return relax.op.matmul(
            data, forms.center(relax.const(weight), relax.const(point), emit, "w")
        )

    mod = function(body, (4, 8))
    look_up = define(mod)
    found = forms.match_integer_product(look_up(mod["main"].body.body), look_up)
    assert found is not None
    assert ir.is_call_to(look_up(found.data.codes), "relax.quantize")
    assert found.data.zero is not None
    assert ir.dtype(found.data.zero) == "uint8"
    np.testing.assert_array_equal(ir.constant(found.weight.codes), weight)
    assert found.weight.zero is not None
    np.testing.assert_array_equal(ir.constant(found.weight.zero), point)


def test_wide_operands_are_no_product_of_bytes(
    function: Callable[..., tvm.IRModule], define: Callable[[tvm.IRModule], Define]
) -> None:
    mod = function(lambda _emit, x: relax.op.matmul(x, x), (4, 4), "int32")
    assert forms.match_integer_product(define(mod)(mod["main"].body.body), define(mod)) is None
