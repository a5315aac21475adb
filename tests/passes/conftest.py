"""A plain road from Relax to numbers, and small graphs to send down it.

Most tests use integers held in floats: every sum and product is then exact in float32 whatever the
order, so that "computes the same" can be asked for bit by bit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
import tvm
from tvm import relax, topi

from tvmopt import ir
from tvmopt.calibration import Samples, Tap
from tvmopt.frontend.onnx import TensorSpec

Build = Callable[..., tvm.IRModule]
Run = Callable[..., list[np.ndarray]]


@pytest.fixture(scope="session")
def build() -> Build:
    """Build a module: ``build(body, (2, 3), (4,))`` computes ``body(bb, x0, x1)``."""

    def make(
        body: Callable[..., relax.Expr], *shapes: Sequence[int], dtype: str = "float32"
    ) -> tvm.IRModule:
        builder = relax.BlockBuilder()
        params = [
            relax.Var(f"x{i}", relax.TensorType(tuple(shape), dtype))
            for i, shape in enumerate(shapes)
        ]
        with builder.function("main", params):
            with builder.dataflow():
                result = builder.emit_output(body(builder, *params), "result")
            builder.emit_func_output(result)
        return builder.finalize()

    return make


@pytest.fixture(scope="session")
def run() -> Run:
    """Compile with plain TVM, no pass of ours, and run: ``run(mod, x, y)`` gives all results."""

    return lambda mod, *inputs: _compiled(mod)(*inputs)


@pytest.fixture(scope="session")
def counts() -> Callable[[tvm.IRModule], Counter[str]]:
    """Count the calls of a module by operator, without the leading ``relax.``."""

    def count(mod: tvm.IRModule) -> Counter[str]:
        return Counter(call.op.name.removeprefix("relax.") for call in ir.calls(mod))

    return count


@pytest.fixture(scope="session")
def integers() -> Callable[..., np.ndarray]:
    """Make small integers in float32: ``integers(seed, 2, 3)`` is (2, 3), from -3 to 3."""

    def make(seed: int, *shape: int) -> np.ndarray:
        return np.random.default_rng(seed).integers(-3, 4, shape).astype("float32")

    return make


@pytest.fixture(scope="session")
def convolve() -> Callable[..., relax.Expr]:
    """Emit a layer in canonical form: ``convolve(builder, x, "stem", 8)`` is stem_act."""

    def make(
        builder: relax.BlockBuilder,
        x: relax.Expr,
        name: str,
        outputs: int,
        *,
        depthwise: bool = False,
        act: Callable[[relax.Expr], relax.Expr] | None = relax.op.nn.relu,
    ) -> relax.Expr:
        rng = np.random.default_rng([*name.encode()])
        inputs = int(ir.shape(x)[3])
        weight = rng.normal(size=(outputs, 3, 3, 1 if depthwise else inputs)) / 6
        layouts = {"data_layout": "NHWC", "kernel_layout": "OHWI", "out_layout": "NHWC"}
        groups = inputs if depthwise else 1
        kernel = relax.const(weight.astype("float32"))
        product = relax.op.nn.conv2d(x, kernel, padding=1, groups=groups, **layouts)
        bias = relax.const(rng.normal(size=(1, 1, 1, outputs)).astype("float32") / 4)
        total = relax.op.add(builder.emit(product, f"{name}_conv2d"), bias)
        y = builder.emit(total, name)
        return y if act is None else builder.emit(act(y), f"{name}_act")

    return make


@pytest.fixture(scope="session")
def tap() -> Tap:
    """The tap of plain TVM."""

    def make(
        mod: tvm.IRModule, names: Sequence[str]
    ) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
        func = mod["main"]
        env: dict[relax.Var, relax.Expr] = {param: param for param in func.params}
        builder = relax.BlockBuilder()
        with builder.function("main", list(func.params)):
            with builder.dataflow():
                for var, value in ir.bindings(func):
                    env[var] = builder.emit(ir.substitute(value, env), var.name)
                named = {var.name: new for var, new in env.items()}
                result = builder.emit_output(relax.Tuple([named[name] for name in names]))
            builder.emit_func_output(result)
        compiled = _compiled(builder.finalize())
        return lambda feed: dict(zip(names, compiled(*feed.values()), strict=True))

    return make


@pytest.fixture(scope="session")
def make_samples() -> Callable[..., Samples]:
    """Make two samples of an input of a shape: normal, or bytes."""

    def make(shape: Sequence[int], *, name: str = "x0", dtype: str = "float32") -> Samples:
        rng, whole = np.random.default_rng(5), (2 * shape[0], *shape[1:])
        values = rng.integers(0, 256, whole) if dtype == "uint8" else rng.normal(size=whole)
        port = TensorSpec(name=name, dtype=dtype, shape=tuple(shape))
        return Samples([port], {name: values.astype(dtype)}, least=1)

    return make


def _compiled(mod: tvm.IRModule) -> Callable[..., list[np.ndarray]]:
    legal = relax.transform.LegalizeOps(
        {"relax.nn.conv2d_transpose": _legalize_channels_last_transpose}
    )(mod)
    vm = relax.VirtualMachine(tvm.compile(legal, target="llvm"), tvm.cpu())

    def call(*inputs: np.ndarray) -> list[np.ndarray]:
        result = vm["main"](*[tvm.runtime.tensor(x) for x in inputs])
        return [t.numpy() for t in ([result] if hasattr(result, "numpy") else result)]

    return call


def _legalize_channels_last_transpose(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """Lower a transposed convolution by way of NCHW, the only layout TVM lowers itself."""
    attrs = call.attrs
    order = [attrs.data_layout.index(axis) for axis in "NCHW"]
    kernel_order = [attrs.kernel_layout.index(axis) for axis in "IOHW"]

    def compute(data: tvm.te.Tensor, kernel: tvm.te.Tensor) -> tvm.te.Tensor:
        kernel = topi.transpose(kernel, kernel_order)
        kernel = topi.nn.dilate(kernel, [1, 1, *(int(d) for d in attrs.dilation)])
        result = topi.nn.group_conv2d_transpose_nchw(
            topi.transpose(data, order),
            kernel,
            [int(s) for s in attrs.strides],
            [int(p) for p in attrs.padding],
            ir.dtype(call),
            [int(p) for p in attrs.output_padding],
            int(attrs.groups),
        )
        return topi.transpose(result, [order.index(i) for i in range(4)])

    return builder.call_te(compute, *call.args, primfunc_name_hint="conv2d_transpose")
