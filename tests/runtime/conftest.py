"""Artefacts to open."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import relax, te

from tvmopt import codegen
from tvmopt.targets import resolve


def _kernel(compute: Callable[..., object], *shapes: tuple[int, ...]) -> tvm.tirx.PrimFunc:
    """Return a kernel over tensors of equal rank, parallel over the first axis."""
    given = [te.placeholder(shape, name=f"x{i}") for i, shape in enumerate(shapes)]
    y = te.compute(shapes[0], lambda *at: compute(*(x[at] for x in given)), name="y")
    sch = tvm.s_tir.Schedule(te.create_prim_func([*given, y]))
    sch.parallel(sch.get_loops(sch.get_sblock("y"))[0])
    return sch.mod["main"].with_attr("tvmopt.macs", 12)


def build_affine(shape: tuple[int, ...] = (3, 4)) -> codegen.Artifact:
    """Return y = 2 * x + bias with one input, in two layers."""
    bias = np.arange(np.prod(shape), dtype="float32").reshape(shape)
    block = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(shape, "float32"))
    double = _kernel(lambda a: a * 2, shape).with_attr("tvmopt.kernel", "f32_double")
    plus = _kernel(lambda a, b: a + b, shape, shape)
    with block.function("main", [x]):
        with block.dataflow():
            y = x
            for name, func, extra in (("double", double, []), ("plus", plus, [relax.const(bias)])):
                var = block.add_func(func.with_attr("global_symbol", f"{name}_f"), f"{name}_f")
                call = relax.call_tir(var, [y, *extra], relax.TensorType(shape, "float32"))
                y = block.emit(call, name_hint=name)
            out = block.emit_output(y)
        block.emit_func_output(out)
    meta = codegen.BuildMeta(name="affine", input_names=("x",), output_names=("y",))
    return codegen.build(block.get(), resolve("native"), meta)


def build_pair() -> codegen.Artifact:
    """Return sum and product of two inputs whose names are no Python names."""
    shape = (2, 3)
    block = relax.BlockBuilder()
    inputs = [relax.Var(name, relax.TensorType(shape, "float32")) for name in "ab"]
    with block.function("main", inputs):
        with block.dataflow():
            results = []
            for name, func in (("s", lambda a, b: a + b), ("p", lambda a, b: a * b)):
                kernel = _kernel(func, shape, shape).with_attr("global_symbol", name)
                var = block.add_func(kernel, name)
                call = relax.call_tir(var, inputs, relax.TensorType(shape, "float32"))
                results.append(block.emit(call))
            out = block.emit_output(relax.Tuple(results))
        block.emit_func_output(out)
    meta = codegen.BuildMeta(
        name="pair", input_names=("a:0", "out"), output_names=("sum", "product")
    )
    return codegen.build(block.get(), resolve("native"), meta)


@pytest.fixture(scope="session")
def affine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_affine().save(tmp_path_factory.mktemp("affine") / "affine.so")


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_pair().save(tmp_path_factory.mktemp("pair") / "pair.so")


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with 20 MB of weights."""
    return build_affine((5, 1000, 1000)).save(tmp_path_factory.mktemp("large") / "large.so")
