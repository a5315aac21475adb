"""Layers to round, small and random; a small net, its samples, and its tap."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt.calibration import Samples, Tap
from tvmopt.frontend.onnx import TensorSpec
from tvmopt.passes.quantize.quantize_static import QuantizeStatic, QuantizeStaticOptions
from tvmopt.passes.quantize.round_weights import Rounding, WeightGrid
from tvmopt.report import Report
from tvmopt.tap import native_tap
from tvmopt.targets import CpuTarget


@pytest.fixture(scope="session")
def make_rounding() -> Callable[..., Rounding]:
    """Make a random layer whose inputs are correlated, as those of real layers are."""

    def make(
        seed: int,
        *,
        groups: int = 1,
        outputs: int = 3,
        inputs: int = 8,
        high: int = 3,
        bias: bool = True,
    ) -> Rounding:
        rng = np.random.default_rng(seed)
        k = inputs + bias
        rows = rng.standard_normal((groups, 4 * k, k)) @ rng.standard_normal((groups, k, k))
        if bias:
            rows[..., -1] = 1.0
        hessian = np.matmul(rows.swapaxes(1, 2), rows) / rows.shape[1] + 0.01 * np.eye(k)
        wanted = rng.standard_normal((groups, outputs, k))
        scale = np.abs(wanted[..., :inputs]).max(axis=-1, keepdims=True) / high
        grid = WeightGrid(scale=scale, zero_point=np.zeros_like(scale), low=-high, high=high)
        return Rounding(wanted=wanted, hessian=hessian, grid=grid, has_bias=bias)

    return make


@pytest.fixture(scope="session")
def small_net() -> tvm.IRModule:
    """A net in canonical form: strided, depthwise, pointwise with a residual, and two matmuls.

    Its layers: stem_conv2d, deep_conv2d, point_conv2d; left_matmul and right_matmul (without a
    bias) read the same tensor.
    """
    rng = np.random.default_rng(7)
    x = relax.Var("x", relax.TensorType((1, 8, 8, 3), "float32"))
    builder = relax.BlockBuilder()
    op = relax.op

    def conv(data: relax.Expr, name: str, shape: tuple[int, ...], **how: int) -> relax.Var:
        size = np.sqrt(np.prod(shape[1:]))
        weight = relax.const((rng.standard_normal(shape) / size).astype("f4"))
        bias = relax.const((0.1 * rng.standard_normal((1, 1, 1, shape[0]))).astype("f4"))
        layouts = {"data_layout": "NHWC", "kernel_layout": "OHWI", "out_layout": "NHWC"}
        product = builder.emit(op.nn.conv2d(data, weight, **how, **layouts), f"{name}_conv2d")
        return builder.emit(op.add(product, bias), name)

    with builder.function("main", [x]):
        with builder.dataflow():
            stem = builder.emit(
                op.nn.relu(conv(x, "stem", (16, 3, 3, 3), strides=2, padding=1)), "act"
            )
            deep = conv(stem, "deep", (16, 3, 3, 1), padding=1, groups=16)
            point = conv(builder.emit(op.clip(deep, 0, 6), "cut"), "point", (16, 1, 1, 16))
            total = builder.emit(op.add(point, stem), "total")
            rows = builder.emit(op.reshape(total, (1, 16, 16)), "rows")
            weights = [(rng.standard_normal((16, 8)) / 4).astype("f4") for _ in range(2)]
            left = builder.emit(op.matmul(rows, relax.const(weights[0])), "left_matmul")
            left = builder.emit(op.add(left, relax.const(np.ones(8, "f4"))), "left")
            right = builder.emit(op.matmul(rows, relax.const(weights[1])), "right_matmul")
            result = builder.emit_output(op.multiply(left, right), "result")
        builder.emit_func_output(result)
    return builder.finalize()


@pytest.fixture(scope="session")
def net_samples() -> Samples:
    """32 samples of ``small_net``'s input, named "pixels"."""
    shape = (1, 8, 8, 3)
    values = np.random.default_rng(8).standard_normal((32, *shape[1:])).astype("f4")
    port = TensorSpec(name="pixels", dtype="float32", shape=shape)
    return Samples([port], {"pixels": values})


@pytest.fixture(scope="session")
def net_tap(here: CpuTarget) -> Tap:
    """The tap for ``small_net``."""
    return native_tap(["pixels"], here)


@pytest.fixture(scope="session")
def quantize_net(
    small_net: tvm.IRModule, net_samples: Samples, net_tap: Tap
) -> Callable[..., tvm.IRModule]:
    """Quantize ``small_net`` statically, rounding to nearest: ``quantize_net(weight_bits=4)``."""

    @cache
    def quantize(**options: int | str) -> tvm.IRModule:
        how = QuantizeStaticOptions(**options)
        return QuantizeStatic(how, net_samples, net_tap, Report())(small_net)

    return quantize
