"""Small Relax functions, lowered and looked at, then built, run and compared with NumPy.

The reference evaluates the function before lowering in float64. Beside each value it carries a
magnitude, what the same arithmetic gives on absolute values, and it counts roundings: whatever the
order of the float32 operations, |error| <= gamma_roundings * magnitude to first order, gamma_k =
k * 2**-24 (N. J. Higham, "Accuracy and stability of numerical algorithms", 2002, section 3.1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.special
import tvm
from tvm import relax

import tvmopt.runtime
from tvmopt import codegen, ir
from tvmopt.kernels.vector import isa
from tvmopt.lowering import LowerOptions, lower
from tvmopt.report import Report
from tvmopt.targets import CpuTarget, get

AVX2 = get("x86-64-v3")
FUNCTION = 8  # roundings that stand for an elementary function: each is off by less than 4e-7


@dataclass(frozen=True)
class Value:
    """A value in float64 and its magnitude."""

    exact: np.ndarray
    size: np.ndarray


def module(
    body: Callable[..., relax.Expr], *shapes: tuple[int, ...], dtype: str = "float32"
) -> tvm.IRModule:
    """Return the module whose main returns ``body(emit, x0, x1, ...)``; emit names a binding."""
    block = relax.BlockBuilder()
    inputs = [relax.Var(f"x{i}", relax.TensorType(s, dtype)) for i, s in enumerate(shapes)]

    def emit(expr: relax.Expr, name: str = "") -> relax.Var:
        return block.emit(expr, name_hint=name)

    with block.function("main", inputs):
        with block.dataflow():
            result = body(emit, *inputs)
            fields = result if isinstance(result, tuple) else None
            output = block.emit_output(relax.Tuple(list(fields)) if fields else result)
        block.emit_func_output(output)
    return block.get()


def array(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    """Return normal float32 values."""
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def const(*shape: int, seed: int = 0, scale: float = 1.0) -> relax.Constant:
    """Return a constant of normal values."""
    return relax.const(array(*shape, seed=seed, scale=scale))


def conv(x: relax.Expr, out: int, kernel: int = 3, **attrs: Any) -> relax.Call:
    """Return an NHWC convolution with random weights, padded to keep the image's size."""
    channels = ir.shape(x)[3] // attrs.get("groups", 1)
    size = (kernel, kernel) if isinstance(kernel, int) else kernel
    seed = attrs.pop("seed", out)
    attrs.setdefault("padding", (size[0] // 2, size[1] // 2))
    weight = const(out, *size, channels, seed=seed, scale=(channels * size[0] * size[1]) ** -0.5)
    layouts = {"data_layout": "NHWC", "kernel_layout": "OHWI"}
    return relax.op.nn.conv2d(x, weight, **layouts, **attrs)


def bias(channels: int, seed: int = 9) -> relax.Constant:
    return const(1, 1, 1, channels, seed=seed)


def lowered(
    mod: tvm.IRModule, report: Report | None = None, target: CpuTarget = AVX2, **options: Any
) -> tuple[tvm.IRModule, list[str]]:
    """Return the lowered module and the kernels that its main calls, in order."""
    result = lower(mod, target, Report() if report is None else report, LowerOptions(**options))
    names = []
    for _, value in ir.bindings(result["main"]):
        if ir.is_call_to(value, "relax.call_tir"):
            names.append(str(result[value.args[0]].attrs["tvmopt.kernel"]))
        else:
            assert not isinstance(value, relax.Call) or ir.is_call_to(value, "relax.reshape")
    return result, names


def _windows(x: np.ndarray, kernel: Any, attrs: Any, fill: float) -> np.ndarray:
    top, left, bottom, right = (int(p) for p in attrs.padding)
    x = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=fill)
    (kh, kw), (dh, dw) = kernel, (int(d) for d in attrs.dilation)
    sh, sw = (int(s) for s in attrs.strides)
    span = (dh * (kh - 1) + 1, dw * (kw - 1) + 1)
    return np.lib.stride_tricks.sliding_window_view(x, span, (1, 2))[:, ::sh, ::sw, :, ::dh, ::dw]


def _conv(call: relax.Call, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    w = w.transpose([call.attrs.kernel_layout.index(axis) for axis in "OHWI"])
    seen, groups = _windows(x, w.shape[1:3], call.attrs, 0.0), int(call.attrs.groups)
    cut = seen.reshape(*seen.shape[:3], groups, -1, *w.shape[1:3])
    out = np.einsum("nhwgcij,goijc->nhwgo", cut, w.reshape(groups, -1, *w.shape[1:]))
    return out.reshape(*seen.shape[:3], -1)


def _conv_transpose(call: relax.Call, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Scatter; w is (o, kh, kw, i), one group, no dilation."""
    (sh, sw), (top, left) = call.attrs.strides, list(call.attrs.padding)[:2]
    n, h, width, _ = x.shape
    out = np.zeros((n, h * int(sh) + w.shape[1], width * int(sw) + w.shape[2], w.shape[0]))
    for i, j in np.ndindex(h, width):
        y, z = i * int(sh), j * int(sw)
        out[:, y : y + w.shape[1], z : z + w.shape[2]] += np.einsum("nc,ohwc->nhwo", x[:, i, j], w)
    _, out_h, out_w, _ = ir.shape(call)
    return out[:, int(top) : int(top) + out_h, int(left) : int(left) + out_w]


def _pool(call: relax.Call, x: np.ndarray) -> np.ndarray:
    kernel, largest = [int(k) for k in call.attrs.pool_size], "max" in call.op.name
    seen = _windows(x, kernel, call.attrs, -np.inf if largest else 0.0)
    if largest:
        return seen.max((4, 5))
    if call.attrs.count_include_pad:
        return seen.mean((4, 5))
    return seen.sum((4, 5)) / _windows(np.ones_like(x), kernel, call.attrs, 0.0).sum((4, 5))


def _axes(call: relax.Call) -> tuple[int, ...]:
    return tuple(int(a) for a in call.attrs.axis)


def _gelu(x: np.ndarray) -> np.ndarray:
    return x / 2 * (1 + scipy.special.erf(x / np.sqrt(2)))


def _gelu_tanh(x: np.ndarray) -> np.ndarray:
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def _leaky(call: relax.Call, x: np.ndarray, *slopes: np.ndarray) -> np.ndarray:
    slope = slopes[0] if slopes else float(call.attrs.alpha)
    return np.maximum(x, 0) + np.minimum(x, 0) * slope


# Operators whose magnitude is what they give for magnitudes: sums, products, and moves.
LINEAR: dict[str, Callable[..., np.ndarray]] = {
    "relax.nn.conv2d": _conv,
    "relax.nn.conv2d_transpose": _conv_transpose,
    "relax.matmul": lambda _, a, b: a @ b,
    "relax.add": lambda _, a, b: a + b,
    "relax.multiply": lambda _, a, b: a * b,
    "relax.nn.avg_pool2d": _pool,
    "relax.nn.max_pool2d": _pool,
    "relax.mean": lambda c, x: x.mean(_axes(c), keepdims=bool(c.attrs.keepdims)),
    "relax.permute_dims": lambda c, x: x.transpose([int(a) for a in c.attrs.axes]),
    "relax.reshape": lambda c, x, *_: x.reshape(ir.shape(c)),
}
# What they give, and a magnitude that bounds value and slope times the argument's magnitude.
OTHERS: dict[str, tuple[Callable[..., np.ndarray], Callable[..., np.ndarray]]] = {
    "relax.subtract": (lambda _, a, b: a - b, lambda _, a, b: a + b),
    "relax.divide": (lambda _, a, b: a / b, lambda _, a, b: a / b),  # by constants only
    "relax.maximum": (lambda _, a, b: np.maximum(a, b), lambda _, a, b: np.maximum(a, b)),
    "relax.minimum": (lambda _, a, b: np.minimum(a, b), lambda _, a, b: np.maximum(a, b)),
    "relax.negative": (lambda _, a: -a, lambda _, a: a),
    "relax.nn.relu": (lambda _, a: np.maximum(a, 0), lambda _, a: a),
    "relax.nn.relu6": (lambda _, a: np.clip(a, 0, 6), lambda _, a: a),
    "relax.clip": (
        lambda c, a, *_: np.clip(a, *(ir.scalar(bound) for bound in c.args[1:3])),
        lambda c, a, *_: a + max(abs(ir.scalar(bound)) for bound in c.args[1:3]),
    ),
    "relax.sigmoid": (lambda _, a: scipy.special.expit(a), lambda _, a: a + 1),
    "relax.tanh": (lambda _, a: np.tanh(a), lambda _, a: a),
    "relax.nn.silu": (lambda _, a: a * scipy.special.expit(a), lambda _, a: a * (a + 1)),
    "relax.nn.gelu": (lambda _, a: _gelu(a), lambda _, a: 1.2 * a + 1),
    "relax.nn.gelu_tanh": (lambda _, a: _gelu_tanh(a), lambda _, a: 1.2 * a + 1),
    "relax.nn.leakyrelu": (_leaky, lambda _, a: a),
    "relax.nn.prelu": (_leaky, lambda _, a, s: a * np.maximum(np.abs(s), 1)),
    # Its slope is at most 1/4, and it is a share of 1.
    "relax.nn.softmax": (
        lambda c, a: scipy.special.softmax(a, int(c.attrs.axis)),
        lambda c, a: 2 * a.max(int(c.attrs.axis), keepdims=True) + np.ones_like(a),
    ),
}


def _roundings(call: relax.Call) -> int:
    """Return how many roundings stand between an operand and the result at most."""
    shapes = [ir.shape(arg) for arg in call.args if isinstance(arg.ty, relax.TensorType)]
    if ir.is_call_to(call, "relax.nn.conv2d", "relax.nn.conv2d_transpose"):
        return int(np.prod(shapes[1])) // min(shapes[1])
    if ir.is_call_to(call, "relax.matmul"):
        return shapes[0][-1]
    if ir.is_call_to(call, "relax.mean", "relax.nn.avg_pool2d", "relax.nn.softmax"):
        return int(np.prod(shapes[0]))
    return FUNCTION


def evaluate(mod: tvm.IRModule, *inputs: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return each output of ``main`` in float64 and the bound of its error."""
    names: dict[relax.Var, Value] = {}
    roundings = 0

    def get_value(expr: relax.Expr) -> Value:
        if isinstance(expr, relax.Var):
            return names[expr]
        held = ir.constant(expr).astype(np.float64)
        return Value(held, np.abs(held))

    func = mod["main"]
    for var, data in zip(func.params, inputs, strict=True):
        names[var] = Value(data.astype(np.float64), np.abs(data).astype(np.float64))
    results = []
    for var, value in ir.bindings(func):
        if not isinstance(value, relax.Call):
            fields = value.fields if isinstance(value, relax.Tuple) else [value]
            results = [get_value(field) for field in fields]
            if len(results) == 1:
                names[var] = results[0]
            continue
        args = [get_value(a) for a in value.args if isinstance(a.ty, relax.TensorType)]
        linear = LINEAR.get(value.op.name)
        exact, size = (linear, linear) if linear else OTHERS[value.op.name]
        names[var] = Value(
            exact(value, *(a.exact for a in args)), size(value, *(a.size for a in args))
        )
        roundings += _roundings(value)
    outputs = [names[func.body.body]] if func.body.body in names else results
    gamma = roundings * 2.0**-24 / (1 - roundings * 2.0**-24)
    return [(out.exact, gamma * out.size) for out in outputs]


@pytest.fixture
def execute(tmp_path: Path, here: CpuTarget) -> Callable[..., tuple[list[np.ndarray], list[str]]]:
    """Lower, build and run; return the outputs and the kernels' names."""

    def execute_(
        mod: tvm.IRModule, *inputs: np.ndarray, **options: Any
    ) -> tuple[list[np.ndarray], list[str]]:
        result, names = lowered(mod, target=here, **options)
        path = codegen.build(result, here, codegen.BuildMeta()).save(tmp_path / "model.so")
        with tvmopt.runtime.open(path) as net:
            got = net({spec.name: x for spec, x in zip(net.inputs, inputs, strict=True)})
        return list(got.values()) if isinstance(got, dict) else [got], names

    return execute_


@pytest.fixture
def check(execute: Callable[..., tuple[list[np.ndarray], list[str]]]) -> Callable[..., list[str]]:
    """Lower, build, run, compare with the reference; return the kernels' names."""

    def check_(mod: tvm.IRModule, *, of_peak: float = 0.0, **options: Any) -> list[str]:
        inputs = [array(*ir.shape(var), seed=20 + i) for i, var in enumerate(mod["main"].params)]
        found, names = execute(mod, *inputs, **options)
        for out, (exact, bound) in zip(found, evaluate(mod, *inputs), strict=True):
            assert out.shape == exact.shape
            error = np.abs(out - exact)
            allowed = bound + of_peak * np.abs(exact).max() + 1e-30
            assert not np.isnan(out).any()
            assert (error <= allowed).all(), f"off by {(error / allowed).max():.1f} times the bound"
        return names

    return check_


@pytest.fixture(scope="session")
def kit(here: CpuTarget) -> SimpleNamespace:
    """The helpers above, for test files cannot import a conftest."""
    return SimpleNamespace(
        AVX2=AVX2,
        HERE=here,
        ISA=isa(here),
        array=array,
        bias=bias,
        const=const,
        conv=conv,
        evaluate=evaluate,
        lowered=lowered,
        module=module,
    )
