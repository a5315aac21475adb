"""Mirror of tvmopt/kernels/epilogue.py."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from tvmopt.kernels.epilogue import OPS, STORE, Epilogue, Operand, Step

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
    assert set(OPS) == {*UNARY, *BINARY, *POSITIVE, "div"}


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
    assert epilogue.parameters((2, 3, 4)) == [("e0", (4,)), ("e1", (2, 3, 4))]
    plane = Epilogue((CHANNEL, TENSOR, Operand.PLANE))
    # Where the output is flat, the extents of its two innermost axes tell the others apart.
    assert plane.parameters((24,), (3, 4)) == [("e0", (4,)), ("e1", (24,)), ("e2", (12,))]


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
