"""Mirror of converters/integers.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from tvmopt import forms, ir
from tvmopt.frontend.onnx import ImportedModel

RNG = np.random.default_rng(29)
Save = Callable[..., Path]
Agrees = Callable[..., ImportedModel]


def weight(*shape: int) -> np.ndarray:
    # |w| <= 31: ONNX Runtime's u8 x s8 kernel saturates pairs of products on some machines.
    return RNG.integers(-31, 32, shape).astype(np.int8)


def product(model: ImportedModel) -> forms.IntegerProduct | None:
    values = dict(ir.bindings(model.mod["main"]))
    names = ("relax.matmul", "relax.nn.conv2d")
    (call,) = (c for c in ir.calls(model.mod) if ir.is_call_to(c, *names))
    return forms.match_integer_product(call, lambda e: values.get(e, e))


@pytest.mark.parametrize("zeros", ["none", "one", "columns", "rows"])
def test_integer_products_are_exact(save: Save, agrees: Agrees, zeros: str) -> None:
    inputs = {"none": [], "one": ["az", "bz"]}.get(zeros, ["az", "bz"])
    nodes = [helper.make_node("MatMulInteger", ["a", "b", *inputs], ["y"])]
    parameters = {"b": weight(6, 4), "az": np.array(100, np.uint8), "bz": np.array(3, np.int8)}
    if zeros == "columns":
        parameters["bz"] = RNG.integers(-5, 5, 4).astype(np.int8)
    if zeros == "rows":
        parameters["b"] = weight(2, 6, 4)
        parameters["bz"] = np.array(0, np.int8)
    shape = [2, 3, 6] if zeros == "rows" else [3, 6]
    path = save(nodes, [("a", "uint8", shape)], ["y"], parameters)
    model = agrees(path, {"a": RNG.integers(0, 256, shape).astype(np.uint8)})
    assert product(model) is not None


def test_integer_convolutions_pad_with_the_zero_point(save: Save, agrees: Agrees) -> None:
    nodes = [helper.make_node("ConvInteger", ["x", "w", "xz"], ["y"], pads=[1, 1, 1, 1])]
    parameters = {"w": weight(4, 3, 3, 3), "xz": np.array(100, np.uint8)}
    path = save(nodes, [("x", "uint8", [1, 3, 5, 5])], ["y"], parameters)
    model = agrees(path, {"x": RNG.integers(0, 256, (1, 3, 5, 5)).astype(np.uint8)})
    assert product(model) is not None


def test_dynamic_quantization_as_onnx_runtime_writes_it(save: Save, agrees: Agrees) -> None:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "b", "z", "bz"], ["acc"]),
        helper.make_node("Cast", ["acc"], ["f"], to=1),
        helper.make_node("Mul", ["s", "bs"], ["both"]),
        helper.make_node("Mul", ["f", "both"], ["y"]),
    ]
    parameters = {"b": weight(6, 4), "bs": np.float32(0.02), "bz": np.array(0, np.int8)}
    path = save(nodes, [("x", "float32", [3, 6])], ["y", "q", "s", "z"], parameters)
    model = agrees(path, {"x": RNG.standard_normal((3, 6)).astype(np.float32)})
    found = product(model)
    assert found is not None
    assert found.data.zero is not None


@pytest.mark.parametrize("op", ["DynamicQuantizeMatMul", "MatMulIntegerToFloat"])
@pytest.mark.parametrize("columns", [False, True])
def test_products_with_floats_around(save: Save, agrees: Agrees, op: str, columns: bool) -> None:
    dims = (4,) if columns else ()
    parameters = {
        "b": weight(6, 4),
        "bs": RNG.uniform(0.01, 0.02, dims).astype(np.float32),
        "bz": RNG.integers(-5, 5, dims).astype(np.int8),
        "bias": RNG.standard_normal(4).astype(np.float32),
        "as": np.float32(0.03),
        "az": np.array(120, np.uint8),
    }
    dynamic = op == "DynamicQuantizeMatMul"
    inputs = ["b", "bs", "bz", "bias"] if dynamic else ["b", "as", "bs", "az", "bz", "bias"]
    node = helper.make_node(op, ["a", *inputs], ["y"], domain="com.microsoft")
    a = RNG.integers(0, 256, (3, 6)).astype(np.float32 if dynamic else np.uint8)
    path = save([node], [("a", str(a.dtype), [3, 6])], ["y"], parameters, domains=["com.microsoft"])
    assert product(agrees(path, {"a": a})) is not None


@pytest.mark.parametrize("dims", [[], [1]])
def test_zero_points_may_be_inputs(save: Save, agrees: Agrees, dims: list[int]) -> None:
    nodes = [helper.make_node("ConvInteger", ["x", "w", "xz"], ["y"], pads=[1, 1, 1, 1])]
    inputs = [("x", "uint8", [1, 3, 5, 5]), ("xz", "uint8", dims)]
    path = save(nodes, inputs, ["y"], {"w": weight(4, 3, 3, 3)})
    x = RNG.integers(0, 256, (1, 3, 5, 5)).astype(np.uint8)
    model = agrees(path, {"x": x, "xz": np.full(dims, 100, np.uint8)})
    assert product(model) is not None
