"""Convolutions, transposed convolutions and pools over their attributes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from tvmopt import ir
from tvmopt.errors import UnsupportedError
from tvmopt.frontend.onnx import ImportedModel, load

RNG = np.random.default_rng(11)


def draw(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape, dtype=np.float32)


def operators(model: ImportedModel) -> list[str]:
    return [call.op.name.removeprefix("relax.nn.") for call in ir.calls(model.mod)]


@pytest.mark.parametrize(
    ("x", "w", "attributes"),
    [
        ((1, 3, 9, 8), (4, 3, 3, 3), {"pads": [1, 0, 2, 1], "strides": [2, 1]}),
        ((2, 4, 7, 7), (4, 1, 3, 3), {"group": 4, "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        ((1, 4, 8, 7), (6, 2, 2, 4), {"group": 2, "auto_pad": "SAME_LOWER"}),
        ((1, 2, 9, 9), (3, 2, 3, 3), {"dilations": [2, 3], "auto_pad": "VALID"}),
        ((1, 3, 11), (5, 3, 4), {"pads": [2, 1], "strides": [3]}),
        ((1, 2, 4, 5, 6), (3, 2, 2, 3, 1), {"pads": [0, 1, 0, 1, 1, 0]}),
    ],
)
def test_conv_with_bias_is_two_operators(
    save: Callable[..., Path],
    agrees: Callable[..., ImportedModel],
    x: tuple[int, ...],
    w: tuple[int, ...],
    attributes: dict[str, object],
) -> None:
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["y"], **attributes)]
    initializers = {"w": draw(*w), "b": draw(w[0])}
    path = save(nodes, [("x", "float32", x)], ["y"], initializers)
    model = agrees(path, {"x": draw(*x)})
    assert operators(model) == [f"conv{len(x) - 2}d", "relax.add"]


@pytest.mark.parametrize(
    ("x", "w", "attributes"),
    [
        ((1, 3, 5, 4), (3, 2, 3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ((1, 3, 5, 4), (3, 2, 2, 2), {"strides": [2, 2]}),
        ((1, 3, 4, 4), (3, 2, 3, 3), {"strides": [2, 3], "output_padding": [1, 2]}),
        ((1, 3, 3, 3), (3, 2, 3, 3), {"strides": [3, 2], "output_shape": [10, 8]}),
        ((1, 3, 3, 3), (3, 2, 3, 3), {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
        ((1, 4, 3, 3), (4, 2, 2, 2), {"group": 2, "dilations": [2, 2]}),
        ((1, 3, 6), (3, 2, 4), {"strides": [2], "pads": [1, 1]}),
        ((1, 2, 2, 3, 2), (2, 2, 2, 2, 3), {"strides": [1, 2, 2]}),
    ],
)
def test_transposed_conv_has_onnx_shapes_and_values(
    save: Callable[..., Path],
    agrees: Callable[..., ImportedModel],
    x: tuple[int, ...],
    w: tuple[int, ...],
    attributes: dict[str, object],
) -> None:
    nodes = [helper.make_node("ConvTranspose", ["x", "w", "b"], ["y"], **attributes)]
    outputs = w[1] * attributes.get("group", 1)
    path = save(nodes, [("x", "float32", x)], ["y"], {"w": draw(*w), "b": draw(outputs)})
    agrees(path, {"x": draw(*x)})


@pytest.mark.parametrize(
    ("op_type", "x", "attributes"),
    [
        ("MaxPool", (1, 3, 9, 8), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}),
        ("MaxPool", (1, 3, 9, 8), {"kernel_shape": [2, 3], "auto_pad": "SAME_LOWER"}),
        ("MaxPool", (1, 3, 9, 8), {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
        ("MaxPool", (1, 3, 9, 8), {"kernel_shape": [2, 2], "dilations": [2, 3]}),
        ("MaxPool", (2, 3, 10), {"kernel_shape": [3], "strides": [3]}),
        ("AveragePool", (1, 3, 9, 8), {"kernel_shape": [3, 3], "pads": [1] * 4}),
        (
            "AveragePool",
            (1, 3, 9, 8),
            {"kernel_shape": [3, 2], "pads": [1, 0, 1, 0], "count_include_pad": 1},
        ),
        ("AveragePool", (1, 3, 9, 8), {"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER"}),
        ("AveragePool", (1, 3, 9, 8), {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    ],
)
def test_pool_is_one_operator(
    save: Callable[..., Path],
    agrees: Callable[..., ImportedModel],
    op_type: str,
    x: tuple[int, ...],
    attributes: dict[str, object],
) -> None:
    nodes = [helper.make_node(op_type, ["x"], ["y"], **attributes)]
    path = save(nodes, [("x", "float32", x)], ["y"], opset=19)
    assert len(operators(agrees(path, {"x": draw(*x)}))) == 1


def test_indices_of_max_pool_are_refused(save: Callable[..., Path]) -> None:
    nodes = [helper.make_node("MaxPool", ["x"], ["y", "i"], "pool", kernel_shape=[2, 2])]
    path = save(nodes, [("x", "float32", [1, 1, 4, 4])], ["y", "i"])
    message = r"node 'pool' \(MaxPool\): the second output, Indices, must not be used"
    with pytest.raises(UnsupportedError, match=message):
        load(path)


@pytest.mark.parametrize("op_type", ["GlobalAveragePool", "GlobalMaxPool"])
def test_global_pool_keeps_the_dimensions(
    save: Callable[..., Path], agrees: Callable[..., ImportedModel], op_type: str
) -> None:
    nodes = [helper.make_node(op_type, ["x"], ["y"])]
    agrees(save(nodes, [("x", "float32", [2, 3, 5, 7])], ["y"]), {"x": draw(2, 3, 5, 7)})


def test_roi_align_by_maximum_is_refused_not_wrong(save: Callable[..., Path]) -> None:
    node = helper.make_node("RoiAlign", ["x", "rois", "batch"], ["y"], "roi", mode="max")
    inputs = [("x", "float32", [1, 1, 4, 4]), ("rois", "float32", [1, 4]), ("batch", "int64", [1])]
    message = r"node 'roi' \(RoiAlign\): mode must be 'avg', got 'max'"
    with pytest.raises(UnsupportedError, match=message):
        load(save([node], inputs, ["y"]))
