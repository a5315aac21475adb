"""Mirror of tvmopt/frontend/qlinear.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from tvmopt.errors import UnsupportedError
from tvmopt.frontend.onnx import load

RNG = np.random.default_rng(31)
Run = Callable[..., list[np.ndarray]]

A, B, Y = (0.02, 120), (0.03, 100), (0.0513, 128)
X = RNG.integers(0, 256, (1, 3, 4, 4)).astype(np.uint8)
Z = RNG.integers(0, 256, (1, 3, 4, 4)).astype(np.uint8)


def real(q: np.ndarray, how: tuple[float, int]) -> np.ndarray:
    return (q.astype(np.float64) - how[1]) * np.float64(np.float32(how[0]))


def integers(y: np.ndarray, how: tuple[float, int] = Y) -> np.ndarray:
    """Quantize exact values, none of which may be near enough to a half to round otherwise."""
    units = y / np.float64(np.float32(how[0]))
    assert np.abs(units % 1 - 0.5).min() > 1e-4, "take another seed"
    return np.clip(np.rint(units) + how[1], 0, 255).astype(np.uint8)


def average(x: np.ndarray) -> np.ndarray:
    return x.reshape(1, 3, 2, 2, 2, 2).mean((3, 5))


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x)
    return e / e.sum(-1, keepdims=True)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


SMALL = (1 / 256, 0)
UNARY: Mapping[str, tuple[Callable[[np.ndarray], np.ndarray], tuple[float, int], dict]] = {
    "QLinearSigmoid": (sigmoid, SMALL, {}),
    "QLinearLeakyRelu": (lambda x: np.where(x < 0, 0.1 * x, x), Y, {"alpha": 0.1}),
    "QLinearGlobalAveragePool": (lambda x: x.mean((2, 3), keepdims=True), Y, {}),
    "QLinearAveragePool": (average, Y, {"kernel_shape": [2, 2], "strides": [2, 2]}),
    "QLinearSoftmax": (softmax, SMALL, {"axis": -1, "opset": 13}),
    "QLinearReduceMean": (lambda x: x.mean((2, 3)), Y, {"axes": [2, 3], "keepdims": 0}),
}


def parameters(**pairs: tuple[float, int]) -> dict[str, np.ndarray]:
    return {
        f"{name}{kind}": np.array(value, dtype)
        for name, pair in pairs.items()
        for kind, value, dtype in (("s", pair[0], "float32"), ("z", pair[1], "uint8"))
    }


@pytest.mark.parametrize("op", UNARY)
def test_one_operand(save: Callable[..., Path], run: Run, op: str) -> None:
    compute, how, attributes = UNARY[op]
    node = helper.make_node(
        op, ["a", "as", "az", "ys", "yz"], ["y"], domain="com.microsoft", **attributes
    )
    constants = parameters(a=A, y=how)
    path = save([node], [("a", "uint8", X.shape)], ["y"], constants, domains=["com.microsoft"])
    (got,) = run(load(path), {"a": X})
    np.testing.assert_array_equal(got, integers(compute(real(X, A)), how))


@pytest.mark.parametrize("op", ["QLinearAdd", "QLinearMul"])
def test_two_operands(save: Callable[..., Path], run: Run, op: str) -> None:
    names = ["a", "as", "az", "b", "bs", "bz", "ys", "yz"]
    node = helper.make_node(op, names, ["y"], domain="com.microsoft")
    path = save(
        [node], [("a", "uint8", X.shape), ("b", "uint8", Z.shape)], ["y"],
        parameters(a=A, b=B, y=Y), domains=["com.microsoft"],
    )  # fmt: skip
    (got,) = run(load(path), {"a": X, "b": Z})
    a, b = real(X, A), real(Z, B)
    np.testing.assert_array_equal(got, integers(a + b if op == "QLinearAdd" else a * b))


def test_concat_and_where(save: Callable[..., Path], run: Run) -> None:
    how = (0.0313, 110)
    nodes = [
        helper.make_node(
            "QLinearConcat", ["ys", "yz", "a", "as", "az", "b", "bs", "bz"], ["y"],
            domain="com.microsoft", axis=1,
        ),
        helper.make_node(
            "QLinearWhere", ["c", "a", "as", "az", "b", "bs", "bz", "ys", "yz"], ["w"],
            domain="com.microsoft",
        ),
    ]  # fmt: skip
    inputs = [("c", "bool", X.shape), ("a", "uint8", X.shape), ("b", "uint8", Z.shape)]
    path = save(nodes, inputs, ["y", "w"], parameters(a=A, b=B, y=how), domains=["com.microsoft"])
    condition = RNG.random(X.shape) < 0.5
    got = run(load(path), {"c": condition, "a": X, "b": Z})
    a, b = real(X, A), real(Z, B)
    np.testing.assert_array_equal(got[0], integers(np.concatenate([a, b], 1), how))
    np.testing.assert_array_equal(got[1], integers(np.where(condition, a, b), how))


@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize("by_rows", [True, False])
def test_gemm(save: Callable[..., Path], run: Run, quantized: bool, by_rows: bool) -> None:
    b = RNG.integers(-128, 128, (6, 4)).astype(np.int8)
    scales = RNG.uniform(0.01, 0.02, 4).astype(np.float32)
    c = RNG.integers(-500, 500, 4).astype(np.int32)
    constants = parameters(a=A, y=Y) | {
        "b": b.T.copy() if by_rows else b,
        "bs": scales,
        "bz": np.zeros(4, np.int8),
        "c": c,
    }
    names = ["a", "as", "az", "b", "bs", "bz", "c", *(["ys", "yz"] if quantized else [])]
    node = helper.make_node(
        "QGemm", names, ["y"], domain="com.microsoft", transB=int(by_rows), alpha=1.0
    )
    path = save([node], [("a", "uint8", [3, 6])], ["y"], constants, domains=["com.microsoft"])
    a = RNG.integers(0, 256, (3, 6)).astype(np.uint8)
    (got,) = run(load(path), {"a": a})
    unit = np.float64(np.float32(A[0])) * scales
    exact = ((a.astype(int) - A[1]) @ b.astype(int) + c) * unit
    if quantized:
        np.testing.assert_array_equal(got, integers(exact))
    else:
        # Seven products and sums of float32, of the size of the largest.
        largest = 255 * 128 * 6 * unit.max()
        np.testing.assert_allclose(got, exact, rtol=0, atol=16 * 2**-24 * largest)


def test_shapes_are_known_across_them(save: Callable[..., Path], run: Run) -> None:
    names = ["a", "as", "az", "a", "as", "az", "ys", "yz"]
    nodes = [
        helper.make_node("QLinearAdd", names, ["sum"], domain="com.microsoft"),
        helper.make_node("Shape", ["sum"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["batch"], axis=0),
        helper.make_node("Concat", ["batch", "rest"], ["wanted"], axis=0),
        helper.make_node("Reshape", ["sum", "wanted"], ["y"]),
    ]
    constants = parameters(a=A, y=Y) | {"zero": np.array([0]), "rest": np.array([-1])}
    path = save(nodes, [("a", "uint8", X.shape)], ["y"], constants, domains=["com.microsoft"])
    (got,) = run(load(path), {"a": X})
    np.testing.assert_array_equal(got, integers(2 * real(X, A)).reshape(1, -1))


def test_softmax_of_another_version_is_refused(save: Callable[..., Path]) -> None:
    node = helper.make_node(
        "QLinearSoftmax", ["a", "as", "az", "ys", "yz"], ["y"], "soft",
        domain="com.microsoft", axis=1, opset=12,
    )  # fmt: skip
    path = save(
        [node], [("a", "uint8", X.shape)], ["y"], parameters(a=A, y=Y), domains=["com.microsoft"]
    )
    message = r"'soft' .*: opset must be that of the model, 17, got 12"
    with pytest.raises(UnsupportedError, match=message):
        load(path)


def test_channels_last_is_refused(save: Callable[..., Path]) -> None:
    node = helper.make_node(
        "QLinearGlobalAveragePool", ["a", "as", "az", "ys", "yz"], ["y"], "pool",
        domain="com.microsoft", channels_last=1,
    )  # fmt: skip
    path = save(
        [node], [("a", "uint8", X.shape)], ["y"], parameters(a=A, y=Y), domains=["com.microsoft"]
    )
    with pytest.raises(UnsupportedError, match=r"'pool' .*: channels_last must be 0"):
        load(path)
