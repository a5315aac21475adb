"""Lowered modules to build, made without lowering, and the C interface by ctypes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import relax, te

from tvmopt import codegen
from tvmopt.targets.description import CpuTarget

Shape = tuple[int, ...]


def tensor_type(shape: Shape, dtype: str = "float32") -> relax.TensorType:
    return relax.TensorType(shape, dtype)


def elementwise(
    compute: Callable[..., Any],
    shape: Shape,
    inputs: int = 1,
    *,
    dtype: str = "float32",
    parallel: bool = False,
    **attrs: Any,
) -> tvm.tirx.PrimFunc:
    """Return a kernel that applies ``compute`` to each element; parallel over the first axis."""
    given = [te.placeholder(shape, dtype, name=f"x{i}") for i in range(inputs)]
    result = te.compute(shape, lambda *at: compute(*(x[at] for x in given)), name="y")
    func = te.create_prim_func([*given, result])
    if parallel:
        sch = tvm.s_tir.Schedule(func)
        sch.parallel(sch.get_loops(sch.get_sblock("y"))[0])
        func = sch.mod["main"]
    for key, value in attrs.items():
        func = func.with_attr(f"tvmopt.{key}", value)
    return func.without_attr("global_symbol")


class Builder:
    """Builds "main" of call_tir bindings."""

    def __init__(self, **inputs: tuple[Shape, str] | Shape) -> None:
        self.block = relax.BlockBuilder()
        self.inputs = [
            relax.Var(name, tensor_type(*(form if form and isinstance(form[-1], str) else (form,))))
            for name, form in inputs.items()
        ]

    def module(self, body: Callable[..., Any]) -> tvm.IRModule:
        """Return the module whose main binds what ``body``, given the inputs, calls."""
        with self.block.function("main", self.inputs):
            with self.block.dataflow():
                result = body(*self.inputs)
                output = self.block.emit_output(
                    relax.Tuple(list(result)) if isinstance(result, tuple) else result
                )
            self.block.emit_func_output(output)
        return self.block.get()

    def call(
        self,
        func: tvm.tirx.PrimFunc,
        args: Sequence[Any],
        shape: Shape | list[Shape],
        dtype: str = "float32",
        name: str = "layer",
    ) -> relax.Var:
        # Each needs a symbol of its own, or the builder takes equal functions for one.
        var = self.block.add_func(
            func.with_attr("global_symbol", f"{name}_kernel"), f"{name}_kernel"
        )
        types = [tensor_type(s, dtype) for s in (shape if isinstance(shape, list) else [shape])]
        out_ty = types if isinstance(shape, list) else types[0]
        return self.block.emit(relax.call_tir(var, list(args), out_ty), name_hint=name)

    def reshape(self, x: relax.Expr, shape: Shape) -> relax.Var:
        return self.block.emit(relax.op.reshape(x, shape))


def conv_net(size: int = 8, channels: int = 4) -> tuple[tvm.IRModule, Callable[..., np.ndarray]]:
    """Return convolution, relu, flatten, matmul, softmax by TVM's own lowering, and it in NumPy."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((channels, 3, 3, 3)).astype("float32")
    matrix = (rng.standard_normal((channels * size * size, 10)) / size).astype("float32")
    builder = Builder(x=(1, 3, size, size))

    def body(x: relax.Var) -> relax.Expr:
        y = relax.op.nn.conv2d(x, relax.const(weight), padding=(1, 1))
        y = builder.block.emit(relax.op.nn.relu(builder.block.emit(y, name_hint="conv")))
        y = relax.op.matmul(builder.reshape(y, (1, matrix.shape[0])), relax.const(matrix))
        return relax.op.nn.softmax(builder.block.emit(y, name_hint="dense"))

    mod = tvm.transform.Sequential(
        [
            relax.transform.LegalizeOps({"relax.reshape": lambda _, call: call}),
            relax.transform.AnnotateTIROpPattern(),
            relax.transform.FuseOps(),
            relax.transform.FuseTIR(),
        ]
    )(builder.module(body))

    def reference(x: np.ndarray) -> np.ndarray:
        padded = np.pad(x.astype("float64"), ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
        y = np.maximum(np.einsum("nchwij,ocij->nohw", windows, weight), 0).reshape(1, -1) @ matrix
        exp = np.exp(y - y.max())
        return exp / exp.sum()

    return mod, reference


class Abi:
    """The functions of a model's header."""

    STEP = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int32, ctypes.c_char_p, ctypes.c_int32)

    class Tensor(ctypes.Structure):
        _fields_ = (
            ("name", ctypes.c_char_p),
            ("dtype", ctypes.c_char_p),
            ("ndim", ctypes.c_int32),
            ("shape", ctypes.POINTER(ctypes.c_int64)),
            ("bytes", ctypes.c_size_t),
        )

    class Buffer(ctypes.Structure):
        _fields_ = (("data", ctypes.c_void_p), ("bytes", ctypes.c_size_t))

    def __init__(self, path: Path, name: str = "model") -> None:
        library = ctypes.CDLL(str(path))
        pointer, integer = ctypes.c_void_p, ctypes.c_int32
        tensor, buffers = ctypes.POINTER(self.Tensor), ctypes.POINTER(self.Buffer)
        forms = {
            "create": (pointer, integer),
            "destroy": (None, pointer),
            "input_count": (integer,),
            "output_count": (integer,),
            "step_count": (integer,),
            "input": (tensor, integer),
            "output": (tensor, integer),
            "arena_bytes": (ctypes.c_size_t,),
            "run": (integer, pointer, buffers, integer, buffers, integer),
            "on_step": (None, pointer, self.STEP, pointer),
            "profile": (None, pointer, pointer),
            "last_error": (ctypes.c_char_p, pointer),
            "manifest": (ctypes.c_char_p,),
        }
        for function, (result, *arguments) in forms.items():
            entry = getattr(library, f"{name}_{function}")
            entry.restype, entry.argtypes = result, arguments
            setattr(self, function, entry)

    def buffers(self, arrays: Sequence[np.ndarray]) -> ctypes.Array:
        return (self.Buffer * len(arrays))(*((a.ctypes.data, a.nbytes) for a in arrays))

    def call(
        self, instance: int, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]
    ) -> int:
        given, results = self.buffers(inputs), self.buffers(outputs)
        return self.run(instance, given, len(inputs), results, len(outputs))

    def error(self, instance: int | None) -> str:
        return self.last_error(instance).decode()


def aligned(array: np.ndarray, shift: int = 0) -> np.ndarray:
    """Return a copy that starts ``shift`` bytes after a multiple of 64."""
    raw = np.empty(array.nbytes + 128, np.uint8)
    start = -raw.ctypes.data % 64 + shift
    copy = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


@pytest.fixture(scope="session")
def make() -> SimpleNamespace:
    """The helpers above, for test files cannot import a conftest."""
    return SimpleNamespace(
        Abi=Abi,
        Builder=Builder,
        aligned=aligned,
        conv_net=conv_net,
        elementwise=elementwise,
        tensor_type=tensor_type,
    )


@pytest.fixture(scope="session")
def target(here: CpuTarget) -> CpuTarget:
    return here


@pytest.fixture
def compiled(tmp_path: Path, target: CpuTarget) -> Callable[..., Path]:
    """Build a module and return the path of its artefact."""

    def compiled_(mod: tvm.IRModule, name: str = "model", **meta: Any) -> Path:
        artifact = codegen.build(mod, target, codegen.BuildMeta(name=name, **meta))
        return artifact.save(tmp_path / f"{name}.so")

    return compiled_
