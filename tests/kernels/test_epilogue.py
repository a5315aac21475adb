"""Mirror of tvmopt/kernels/epilogue.py."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from tvmopt.kernels.epilogue import OPS, STORE, Epilogue, Operand, Requantize, Step

CHANNEL, TENSOR = Operand.CHANNEL, Operand.TENSOR
ROWS, LANES = 5, 8

# Operators of one value, of two, and those that want their argument above 0: x * x + 0.5.
UNARY = ["erf", "tanh", "sigmoid", "gelu", "gelu_tanh", "exp"]
BINARY = ["add", "sub", "mul", "max", "min"]
POSITIVE = ["log", "sqrt"]
SQUARE = (Step("mul", (0, 0)), Step("add", (1, 0.5)))


def check(kit: SimpleNamespace, epilogue: Epilogue, lanes: int = LANES) -> None:
    rng = np.random.default_rng(3)
    x = (2 * rng.standard_normal((ROWS, lanes))).astype(np.float32)
    extra = kit.operands(epilogue, x.shape, rng)
    exact = kit.after(epilogue, kit.Bounded(x.astype(np.float64), 0.0), extra)
    exact.check(kit.apply(epilogue, x, extra, lanes))


def test_every_operation_has_a_test() -> None:
    assert set(OPS) == {*UNARY, *BINARY, *POSITIVE, "div", "scale"}


@pytest.mark.parametrize("op", UNARY)
def test_functions_of_one_value(kit: SimpleNamespace, op: str) -> None:
    check(kit, Epilogue((), (Step(op, (0,)),)))


@pytest.mark.parametrize("op", POSITIVE)
def test_functions_of_a_positive_value(kit: SimpleNamespace, op: str) -> None:
    check(kit, Epilogue((), (*SQUARE, Step(op, (2,)))))


@pytest.mark.parametrize("op", BINARY)
@pytest.mark.parametrize("kind", [CHANNEL, TENSOR])
def test_functions_of_two_values(kit: SimpleNamespace, op: str, kind: Operand) -> None:
    check(kit, Epilogue((kind,), (Step(op, (0, 1)),)))
    check(kit, Epilogue((kind,), (Step(op, (1, 0)),)))


def test_division_both_ways(kit: SimpleNamespace) -> None:
    check(kit, Epilogue((), (*SQUARE, Step("div", (0, 2)), Step("div", (1.0, 2)))))


def test_operands_come_in_order_and_values_may_be_read_twice(kit: SimpleNamespace) -> None:
    # (x + bias) * sigmoid(x + bias) + residual, min with a constant: every kind of argument.
    steps = (
        Step("add", (0, 1)),
        Step("sigmoid", (3,)),
        Step("mul", (3, 4)),
        Step("add", (5, 2)),
        Step("min", (6, 1.25)),
    )
    check(kit, Epilogue((CHANNEL, TENSOR), steps))


@pytest.mark.parametrize("lanes", [1, 3, 16])
def test_any_number_of_lanes(kit: SimpleNamespace, lanes: int) -> None:
    check(kit, Epilogue((CHANNEL,), (Step("add", (0, 1)), Step("tanh", (2,)))), lanes)


def test_an_empty_program_stores_the_accumulator(kit: SimpleNamespace) -> None:
    x = np.arange(ROWS * LANES, dtype=np.float32).reshape(ROWS, LANES)
    np.testing.assert_array_equal(kit.apply(STORE, x, [], LANES), x)


def test_the_name_lists_the_steps() -> None:
    assert not STORE.name
    assert Epilogue((CHANNEL,), (Step("add", (0, 1)), Step("max", (2, 0.0)))).name == "_add_max"


def test_parameters_follow_the_output() -> None:
    epilogue = Epilogue((CHANNEL, TENSOR))
    assert epilogue.parameters((2, 3, 4)) == [
        ("e0", (4,), "float32", None),
        ("e1", (2, 3, 4), "float32", None),
        ("y", (2, 3, 4), "float32", None),
    ]
    plane = Epilogue((CHANNEL, TENSOR, Operand.PLANE), dtypes=("float32", "uint8", "float32"))
    # Where the output is flat, the extents of its two innermost axes tell the others apart.
    assert plane.operand_parameters((24,), (3, 4)) == [
        ("e0", (4,), "float32", None),
        ("e1", (24,), "uint8", None),
        ("e2", (12,), "float32", None),
    ]


@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize("lanes", [3, 8, 16])
def test_integers_are_rounded_half_to_even_and_clipped(
    kit: SimpleNamespace, *, bounded: bool, lanes: int
) -> None:
    rng = np.random.default_rng(5)
    x = (rng.integers(-600, 600, (ROWS, lanes)) / 2).astype(np.float32)  # every other one a half
    output = Requantize(dtype="uint8", zero_point=7, low=7, high=200, bounded=bounded)
    expected = np.clip(np.rint(x) + 7, 7, 200).astype(np.uint8)
    assert np.array_equal(kit.apply(Epilogue(output=output), x, [], lanes), expected)


def test_values_beyond_every_integer_are_clipped(kit: SimpleNamespace) -> None:
    x = np.tile(
        np.array([[1e30, -1e30, np.inf, -np.inf, 3e9, -3e9, 2.5, -2.5]], np.float32), (5, 1)
    )
    output = Requantize(dtype="int8", zero_point=-3, low=-128, high=127)
    expected = np.tile(np.array([[127, -128, 127, -128, 127, -128, -1, -5]], np.int8), (5, 1))
    assert np.array_equal(kit.apply(Epilogue(output=output), x, [], LANES), expected)


def test_a_scaled_sum_of_integers_is_rounded_after_each_operation(kit: SimpleNamespace) -> None:
    # acc * m + (r - 128) * s: fused, many of these would round otherwise.
    rng = np.random.default_rng(6)
    x = rng.integers(-(2**24), 2**24, (ROWS, LANES)).astype(np.int32)
    r = rng.integers(0, 256, (ROWS, LANES)).astype(np.uint8)
    m, s = np.float32(0.0123456), np.float32(0.7654321)
    steps = (
        Step("scale", (0, float(m))),
        Step("sub", (1, 128.0)),
        Step("scale", (3, float(s))),
        Step("add", (2, 4)),
    )
    got = kit.apply(Epilogue((TENSOR,), steps, ("uint8",)), x, [r], LANES)
    expected = x.astype(np.float32) * m + (r.astype(np.float32) - np.float32(128)) * s
    assert expected.dtype == np.float32
    assert np.array_equal(got, expected)


@pytest.mark.parametrize(
    ("step", "error"),
    [(Step("cosh", (0,)), KeyError), (Step("add", (0, 1)), IndexError)],
    ids=["no such operation", "no such value"],
)
def test_a_program_that_makes_no_sense_is_refused(
    kit: SimpleNamespace, step: Step, error: type[Exception]
) -> None:
    x = np.zeros((ROWS, LANES), np.float32)
    with pytest.raises(error):
        kit.apply(Epilogue((), (step,)), x, [], LANES)
