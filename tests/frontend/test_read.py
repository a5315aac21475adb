"""Bytes that are no model, or not a whole one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tvmopt.errors import ModelError
from tvmopt.frontend.onnx import load
from tvmopt.frontend.read import read

X = [("x", "float32", [1, 4])]


def _one_line(err: pytest.ExceptionInfo[ModelError]) -> bool:
    return "\n" not in str(err.value) and len(str(err.value)) < 500


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no\.onnx: must be a readable ONNX file: No such file"):
        read(tmp_path / "no.onnx")


def test_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"must be a readable ONNX file: Is a directory"):
        read(tmp_path)


def test_empty_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "empty.onnx").touch()
    with pytest.raises(ModelError, match=r"empty\.onnx: must be an ONNX model, got an empty file"):
        read(tmp_path / "empty.onnx")


@pytest.mark.parametrize("content", [b"hello, world\n" * 20, b"\x00" * 100, b"\x89PNG\r\n\x1a\n"])
def test_other_content_is_no_model(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"other\.onnx: must be an ONNX model, got") as err:
        read(path)
    assert _one_line(err)


def test_every_truncation_is_refused(save: Callable[..., Path], tmp_path: Path) -> None:
    whole = save(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], X, ["y"], {"w": np.eye(4, dtype="f4")}
    ).read_bytes()
    path = tmp_path / "part.onnx"
    # The last fields are the operator set: without its final byte the message does not parse.
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(ModelError, match=r"part\.onnx: ") as err:
            read(path)
        assert _one_line(err)


def test_dangling_input_is_named(save: Callable[..., Path]) -> None:
    path = save([helper.make_node("Relu", ["nowhere"], ["y"], "act")], X, ["y"])
    with pytest.raises(ModelError, match=r"must be a valid ONNX model: .*nowhere") as err:
        read(path)
    assert _one_line(err)


def test_tensor_with_too_little_data_is_named(save: Callable[..., Path]) -> None:
    path = save([helper.make_node("Add", ["x", "w"], ["y"])], X, ["y"], {"w": np.ones(4, "f4")})
    model = onnx.load(path)
    model.graph.initializer[0].dims[0] = 5
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="tensor 'w' must hold data of its type and shape"):
        read(path)


def test_old_opset_is_refused_with_the_way_out(save: Callable[..., Path]) -> None:
    path = save([helper.make_node("Relu", ["x"], ["y"])], X, ["y"], opset=6)
    with pytest.raises(
        ModelError, match=r"must use ONNX opset 7 to \d+, got 6; convert it with onnx.version_conv"
    ):
        read(path)


def test_model_without_output_is_refused(save: Callable[..., Path]) -> None:
    path = save([helper.make_node("Relu", ["x"], ["y"])], X, [])
    with pytest.raises(ModelError, match="must have an output, got none"):
        read(path)


def test_graph_without_name_is_read(save: Callable[..., Path]) -> None:
    path = save([helper.make_node("Relu", ["x"], ["y"])], X, ["y"])
    model = onnx.load(path)
    model.graph.name = ""
    path.write_bytes(model.SerializeToString())
    assert len(read(path).model.graph) == 1


def test_sha256_is_that_of_the_bytes(save: Callable[..., Path]) -> None:
    path = save([helper.make_node("Relu", ["x"], ["y"])], X, ["y"])
    assert read(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def _external(save: Callable[..., Path], location: str = "weights.bin") -> Path:
    path = save([helper.make_node("Add", ["x", "w"], ["y"])], X, ["y"], {"w": np.ones(4, "f4")})
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    onnx.external_data_helper.set_external_data(tensor, location=location, offset=0, length=16)
    tensor.ClearField("raw_data")
    path.write_bytes(model.SerializeToString())
    return path


def test_external_data_beside_the_model_is_read(save: Callable[..., Path]) -> None:
    path = _external(save)
    (path.parent / "weights.bin").write_bytes(np.arange(4, dtype="f4").tobytes())
    value = read(path).model.graph.initializers["w"].const_value
    np.testing.assert_array_equal(value.numpy(), np.arange(4, dtype="f4"))


def test_missing_external_data_names_tensor_and_file(save: Callable[..., Path]) -> None:
    with pytest.raises(
        ModelError, match=r"tensor 'w' keeps its data in 'weights.bin', which is missing; put that"
    ):
        read(_external(save))


def test_short_external_data_is_refused(save: Callable[..., Path]) -> None:
    path = _external(save)
    (path.parent / "weights.bin").write_bytes(b"\x00" * 7)
    with pytest.raises(ModelError, match=r"model\.onnx: .*(external data|tensor 'w')") as err:
        read(path)
    assert _one_line(err)


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd"])
def test_external_data_outside_the_folder_is_refused(
    save: Callable[..., Path], location: str
) -> None:
    with pytest.raises(ModelError, match="external data must lie beside the model"):
        read(_external(save, location))


def test_string_tensor_in_a_dead_branch_does_no_harm(save: Callable[..., Path]) -> None:
    text = helper.make_tensor("text", onnx.TensorProto.STRING, [1], [b"abc"])
    nodes = [
        helper.make_node("Constant", [], ["t"], value=text),
        helper.make_node("Relu", ["x"], ["y"]),
    ]
    assert len(load(save(nodes, X, ["y"])).outputs) == 1


def test_sparse_constant_is_refused_by_name(save: Callable[..., Path]) -> None:
    values = numpy_helper.from_array(np.ones(1, "f4"), "w")
    indices = numpy_helper.from_array(np.zeros(1, "i8"), "w_i")
    sparse = helper.make_sparse_tensor(values, indices, [4])
    nodes = [
        helper.make_node("Constant", [], ["w"], "sparse", sparse_value=sparse),
        helper.make_node("Add", ["x", "w"], ["y"]),
    ]
    with pytest.raises(ModelError, match=r"model\.onnx: .*Sparse"):
        load(save(nodes, X, ["y"]))
