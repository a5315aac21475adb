"""Reductions over any axes, in one graph a type: building each alone would take longer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from tvmopt.frontend.onnx import ImportedModel

REDUCTIONS = [
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
    "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare",
]  # fmt: skip
AXES = {"all": None, "last": [-1], "two": [0, 2]}


@pytest.mark.parametrize("keep", [0, 1])
def test_every_reduction_over_one_two_and_all_axes(
    save: Callable[..., Path], agrees: Callable[..., ImportedModel], keep: int
) -> None:
    nodes = [
        helper.make_node(
            op, ["x"] if axes is None else ["x", name], [f"{op}_{name}"], keepdims=keep
        )
        for op in REDUCTIONS
        for name, axes in AXES.items()
    ]
    outputs = [node.output[0] for node in nodes]
    constants = {name: np.array(axes, np.int64) for name, axes in AXES.items() if axes}
    x = np.random.default_rng(19).uniform(0.5, 1.5, (2, 3, 4)).astype(np.float32)
    agrees(save(nodes, [("x", "float32", x.shape)], outputs, constants, opset=18), {"x": x})


def test_axes_are_attributes_in_older_models(
    save: Callable[..., Path], agrees: Callable[..., ImportedModel]
) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[1]),
        helper.make_node("ReduceMax", ["x"], ["n"], axes=[-1, 0], keepdims=0),
    ]
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    agrees(save(nodes, [("x", "float32", x.shape)], ["m", "n"], opset=12), {"x": x})


def test_no_axes_may_mean_no_reduction(
    save: Callable[..., Path], agrees: Callable[..., ImportedModel]
) -> None:
    nodes = [helper.make_node("ReduceSum", ["x"], ["y"], noop_with_empty_axes=1)]
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    agrees(save(nodes, [("x", "float32", x.shape)], ["y"]), {"x": x})


def test_log_of_a_sum_of_exponentials_does_not_overflow(
    save: Callable[..., Path], agrees: Callable[..., ImportedModel]
) -> None:
    nodes = [helper.make_node("ReduceLogSumExp", ["x", "axes"], ["y"])]
    x = np.array([[200.0, 201.0], [-200.0, -300.0]], np.float32)
    path = save(nodes, [("x", "float32", [2, 2])], ["y"], {"axes": np.array([1])}, opset=18)
    agrees(path, {"x": x})


def test_maximum_of_booleans(
    save: Callable[..., Path], agrees: Callable[..., ImportedModel]
) -> None:
    nodes = [helper.make_node(op, ["x", "axes"], [op]) for op in ("ReduceMax", "ReduceMin")]
    x = np.array([[True, False], [True, True], [False, False]])
    outputs = ["ReduceMax", "ReduceMin"]
    path = save(nodes, [("x", "bool", [3, 2])], outputs, {"axes": np.array([1])}, opset=20)
    agrees(path, {"x": x})


def test_running_sums_in_both_directions(
    save: Callable[..., Path], agrees: Callable[..., ImportedModel]
) -> None:
    nodes = [
        helper.make_node("CumSum", ["x", "axis"], [f"y{i}"], exclusive=i // 2, reverse=i % 2)
        for i in range(4)
    ]
    outputs = [node.output[0] for node in nodes]
    axis = {"axis": np.array(1, np.int64)}
    x = np.arange(14, dtype=np.int64).reshape(2, 7) - 4
    agrees(save(nodes, [("x", "int64", x.shape)], outputs, axis), {"x": x})


def test_running_sum_of_one_element_is_it(
    save: Callable[..., Path], agrees: Callable[..., ImportedModel]
) -> None:
    nodes = [helper.make_node("CumSum", ["x", "axis"], ["y"])]
    path = save(nodes, [("x", "float32", [1, 3])], ["y"], {"axis": np.array([0], np.int64)})
    agrees(path, {"x": np.ones((1, 3), np.float32)}, bound=0.0)
