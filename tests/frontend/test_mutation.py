"""Whatever the bytes: a model that loads, or one clear TvmoptError."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tvmopt.errors import TvmoptError
from tvmopt.frontend.onnx import load


@pytest.fixture
def original(save: Callable[..., Path]) -> bytes:
    """Return a small model with every kind of field: subgraphs, attributes, shape arithmetic."""
    branches = {
        name: helper.make_graph(
            [helper.make_node(op, ["c"], [out])],
            name,
            [],
            [helper.make_tensor_value_info(out, TensorProto.FLOAT, None)],
        )
        for name, op, out in (("then_branch", "Relu", "t"), ("else_branch", "Neg", "e"))
    }
    rest = numpy_helper.from_array(np.array([-1], np.int64))
    nodes = [
        helper.make_node("Pad", ["x", "pads"], ["p"], "pad"),
        helper.make_node("Conv", ["p", "w", "b"], ["c"], "conv", strides=[2, 2]),
        helper.make_node("If", ["yes"], ["d"], "if", **branches),
        helper.make_node("MaxPool", ["d"], ["m"], "pool", kernel_shape=[2, 2], pads=[0, 0, 1, 1]),
        helper.make_node("Shape", ["m"], ["s"], "shape"),
        helper.make_node("Gather", ["s", "zero"], ["n"], "gather"),
        helper.make_node("Constant", [], ["rest"], value=rest),
        helper.make_node("Concat", ["n", "rest"], ["to"], "concat", axis=0),
        helper.make_node("Reshape", ["m", "to"], ["r"], "reshape"),
        helper.make_node("Softmax", ["r"], ["y"], "softmax"),
    ]
    initializers = {
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64),
        "w": np.ones((2, 1, 3, 3), np.float32),
        "b": np.ones(2, np.float32),
        "yes": np.array(True),
        "zero": np.array([0], np.int64),
    }
    return save(nodes, [("x", "float32", ["n", 1, 6, 6])], ["y"], initializers).read_bytes()


def _try(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    message = ""
    try:
        load(path)
    except TvmoptError as err:
        message = str(err)
    assert "\n" not in message


# 250 examples take about 10 s; a run of 2,500 by other means found nothing either.
@settings(
    max_examples=250,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_changed_bytes_load_or_are_refused(
    original: bytes, tmp_path: Path, data: st.DataObject
) -> None:
    mutated = bytearray(original)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(mutated) - 1))
        kind = data.draw(st.sampled_from(["set", "flip", "delete", "insert"]))
        if kind == "set":
            mutated[at] = data.draw(st.integers(0, 255))
        elif kind == "flip":
            mutated[at] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "delete":
            del mutated[at : at + data.draw(st.integers(1, 8))]
        else:
            mutated[at:at] = data.draw(st.binary(min_size=1, max_size=4))
    _try(tmp_path / "mutated.onnx", bytes(mutated))


def test_the_original_loads(original: bytes, tmp_path: Path) -> None:
    path = tmp_path / "original.onnx"
    path.write_bytes(original)
    assert load(path).outputs[0].shape == (1, 18)
