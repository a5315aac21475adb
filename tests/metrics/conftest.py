"""A small classifier, as ONNX and as an artefact."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tvmopt

WEIGHT = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)
BATCH = 2


@pytest.fixture(scope="session")
def linear_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """scores: (n, 5) = x: (n, 4) @ WEIGHT, n open."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["scores"], name="linear")],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 5])],
        [numpy_helper.from_array(WEIGHT, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path_factory.mktemp("linear") / "linear.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture(scope="session")
def linear(linear_onnx: Path) -> Path:
    """The same, compiled for this machine with batch 2."""
    model = tvmopt.load(linear_onnx, {"x": (BATCH, 4)})
    return tvmopt.compile(model).save(linear_onnx.with_suffix(".so"))


@pytest.fixture(scope="session")
def x() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((BATCH, 4)).astype(np.float32)


@pytest.fixture(scope="session")
def weight() -> np.ndarray:
    return WEIGHT
