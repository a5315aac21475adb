"""A plain road from Relax to numbers, and small graphs to send down it.

Most tests use integers held in floats: every sum and product is then exact in float32 whatever the
order, so that "computes the same" can be asked for bit by bit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import tvm
from tvm import relax, topi

from tvmopt import ir

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

    def call(mod: tvm.IRModule, *inputs: np.ndarray) -> list[np.ndarray]:
        legal = relax.transform.LegalizeOps(
            {"relax.nn.conv2d_transpose": _legalize_channels_last_transpose}
        )(mod)
        vm = relax.VirtualMachine(tvm.compile(legal, target="llvm"), tvm.cpu())
        result = vm["main"](*[tvm.runtime.tensor(x) for x in inputs])
        return [t.numpy() for t in ([result] if hasattr(result, "numpy") else result)]

    return call


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
