"""Operators on single elements, where TVM's own converter is opaque, slow or wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from tvmopt import ir
from tvmopt.frontend.onnx import ImportedModel, load

X = np.linspace(-8, 8, 2 * 3 * 5, dtype=np.float32).reshape(2, 3, 5)
F32 = np.float32


def operators(model: ImportedModel) -> list[str]:
    return [call.op.name.removeprefix("relax.") for call in ir.calls(model.mod)]


def one(
    save: Callable[..., Path],
    op_type: str,
    x: np.ndarray,
    constants: dict[str, np.ndarray] | None = None,
    opset: int = 17,
    **attributes: object,
) -> Path:
    nodes = [helper.make_node(op_type, ["x", *(constants or {})], ["y"], **attributes)]
    return save(nodes, [("x", str(x.dtype), x.shape)], ["y"], constants, opset=opset)


ACTIVATIONS = [
    ("HardSigmoid", {}),
    ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
    ("HardSwish", {}),
    ("LeakyRelu", {"alpha": 0.3}),
    ("Elu", {"alpha": 1.5}),
    ("Celu", {"alpha": 2.0}),
    ("Selu", {}),
    ("ThresholdedRelu", {"alpha": 2.0}),
    ("Mish", {}),
    ("Softplus", {}),
    ("Softsign", {}),
    ("Erf", {}),
    ("Round", {}),
    ("Sign", {}),
    ("Reciprocal", {}),
]


def test_activations_agree(save: Callable[..., Path], agrees: Callable[..., ImportedModel]) -> None:
    nodes = [
        helper.make_node(op_type, ["x"], [f"{op_type}_{i}"], **attributes)
        for i, (op_type, attributes) in enumerate(ACTIVATIONS)
    ]
    outputs = [node.output[0] for node in nodes]
    agrees(save(nodes, [("x", "float32", X.shape)], outputs, opset=18), {"x": X})


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ({"low": 0.0, "high": 6.0}, ["clip"]),
        ({"low": 0.0}, ["nn.relu"]),
        ({"low": -1.5}, ["maximum"]),
        ({"low": 3.0, "high": -3.0}, ["clip"]),
    ],
)
def test_clip_by_constants_is_one_operator(
    save: Callable[..., Path],
    agrees: Callable[..., ImportedModel],
    bounds: dict[str, float],
    expected: list[str],
) -> None:
    constants = {name: np.array(value, F32) for name, value in bounds.items()}
    assert operators(agrees(one(save, "Clip", X, constants), {"x": X})) == expected


def test_clip_by_attributes_and_by_data(
    save: Callable[..., Path], agrees: Callable[..., ImportedModel]
) -> None:
    model = agrees(one(save, "Clip", X, opset=10, min=-2.0, max=3.0), {"x": X})
    assert operators(model) == ["clip"]
    nodes = [helper.make_node("Clip", ["x", "", "high"], ["y"])]
    path = save(nodes, [("x", "float32", X.shape), ("high", "float32", [])], ["y"])
    assert operators(agrees(path, {"x": X, "high": np.array(1, F32)})) == ["minimum"]


def test_clip_of_integers(save: Callable[..., Path], agrees: Callable[..., ImportedModel]) -> None:
    x = np.array([-5, 0, 7, 120], np.int8)
    constants = {"low": np.array(-2, np.int8), "high": np.array(100, np.int8)}
    agrees(one(save, "Clip", x, constants), {"x": x})


@pytest.mark.parametrize("shape", [(3, 1), (1,), (5,), (3, 5), (1, 3, 1)])
def test_prelu_with_any_slope(
    save: Callable[..., Path], agrees: Callable[..., ImportedModel], shape: tuple[int, ...]
) -> None:
    slope = {"slope": np.linspace(0.1, 0.9, int(np.prod(shape)), dtype=F32).reshape(shape)}
    agrees(one(save, "PRelu", X, slope), {"x": X})


@pytest.mark.parametrize("attributes", [{}, {"detect_negative": 0}, {"detect_positive": 0}])
def test_is_inf_by_sign(
    save: Callable[..., Path], agrees: Callable[..., ImportedModel], attributes: dict[str, int]
) -> None:
    x = np.array([np.inf, -np.inf, np.nan, 0.0, 3e38], F32)
    agrees(one(save, "IsInf", x, **attributes), {"x": x})


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "uint64"])
def test_bit_shift_below_the_width_agrees(
    save: Callable[..., Path], agrees: Callable[..., ImportedModel], dtype: str
) -> None:
    bits = np.iinfo(dtype).bits
    nodes = [
        helper.make_node("BitShift", ["x", "by"], [direction], direction=direction)
        for direction in ("LEFT", "RIGHT")
    ]
    by = {"by": np.array([0, 1, bits - 1, 3], dtype)}
    path = save(nodes, [("x", dtype, [4])], ["LEFT", "RIGHT"], by)
    agrees(path, {"x": np.array([1, 255, 129, 3], dtype)})


def test_bit_shift_by_the_width_leaves_nothing(
    save: Callable[..., Path], run: Callable[..., list[np.ndarray]]
) -> None:
    # ONNX Runtime leaves this to the machine; NumPy, ONNX's reference, gives 0.
    nodes = [
        helper.make_node("BitShift", ["x", "by"], [direction], direction=direction)
        for direction in ("LEFT", "RIGHT")
    ]
    x = np.array([1, 255], np.uint8)
    path = save(nodes, [("x", "uint8", [2])], ["LEFT", "RIGHT"], {"by": np.array([8, 9], "u1")})
    for shifted in run(load(path), {"x": x}):
        np.testing.assert_array_equal(shifted, [0, 0])


@pytest.mark.parametrize(
    ("exponent", "expected"),
    [
        (1.0, []),
        (2.0, ["multiply"]),
        (3.0, ["multiply", "multiply"]),
        (0.5, ["sqrt"]),
        (2.5, ["power"]),
        (-1.0, ["power"]),
    ],
)
def test_powers_that_are_products_become_products(
    save: Callable[..., Path],
    agrees: Callable[..., ImportedModel],
    exponent: float,
    expected: list[str],
) -> None:
    x = np.abs(X) + F32(0.5)
    path = one(save, "Pow", x, {"e": np.array(exponent, F32)})
    assert operators(agrees(path, {"x": x})) == expected


def test_power_by_an_integer_tensor(
    save: Callable[..., Path], agrees: Callable[..., ImportedModel]
) -> None:
    x = np.array([-2.0, 3.0, 0.5], F32)
    agrees(one(save, "Pow", x, {"e": np.array([3, 2, 1], np.int64)}), {"x": x})


def test_operators_of_many_inputs(
    save: Callable[..., Path], agrees: Callable[..., ImportedModel]
) -> None:
    inputs = [("a", "float32", [2, 3]), ("b", "float32", [3]), ("c", "float32", [2, 1])]
    nodes = [
        helper.make_node(op_type, list("abc")[:count], [f"{op_type}{count}"])
        for op_type in ("Min", "Max", "Sum", "Mean")
        for count in (1, 2, 3)
    ]
    rng = np.random.default_rng(5)
    feeds = {name: rng.standard_normal(shape).astype(F32) for name, _, shape in inputs}
    agrees(save(nodes, inputs, [node.output[0] for node in nodes]), feeds)


@pytest.mark.parametrize("to", ["FLOAT16", "DOUBLE", "INT8", "INT32", "INT64", "UINT8", "BOOL"])
def test_cast_truncates_towards_zero(
    save: Callable[..., Path], agrees: Callable[..., ImportedModel], to: str
) -> None:
    x = np.array([0.0, 0.4, 1.9, 100.5, 3.0], F32)
    path = one(save, "Cast", x, to=getattr(TensorProto, to))
    # float16 keeps 11 bits of the value; the others are exact here.
    assert operators(agrees(path, {"x": x}, bound=2**-11)) == ["astype"]


def test_half_precision_constants_are_half_precision(
    save: Callable[..., Path], agrees: Callable[..., ImportedModel]
) -> None:
    x = X.astype(np.float16)
    for op_type in ("HardSigmoid", "Elu", "LeakyRelu"):
        # Both round each of at most five operations to 11 bits.
        agrees(one(save, op_type, x), {"x": x}, bound=5 * 2**-11)


def test_power_of_integers_is_exact(
    save: Callable[..., Path], agrees: Callable[..., ImportedModel]
) -> None:
    x = np.array([-7, 2, 11, 0], np.int32)
    agrees(one(save, "Pow", x, {"e": np.array([5, 20, 7, 0], np.int64)}), {"x": x})


def test_mish_keeps_the_digits_of_small_results(
    save: Callable[..., Path], run: Callable[..., list[np.ndarray]]
) -> None:
    x = np.array([-20.0, -10.0, -1.0, 0.0, 1.0, 30.0, 1e4], F32)
    wide = x.astype(np.float64)
    expected = wide * np.tanh(np.log1p(np.exp(np.minimum(wide, 700))))
    (got,) = run(load(one(save, "Mish", x, opset=18)), {"x": x})
    # Seven roundings of 2**-24 each, and exp's own error of a few more.
    np.testing.assert_allclose(got, expected, rtol=20 * 2**-24)
