"""Open a model in an engine, each at its best settings for one inference at a time.

All outputs go to arrays that are made once, and inputs are bound once: what is timed is the
engine. A session belongs to one thread.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from tvmopt.errors import DataError, ModelError
from tvmopt.metrics.engines import EngineSpec
from tvmopt.runtime import TensorInfo
from tvmopt.runtime import open as open_artifact
from tvmopt.runtime.tensors import aligned_empty

Arrays = Mapping[str, np.ndarray]
LONGEST = 200  # characters of a rival's message worth repeating


class Session(Protocol):
    """An open model."""

    version: str

    def bind(self, inputs: Arrays) -> None:
        """Take the inputs of the following runs, by name."""

    def run(self) -> None:
        """Run once."""

    def outputs(self) -> dict[str, np.ndarray]:
        """Return the outputs of the last run, by name; the next run may overwrite them."""

    def close(self) -> None:
        """Let go of threads and memory."""


def open_session(spec: EngineSpec, inputs: Arrays, threads: int) -> Session:
    """Open ``spec`` for inputs of the shapes of ``inputs``, and bind those.

    Raises:
        TvmoptError: The file cannot be opened, or does not take such inputs.
    """
    if spec.engine == "tvmopt":
        return _ArtifactSession(spec, inputs, threads)
    try:
        if spec.engine == "onnxruntime":
            return _OnnxRuntimeSession(spec, inputs, threads)
        return _OpenVinoSession(spec, inputs, threads)
    except DataError:
        raise
    # Rivals raise classes of their own, which this module must not need to know.
    except Exception as err:
        raise ModelError(f"{spec.label}: {spec.title} refuses it: {_line(err)}") from err


def import_engine(spec: EngineSpec) -> None:
    """Import what opening ``spec`` needs, so that importing is not part of the load time."""
    for name in {"onnxruntime": ("onnx", "onnxruntime"), "openvino": ("openvino",)}.get(
        spec.engine, ()
    ):
        importlib.import_module(name)


def _line(err: Exception) -> str:
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    text = lines[-1] if lines else type(err).__name__
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def _check_names(spec: EngineSpec, wanted: list[str], inputs: Arrays) -> None:
    if set(wanted) != set(inputs):
        raise DataError(
            f"{spec.label}: inputs must be named {', '.join(map(repr, wanted))}, "
            f"got {', '.join(map(repr, inputs)) or 'none'}"
        )


class _ArtifactSession:
    def __init__(self, spec: EngineSpec, inputs: Arrays, threads: int) -> None:
        self._net = open_artifact(spec.path, threads)
        self.version = str(self._net.manifest["versions"]["tvmopt"])
        self.bind(inputs)

    def bind(self, inputs: Arrays) -> None:
        self._binding = self._net.bind(inputs)
        self.run = self._binding.run

    def outputs(self) -> dict[str, np.ndarray]:
        return self._binding.outputs

    def close(self) -> None:
        self._net.close()


def _aligned(array: np.ndarray) -> np.ndarray:
    info = TensorInfo(name="", dtype=array.dtype.name, shape=array.shape)
    copy = aligned_empty(info)
    copy[...] = array
    return copy


class _OnnxRuntimeSession:
    def __init__(self, spec: EngineSpec, inputs: Arrays, threads: int) -> None:
        import onnxruntime

        self.version = onnxruntime.__version__
        self._module = onnxruntime
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Turns never overlap, so a spinning pool steals nobody's core, and waking up costs less.
        options.add_session_config_entry("session.intra_op.allow_spinning", "1")
        options.log_severity_level = 3
        for name, size in _free_dimensions(spec, inputs).items():
            options.add_free_dimension_override_by_name(name, size)
        self._session = onnxruntime.InferenceSession(
            str(spec.path), options, providers=["CPUExecutionProvider"]
        )
        _check_names(spec, [value.name for value in self._session.get_inputs()], inputs)
        self._names = [value.name for value in self._session.get_outputs()]
        self.bind(inputs)

    def bind(self, inputs: Arrays) -> None:
        self._binding = self._session.io_binding()
        self._values = {  # kept: a binding does not own them
            name: self._module.OrtValue.ortvalue_from_numpy(_aligned(array))
            for name, array in inputs.items()
        }
        for name, value in self._values.items():
            self._binding.bind_ortvalue_input(name, value)
        for name in self._names:
            self._binding.bind_output(name)

    def run(self) -> None:
        self._session.run_with_iobinding(self._binding)

    def outputs(self) -> dict[str, np.ndarray]:
        return dict(zip(self._names, self._binding.copy_outputs_to_cpu(), strict=True))

    def close(self) -> None:
        del self._binding, self._session


def _free_dimensions(spec: EngineSpec, inputs: Arrays) -> dict[str, int]:
    """Return the sizes of named open dimensions: ONNX Runtime optimizes better with them."""
    import onnx  # half a second that other engines do without

    graph = onnx.load(str(spec.path), load_external_data=False).graph
    sizes: dict[str, set[int]] = {}
    for value in graph.input:
        if value.name not in inputs:
            continue
        dims = value.type.tensor_type.shape.dim
        for dim, size in zip(dims, inputs[value.name].shape, strict=False):
            if dim.dim_param:
                sizes.setdefault(dim.dim_param, set()).add(size)
    # A name that stands for several sizes, such as "?", names nothing.
    return {name: found.pop() for name, found in sizes.items() if len(found) == 1}


class _OpenVinoSession:
    def __init__(self, spec: EngineSpec, inputs: Arrays, threads: int) -> None:
        import openvino

        self.version = openvino.__version__.split("-", maxsplit=1)[0]
        self._module = openvino
        core = openvino.Core()
        model = core.read_model(str(spec.path))
        names = [port.get_any_name() for port in model.inputs]
        _check_names(spec, names, inputs)
        if any(port.partial_shape.is_dynamic for port in model.inputs):
            model.reshape({name: list(inputs[name].shape) for name in names})
        compiled = core.compile_model(
            model,
            "CPU",
            {
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_PRECISION_HINT": "f32",
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": 1,
            },
        )
        self._names = [
            port.get_any_name() if port.get_names() else f"output_{i}"
            for i, port in enumerate(model.outputs)
        ]
        self._request = compiled.create_infer_request()
        self.bind(inputs)

    def bind(self, inputs: Arrays) -> None:
        self._inputs = {name: _aligned(array) for name, array in inputs.items()}
        for name, array in self._inputs.items():
            tensor = self._module.Tensor(array, shared_memory=True)
            self._request.set_tensor(name, tensor)

    def run(self) -> None:
        # Without arguments: a mapping would be copied in by every call.
        self._request.infer()

    def outputs(self) -> dict[str, np.ndarray]:
        return {
            name: np.array(self._request.get_output_tensor(i).data)
            for i, name in enumerate(self._names)
        }

    def close(self) -> None:
        del self._request
