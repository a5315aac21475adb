"""Run command lines in this process, and a small classifier to run them on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tvmopt.cli.main import run_command

CLASSES = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """How a command line ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """What it printed, as JSON."""
        return json.loads(self.out)


@pytest.fixture
def tvmopt(capfd: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Run a command line and return its exit code and what it wrote, libraries included."""

    def run(*arguments: object) -> Ended:
        capfd.readouterr()
        code = run_command([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return Ended(code=code, out=out, err=err)

    return run


@pytest.fixture
def refused(tvmopt: Callable[..., Ended]) -> Callable[..., str]:
    """Run a command line that must be refused by one clear line; return it."""

    def run(*arguments: object) -> str:
        ended = tvmopt(*arguments)
        assert ended.code == 2, ended
        assert ended.out == ""
        assert ended.err.startswith("error: ")
        assert ended.err.count("\n") == 1
        assert ended.err.endswith("\n")
        assert "Traceback" not in ended.err
        assert "internal error" not in ended.err
        return ended.err.removeprefix("error: ").rstrip("\n")

    return run


def save_onnx(path: Path, nodes: list[onnx.NodeProto], dims: list[int | str]) -> Path:
    """Write a model of one float input x and one output scores; w is (4, CLASSES)."""
    weight = np.random.default_rng(0).standard_normal((4, CLASSES)).astype(np.float32)
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def linear_nodes() -> list[onnx.NodeProto]:
    return [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="linear"),
        helper.make_node("Tanh", ["h"], ["scores"], name="squash"),
    ]


@pytest.fixture(scope="session")
def small_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """scores: (n, 6) = tanh(x: (n, 4) @ w)."""
    folder = tmp_path_factory.mktemp("small")
    return save_onnx(folder / "small.onnx", linear_nodes(), ["n", 4])


@pytest.fixture(scope="session")
def small_so(small_onnx: Path) -> Path:
    """The same for this machine, batch 1, through the command line."""
    path = small_onnx.with_suffix(".so")
    assert run_command(["compile", str(small_onnx), "-o", str(path), "--json"]) == 0
    return path


@pytest.fixture(scope="session")
def weight(small_onnx: Path) -> np.ndarray:
    return numpy_helper.to_array(onnx.load(small_onnx).graph.initializer[0])


@pytest.fixture(scope="session")
def data(small_onnx: Path, weight: np.ndarray) -> Path:
    """20 samples and the classes that the model gives them, but for the first, which is wrong."""
    x = np.random.default_rng(1).standard_normal((20, 4)).astype(np.float32)
    labels = np.argmax(x @ weight, axis=1)
    labels[0] = (labels[0] + 1) % CLASSES
    path = small_onnx.with_name("data.npz")
    np.savez(path, x=x, labels=labels)
    return path


@pytest.fixture(scope="session")
def save() -> Callable[..., Path]:
    return save_onnx


@pytest.fixture(scope="session")
def nodes() -> Callable[[], list[onnx.NodeProto]]:
    return linear_nodes
