"""Open dimensions, and shapes given for them."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from tvmopt.errors import ShapeError
from tvmopt.frontend.onnx import load

RELU = [helper.make_node("Relu", ["x"], ["y"])]
IMAGE = [("x", "float32", ["N", 3, "H", "W"])]
TOKENS = [("ids", "float32", ["batch", "seq"]), ("mask", "float32", ["batch", "seq"])]
ADD = [helper.make_node("Add", ["ids", "mask"], ["y"])]


def test_given_shape_fixes_open_dimensions(save: Callable[..., Path]) -> None:
    model = load(save(RELU, IMAGE, ["y"]), {"x": (2, 3, 32, 48)})
    assert model.inputs[0].shape == model.outputs[0].shape == (2, 3, 32, 48)


def test_open_dimensions_are_named_with_the_flag(save: Callable[..., Path]) -> None:
    message = (
        "model.onnx: input 'x' leaves dimensions 0 (N) and 2 (H) and 3 (W) open; fix every size, "
        "for example with --shape x=1x3x224x224"
    )
    with pytest.raises(ShapeError, match=re.escape(message)):
        load(save(RELU, IMAGE, ["y"]))


def test_every_open_input_is_named_at_once(save: Callable[..., Path]) -> None:
    with pytest.raises(ShapeError, match=r"'ids' .*'mask' .*--shape ids=1x128 --shape mask=1x128"):
        load(save(ADD, TOKENS, ["y"]))


def test_batch_alone_becomes_one_and_is_logged(
    save: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    path = save(RELU, [("x", "float32", ["N", 3, 8, 8])], ["y"])
    with caplog.at_level(logging.INFO):
        assert load(path).inputs[0].shape == (1, 3, 8, 8)
    assert "input 'x': the open first dimension is taken as batch 1" in caplog.text


def test_only_the_first_dimension_is_a_batch(save: Callable[..., Path]) -> None:
    with pytest.raises(ShapeError, match=r"input 'x' leaves dimension 1 \(n\) open"):
        load(save(RELU, [("x", "float32", [1, "n"])], ["y"]))


def test_dimensions_of_one_name_share_the_size(save: Callable[..., Path]) -> None:
    model = load(save(ADD, TOKENS, ["y"]), {"ids": (2, 16)})
    assert [spec.shape for spec in model.inputs] == [(2, 16), (2, 16)]


def test_anonymous_dimensions_share_nothing(save: Callable[..., Path]) -> None:
    inputs = [("ids", "float32", ["?", 4]), ("mask", "float32", ["?", 4])]
    model = load(save(ADD, inputs, ["y"]), {"ids": (3, 4)})
    assert [spec.shape for spec in model.inputs] == [(3, 4), (1, 4)]


def test_shapes_that_contradict_each_other_are_refused(save: Callable[..., Path]) -> None:
    with pytest.raises(
        ShapeError, match=r"dimension 1 of input 'mask' is 'seq', which another .* 16, got 8"
    ):
        load(save(ADD, TOKENS, ["y"]), {"ids": (1, 16), "mask": (1, 8)})


def test_shape_that_contradicts_the_model_is_refused(save: Callable[..., Path]) -> None:
    with pytest.raises(
        ShapeError, match=r"dimension 1 of input 'x' is 3 in the model, got 4 in the shape"
    ):
        load(save(RELU, IMAGE, ["y"]), {"x": (1, 4, 8, 8)})


def test_wrong_number_of_dimensions_is_refused(save: Callable[..., Path]) -> None:
    with pytest.raises(ShapeError, match=r"'x' has 4 dimensions \(N, 3, H, W\), got the shape"):
        load(save(RELU, IMAGE, ["y"]), {"x": (3, 8, 8)})


@pytest.mark.parametrize("shape", [(1, 3, 0, 8), (1, 3, -1, 8), (1, 3, 8.5, 8)])
def test_sizes_must_be_whole_and_positive(
    save: Callable[..., Path], shape: tuple[float, ...]
) -> None:
    with pytest.raises(ShapeError, match=r"the shape of input 'x' must be whole sizes >= 1, got"):
        load(save(RELU, IMAGE, ["y"]), {"x": shape})


@pytest.mark.parametrize("shape", [7, "abcd", (1, None, 2, 3)])
def test_shape_must_be_a_list_of_sizes(save: Callable[..., Path], shape: object) -> None:
    with pytest.raises(ShapeError, match="the shape of input 'x' must be a list of sizes, got"):
        load(save(RELU, IMAGE, ["y"]), {"x": shape})


def test_unknown_input_offers_the_nearest(save: Callable[..., Path]) -> None:
    nodes = [helper.make_node("Relu", ["image"], ["y"])]
    path = save(nodes, [("image", "float32", [1, 4])], ["y"])
    with pytest.raises(
        ShapeError, match=r"one of the inputs 'image', got 'imgae'; did you mean 'image'\?"
    ):
        load(path, {"imgae": (1, 4)})


def test_input_of_open_rank_needs_a_shape(save: Callable[..., Path]) -> None:
    path = save(RELU, [("x", "float32", None)], ["y"])
    with pytest.raises(ShapeError, match="input 'x' leaves its number of dimensions open"):
        load(path)
    assert load(path, {"x": (2, 3)}).outputs[0].shape == (2, 3)


def test_initializer_listed_as_input_is_none(save: Callable[..., Path]) -> None:
    nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
    inputs = [("x", "float32", [2]), ("w", "float32", ["n"])]
    model = load(save(nodes, inputs, ["y"], {"w": np.ones(2, "f4")}))
    assert [spec.name for spec in model.inputs] == ["x"]
