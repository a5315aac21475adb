"""The same model gives the same bytes, wherever and whenever it is compiled."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

COMPILE = """
import sys
import tvmopt

model = tvmopt.load(sys.argv[1])
tvmopt.compile(model, "native").save("model.so")
"""


def _save_net(path: Path) -> None:
    """Save a net with a site of most kinds: convolutions, pooling, products, a tail, the rest."""
    rng = np.random.default_rng(0)
    shapes = {
        "stem": (16, 3, 3, 3),  # Winograd's form, or the direct one
        "depth": (16, 1, 3, 3),
        "point": (24, 16, 1, 1),
        "bias": (24,),
        "linear": (24, 10),
    }
    # The scale keeps activations near 1 through all layers.
    weights = [
        numpy_helper.from_array((0.3 * rng.standard_normal(shape)).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["x", "stem"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "depth"], ["c"], pads=[1, 1, 1, 1], group=16),
        helper.make_node("MaxPool", ["c"], ["d"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["d", "point", "bias"], ["e"]),
        helper.make_node("Sigmoid", ["e"], ["f"]),
        helper.make_node("Mul", ["e", "f"], ["g"]),
        helper.make_node("GlobalAveragePool", ["g"], ["h"]),
        helper.make_node("Flatten", ["h"], ["i"]),
        helper.make_node("MatMul", ["i", "linear"], ["j"]),
        helper.make_node("Softmax", ["j"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 10])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)


def _compile(net: Path, folder: Path, seed: str) -> tuple[bytes, bytes]:
    """Return model.so and model.h as a process of its own makes them in ``folder``."""
    (folder / "tmp").mkdir(parents=True)
    copy = shutil.copy(net, folder / net.name)
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, str(copy)],
        cwd=folder,
        env=os.environ | {"PYTHONHASHSEED": seed, "TMPDIR": str(folder / "tmp")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return (folder / "model.so").read_bytes(), (folder / "model.h").read_bytes()


@pytest.mark.slow
def test_two_processes_compile_to_the_same_bytes(tmp_path: Path) -> None:
    net = tmp_path / "net.onnx"
    _save_net(net)
    one = _compile(net, tmp_path / "here", "0")
    two = _compile(net, tmp_path / "some" / "other-place", "4711")
    assert one == two
    for content in one:
        assert os.fsencode(tmp_path) not in content
