"""Small ONNX graphs, and a reference to compare with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import tvm
from onnx import helper, numpy_helper
from tvm import relax

from tvmopt.frontend.onnx import ImportedModel, load


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Write nodes as an ONNX file and return its path.

    Inputs are (name, dtype, shape); initializers are arrays by name; outputs are names, or
    (name, dtype, shape) where the file must say so.
    """

    def write(
        nodes: Sequence[onnx.NodeProto],
        inputs: Sequence[tuple[str, str, Sequence[int | str | None]]],
        outputs: Sequence[str],
        initializers: Mapping[str, np.ndarray] | None = None,
        *,
        opset: int = 17,
        name: str = "model.onnx",
        domains: Sequence[str] = (),
        functions: Sequence[onnx.FunctionProto] = (),
    ) -> Path:
        graph = helper.make_graph(
            nodes,
            "graph",
            [
                helper.make_tensor_value_info(
                    n, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape
                )
                for n, dtype, shape in inputs
            ],
            [onnx.ValueInfoProto(name=n) for n in outputs],
            [numpy_helper.from_array(v, n) for n, v in (initializers or {}).items()],
        )
        imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
        model = helper.make_model(graph, opset_imports=imports, functions=functions, ir_version=10)
        # ONNX wants a type for each output; its shape may stay open.
        inferred = onnx.shape_inference.infer_shapes(model)
        for declared, found in zip(model.graph.output, inferred.graph.output, strict=True):
            elem = found.type.tensor_type.elem_type or onnx.TensorProto.FLOAT
            declared.type.tensor_type.elem_type = elem
        path = tmp_path / name
        path.write_bytes(model.SerializeToString())
        return path

    return write


def run_tvm(model: ImportedModel, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Run an imported module through TVM's own build: slow code, but none of ours."""
    target = tvm.target.Target("llvm")
    with target:
        pipeline = relax.get_default_pipeline(target)
        built = relax.build(model.mod, target, relax_pipeline=pipeline)
    machine = relax.VirtualMachine(built, tvm.cpu())
    arrays = [tvm.runtime.tensor(np.asarray(feeds[s.name], order="C")) for s in model.inputs]
    result = machine["main"](*arrays)
    return [out.numpy() for out in (result if len(model.outputs) > 1 else [result])]


@pytest.fixture
def run() -> Callable[[ImportedModel, Mapping[str, np.ndarray]], list[np.ndarray]]:
    """Return :func:`run_tvm`."""
    return run_tvm


@pytest.fixture
def agrees() -> Callable[..., ImportedModel]:
    """Check that an imported model computes what ONNX Runtime does, within a share of the peak.

    The default bound is that of a few float32 operations on sums of at most some hundred terms:
    100 * 2**-23 = 1.2e-5. Integers and booleans must be equal.
    """

    def check(
        path: Path, feeds: Mapping[str, np.ndarray], *, bound: float = 1.2e-5
    ) -> ImportedModel:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        expected = session.run(None, dict(feeds))
        model = load(path, {name: value.shape for name, value in feeds.items()})
        got = run_tvm(model, feeds)
        assert [spec.name for spec in model.outputs] == [o.name for o in session.get_outputs()]
        for spec, ours, theirs in zip(model.outputs, got, expected, strict=True):
            assert ours.shape == theirs.shape == spec.shape
            assert ours.dtype == theirs.dtype == np.dtype(spec.dtype)
            if theirs.dtype.kind == "f":
                peak = float(np.abs(theirs[np.isfinite(theirs)]).max(initial=0.0))
                np.testing.assert_allclose(
                    ours, theirs, rtol=0, atol=bound * peak, err_msg=spec.name
                )
            else:
                np.testing.assert_array_equal(ours, theirs, err_msg=spec.name)
        return model

    return check
