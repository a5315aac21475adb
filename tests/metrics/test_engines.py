from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from tvmopt.errors import ArtifactError, ModelError, OptionError
from tvmopt.metrics.engines import EngineSpec, parse, require


@pytest.mark.parametrize(
    ("text", "engine", "path"),
    [
        ("model.so", "tvmopt", "model.so"),
        ("a/b.onnx@onnxruntime", "onnxruntime", "a/b.onnx"),
        ("user@host/b.onnx@openvino", "openvino", "user@host/b.onnx"),
        ("user@host/b.so", "tvmopt", "user@host/b.so"),
    ],
)
def test_a_rival_is_a_file_and_an_engine(text: str, engine: str, path: str) -> None:
    assert parse(text) == EngineSpec(engine=engine, path=Path(path))


def test_an_onnx_file_must_name_its_engine() -> None:
    message = "got 'a.onnx'; write a.onnx@onnxruntime or a.onnx@openvino"
    with pytest.raises(OptionError, match=re.escape(message)):
        parse("a.onnx")


def test_the_nearest_engine_is_offered() -> None:
    with pytest.raises(OptionError, match="got 'onnxrt'; did you mean 'onnxruntime'"):
        parse("a.onnx@onnxrt")
    with pytest.raises(OptionError, match="choose from tvmopt, onnxruntime, openvino"):
        parse("a.onnx@zzz")


def test_an_engine_that_is_missing_comes_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(OptionError, match=r"OpenVINO must be installed .* 'pip install openvino'"):
        require(parse("a.onnx@openvino"))
    assert parse("a.so").installed


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no\.so: must be a readable file"):
        require(parse(str(tmp_path / "no.so")))


def test_an_onnx_file_that_is_missing_is_named(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(ModelError, match=r"no\.onnx: must be a readable file"):
        require(parse(f"{tmp_path / 'no.onnx'}@onnxruntime"))
