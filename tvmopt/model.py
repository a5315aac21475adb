"""A model in memory, between a file and an artefact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tvm

from tvmopt.frontend import onnx
from tvmopt.frontend.onnx import TensorSpec
from tvmopt.report import Report


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A model that can be compressed and compiled.

    Attributes:
        mod: Its graph; "main" takes ``inputs`` and returns ``outputs``.
        name: An identifier, from the file's name.
        sha256: Of the file it came from, in hexadecimal.
        inputs: Names, dtypes and static shapes, in order.
        outputs: Names, dtypes and static shapes, in order.
        report: What passes decided so far.
    """

    mod: tvm.IRModule
    name: str
    sha256: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    report: Report = field(default_factory=Report)


def load(path: str | Path, shapes: Mapping[str, Sequence[int]] | None = None) -> Model:
    """Load an ONNX file.

    Args:
        path: The ``.onnx`` file; external data lies beside it.
        shapes: Input name to shape, for inputs whose dimensions the file leaves open. An open batch
            dimension, where it is the only open one, is 1.

    Raises:
        ModelError: The file is missing, no ONNX model, or not a valid one.
        ShapeError: A dimension stays open, or ``shapes`` does not fit the model.
        UnsupportedError: Some operators, all of them named, are not compiled.
    """
    imported = onnx.load(path, shapes)
    return Model(
        mod=imported.mod,
        name=imported.name,
        sha256=imported.sha256,
        inputs=imported.inputs,
        outputs=imported.outputs,
    )
