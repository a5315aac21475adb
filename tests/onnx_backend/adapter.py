"""tvmopt behind ONNX's backend interface, so that ONNX's own node cases can run."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.base import Backend, BackendRep

import tvmopt
from tvmopt.errors import TvmoptError
from tvmopt.frontend.onnx import load


def compile_and_run(path: Path, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Compile a model and run it once; the only place that knows how tvmopt is called.

    Args:
        path: Of the ONNX file.
        inputs: By name; each static shape of the file is that of its array.

    Returns:
        The outputs, in the model's order.
    """
    model = tvmopt.load(path, _shapes(inputs))
    library = path.with_suffix(".so")
    tvmopt.compile(model, "native", name="case").save(library)
    with tvmopt.runtime.open(library) as net:
        result = net(dict(inputs)) if inputs else net()
    return [result[spec.name] for spec in model.outputs] if len(model.outputs) > 1 else [result]


def _shapes(inputs: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    return {name: value.shape for name, value in inputs.items()}


def array(value: np.ndarray | onnx.TensorProto) -> np.ndarray:
    """Return a tensor of a case as an array; ONNX uses protobuf for what NumPy has no type for."""
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return np.asarray(value)


def specialize(
    model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Return the model as tvmopt takes it, and the inputs that are left.

    ONNX's cases hand over as inputs what a real model holds as constants: shapes, axes, bounds.
    tvmopt wants those at compile time. So where it does not take a case as it is, every input but
    the first becomes an initializer.

    Raises:
        TvmoptError: tvmopt takes it neither way.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "case.onnx"
        path.write_bytes(model.SerializeToString())
        try:
            load(path, _shapes(feeds))
        except TvmoptError:
            if len(feeds) < 2:
                raise
        else:
            return model, dict(feeds)
        frozen = onnx.ModelProto()
        frozen.CopyFrom(model)
        left = dict(feeds)
        for value in list(frozen.graph.input)[1:]:
            tensor = numpy_helper.from_array(left.pop(value.name), value.name)
            frozen.graph.initializer.append(tensor)
            frozen.graph.input.remove(value)
        path.write_bytes(frozen.SerializeToString())
        load(path, _shapes(left))
        return frozen, left


class TvmoptRep(BackendRep):
    """A model that is compiled when its input, and so its shape, arrives."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model

    def run(self, inputs: Sequence[np.ndarray], **_kwargs: Any) -> tuple[np.ndarray, ...]:
        """Compile for the shapes of ``inputs``, in the graph's order, and run once."""
        names = [value.name for value in self.model.graph.input]
        feeds = dict(zip(names, map(array, inputs), strict=True))
        model, feeds = specialize(self.model, feeds)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "case.onnx"
            path.write_bytes(model.SerializeToString())
            return tuple(compile_and_run(path, feeds))


class TvmoptBackend(Backend):
    """The adapter; see https://onnx.ai/onnx/api/backend.html."""

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **_kwargs: Any) -> TvmoptRep:
        """Return ``model``, ready to be run."""
        if not cls.supports_device(device):
            raise TvmoptError(f"the device must be CPU, got {device!r}")
        return TvmoptRep(model)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Say whether ``device``, as ONNX spells it, can be used."""
        return device == "CPU"
