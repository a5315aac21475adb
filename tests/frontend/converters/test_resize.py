"""Resize in each of its modes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from onnx import NodeProto, helper

from tvmopt import ir
from tvmopt.errors import UnsupportedError
from tvmopt.frontend.onnx import ImportedModel, load

X = np.random.default_rng(17).standard_normal((1, 2, 5, 6), dtype=np.float32)
COORDINATES = ["half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"]
ROUNDINGS = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]


def operators(model: ImportedModel) -> list[str]:
    return [call.op.name.removeprefix("relax.") for call in ir.calls(model.mod)]


def node(
    output: str, factor: str, value: Sequence[float], **attributes: object
) -> tuple[NodeProto, dict[str, np.ndarray]]:
    """Return a Resize by "scales" or "sizes", and the constant that says so."""
    constant = f"{factor}_{output}"
    inputs = ["x", "", constant] if factor == "scales" else ["x", "", "", constant]
    dtype = np.float32 if factor == "scales" else np.int64
    made = helper.make_node("Resize", inputs, [output], output, **attributes)
    return made, {constant: np.array(value, dtype)}


def resize(
    save: Callable[..., Path], factor: str, value: Sequence[float], **attributes: object
) -> Path:
    made, constants = node("y", factor, value, **attributes)
    return save([made], [("x", "float32", X.shape)], ["y"], constants, opset=19)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_interpolation_agrees_in_every_coordinate_mode(
    save: Callable[..., Path], agrees: Callable[..., ImportedModel], mode: str
) -> None:
    nodes, constants = [], {}
    for coordinates, scale in itertools.product(COORDINATES, [2.0, 0.5, 1.3]):
        made, constant = node(
            f"{coordinates}_{int(10 * scale)}",
            "scales",
            [1, 1, scale, scale],
            mode=mode,
            coordinate_transformation_mode=coordinates,
        )
        nodes.append(made)
        constants |= constant
    outputs = [made.output[0] for made in nodes]
    path = save(nodes, [("x", "float32", X.shape)], outputs, constants, opset=19)
    # ONNX Runtime computes positions in float32: up to 6 * 2**-23 pixels off, and a cubic's
    # slope between neighbours is below 4 times their distance.
    agrees(path, {"x": X}, bound=4 * 2 * 6 * 2**-23 + 1.2e-5)


def test_nearest_neighbour_agrees_in_every_mode(
    save: Callable[..., Path], agrees: Callable[..., ImportedModel]
) -> None:
    nodes, constants = [], {}
    for coordinates, rounding in itertools.product(COORDINATES, ROUNDINGS):
        made, constant = node(
            f"{coordinates}_{rounding}",
            "sizes",
            [1, 2, 8, 4],
            coordinate_transformation_mode=coordinates,
            nearest_mode=rounding,
        )
        nodes.append(made)
        constants |= constant
    outputs = [made.output[0] for made in nodes]
    path = save(nodes, [("x", "float32", X.shape)], outputs, constants, opset=19)
    agrees(path, {"x": X}, bound=0.0)


def test_doubling_is_tvms_own_operator(
    save: Callable[..., Path], agrees: Callable[..., ImportedModel]
) -> None:
    for attributes in (
        {},
        {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    ):
        model = agrees(resize(save, "scales", [1, 1, 2, 2], **attributes), {"x": X}, bound=0.0)
        assert operators(model) == ["image.resize2d"]
    model = agrees(resize(save, "scales", [1, 1, 2, 3], mode="linear"), {"x": X})
    assert operators(model) == ["image.resize2d"]


def test_antialiased_shrinking_agrees(
    save: Callable[..., Path], agrees: Callable[..., ImportedModel]
) -> None:
    path = resize(save, "scales", [1, 1, 0.5, 0.6], mode="linear", antialias=1)
    agrees(path, {"x": X})


def test_upsample_of_old_models(
    save: Callable[..., Path], agrees: Callable[..., ImportedModel]
) -> None:
    nodes = [helper.make_node("Upsample", ["x", "scales"], ["y"], mode="nearest")]
    scales = {"scales": np.array([1, 1, 2, 2], np.float32)}
    path = save(nodes, [("x", "float32", X.shape)], ["y"], scales, opset=9)
    assert operators(agrees(path, {"x": X}, bound=0.0)) == ["image.resize2d"]


def test_unchanged_size_is_nothing(save: Callable[..., Path]) -> None:
    assert operators(load(resize(save, "sizes", X.shape))) == []


def test_unknown_mode_is_refused(save: Callable[..., Path]) -> None:
    path = resize(save, "scales", [1, 1, 1.5, 1.5], mode="lanczos")
    message = r"node 'y' \(Resize\): mode must be nearest, linear or cubic, got 'lanczos'"
    with pytest.raises(UnsupportedError, match=message):
        load(path)
