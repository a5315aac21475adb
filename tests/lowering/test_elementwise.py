"""Mirror of tvmopt/lowering/elementwise.py: what a kernel does to sums before it stores them."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
from tvm import relax

import tvmopt.runtime
from tvmopt import codegen
from tvmopt.lowering.elementwise import MAX_STEPS

op = relax.op
Check = Callable[..., list[str]]
Emit = Callable[..., relax.Var]


def scalar(value: float) -> relax.Constant:
    return relax.const(np.float32(value))


def hard_swish(emit: Emit, x: relax.Expr) -> relax.Expr:
    inner = emit(op.clip(emit(op.add(x, scalar(3.0))), 0, 6))
    return op.divide(emit(op.multiply(x, inner)), scalar(6.0))


SLOPES = relax.const(np.linspace(-0.5, 1.5, 8, dtype=np.float32))
TAILS: dict[str, tuple[Callable[[Emit, relax.Expr], relax.Expr], str]] = {
    "relu": (lambda _, x: op.nn.relu(x), "max"),
    "relu6": (lambda _, x: op.nn.relu6(x), "max_min"),
    "clip": (lambda _, x: op.clip(x, -0.25, 0.5), "max_min"),
    "sigmoid": (lambda _, x: op.sigmoid(x), "sigmoid"),
    "tanh": (lambda _, x: op.tanh(x), "tanh"),
    "silu": (lambda _, x: op.nn.silu(x), "sigmoid_mul"),
    "swish": (lambda emit, x: op.multiply(x, emit(op.sigmoid(x))), "sigmoid_mul"),
    "gelu": (lambda _, x: op.nn.gelu(x), "gelu"),
    "gelu by tanh": (lambda _, x: op.nn.gelu_tanh(x), "gelu_tanh"),
    "leaky relu": (lambda _, x: op.nn.leakyrelu(x, 0.1), "max_min_mul_add"),
    "prelu": (lambda _, x: op.nn.prelu(x, SLOPES, 3), "max_min_mul_add"),
    "hard swish": (hard_swish, "add_max_min_mul_div"),
    "negative": (lambda _, x: op.negative(x), "mul"),
    "constant first": (lambda _, x: op.subtract(scalar(1.0), x), "sub"),
}


@pytest.mark.parametrize("tail", TAILS)
def test_an_activation_belongs_to_the_kernel(kit: SimpleNamespace, check: Check, tail: str) -> None:
    def body(emit: Emit, x: relax.Var) -> relax.Expr:
        return TAILS[tail][0](emit, emit(op.add(kit.conv(x, 8, 1), kit.bias(8))))

    (kernel,) = check(kit.module(body, (1, 5, 3, 6)))
    assert kernel.startswith(f"f32_gemm_add_{TAILS[tail][1]}_")


def test_a_value_with_two_readers_is_stored(kit: SimpleNamespace, check: Check) -> None:
    # conv -> relu -> both the output and a mean: the mean cannot be part, so relu is the end.
    def body(emit: Emit, x: relax.Var) -> tuple[relax.Expr, relax.Expr]:
        y = emit(op.nn.relu(emit(kit.conv(x, 8, 1))))
        return y, emit(op.mean(y, [1, 2], keepdims=True))

    kernels = check(kit.module(body, (1, 4, 4, 6)))
    assert len(kernels) == 2
    assert kernels[0].startswith("f32_gemm_max_")


def test_a_value_that_is_returned_is_not_swallowed(kit: SimpleNamespace, check: Check) -> None:
    def body(emit: Emit, x: relax.Var) -> tuple[relax.Expr, relax.Expr]:
        y = emit(kit.conv(x, 8, 1))
        return y, emit(op.nn.relu(y))

    kernels = check(kit.module(body, (1, 4, 4, 6)))
    assert len(kernels) == 2
    assert kernels[0].startswith("f32_gemm_")
    assert "max" not in kernels[0]


def test_a_tail_is_cut_back_to_where_one_value_leaves(kit: SimpleNamespace, check: Check) -> None:
    # sigmoid(y) could be a step, but the mean of it is none and y is read again behind it.
    def body(emit: Emit, x: relax.Var) -> relax.Expr:
        y = emit(op.add(kit.conv(x, 8, 1), kit.bias(8)))
        gate = emit(op.sigmoid(y))
        scale = emit(op.mean(gate, [1, 2], keepdims=True))
        return op.multiply(y, scale)

    kernels = check(kit.module(body, (1, 4, 4, 6)))
    assert kernels[0].startswith("f32_gemm_add_")
    assert "sigmoid" not in kernels[0]
    assert len(kernels) >= 3


def test_a_diamond_that_closes_is_one_kernel(kit: SimpleNamespace, check: Check) -> None:
    def body(emit: Emit, x: relax.Var) -> relax.Expr:
        y = emit(kit.conv(x, 8, 1))
        left, right = emit(op.sigmoid(y)), emit(op.tanh(y))
        return op.multiply(emit(op.add(left, right)), y)

    (kernel,) = check(kit.module(body, (1, 4, 4, 6)))
    assert kernel.startswith("f32_gemm_sigmoid_tanh_add_mul_")


def test_channel_scales_that_are_computed_are_operands(kit: SimpleNamespace, check: Check) -> None:
    mod = kit.module(
        lambda emit, x, s: op.multiply(emit(kit.conv(x, 8, 1)), s), (1, 4, 4, 6), (1, 1, 1, 8)
    )
    (kernel,) = check(mod)
    assert kernel.startswith("f32_gemm_mul_")


def test_a_scale_of_every_image_is_no_channel_operand(kit: SimpleNamespace, check: Check) -> None:
    mod = kit.module(
        lambda emit, x, s: op.multiply(emit(kit.conv(x, 8, 1)), s), (2, 4, 4, 6), (2, 1, 1, 8)
    )
    assert len(check(mod)) == 2


def test_an_operand_that_makes_the_result_larger_ends_the_tail(
    kit: SimpleNamespace, check: Check
) -> None:
    mod = kit.module(
        lambda emit, x, y: op.add(emit(kit.conv(x, 8, 1)), y), (1, 4, 4, 6), (3, 4, 4, 8)
    )
    assert len(check(mod)) == 2


def test_a_constant_of_the_output_s_shape_is_an_operand(kit: SimpleNamespace, check: Check) -> None:
    mod = kit.module(
        lambda emit, x: op.add(kit.const(1, 4, 4, 8), emit(kit.conv(x, 8, 1))), (1, 4, 4, 6)
    )
    (kernel,) = check(mod)
    assert kernel.startswith("f32_gemm_add_")


def test_a_long_chain_is_split(kit: SimpleNamespace, check: Check) -> None:
    def body(emit: Emit, x: relax.Var) -> relax.Expr:
        y = emit(kit.conv(x, 8, 1))
        for i in range(MAX_STEPS + 3):
            y = emit(op.add(y, scalar(0.1 * i + 0.1)))
        return y

    kernels = check(kit.module(body, (1, 4, 4, 6)))
    assert len(kernels) == 2
    assert kernels[0].count("_add") == MAX_STEPS


def test_a_slope_along_another_axis_is_left_to_the_rest(kit: SimpleNamespace) -> None:
    slopes = kit.const(4)
    mod = kit.module(lambda emit, x: op.nn.prelu(emit(kit.conv(x, 8, 1)), slopes, 1), (1, 4, 4, 6))
    _, kernels = kit.lowered(mod)
    assert len(kernels) == 2
    assert "mul" not in kernels[0]


@pytest.mark.parametrize("name", ["relu", "relu6", "clip"])
def test_not_a_number_stays_so(kit: SimpleNamespace, tmp_path: object, name: str) -> None:
    # A model that has gone wrong must not look healthy: NumPy and ONNX Runtime pass NaN on too.
    mod = kit.module(lambda emit, x: TAILS[name][0](emit, emit(kit.conv(x, 8, 1))), (1, 2, 2, 3))
    result, _ = kit.lowered(mod, target=kit.HERE)
    x = np.ones((1, 2, 2, 3), np.float32)
    x[0, 1, 1, 0] = np.nan
    path = codegen.build(result, kit.HERE, codegen.BuildMeta()).save(tmp_path / "model.so")
    with tvmopt.runtime.open(path) as net:
        got = net(x)
    assert np.isnan(got[0, 1, 1]).all()
    assert not np.isnan(got[0, 0]).any()
