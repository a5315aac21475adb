"""Kernels compiled and run on guarded arrays, float64 references that carry their error, assembly.

The bounds are running error analysis: every value of a reference is its exact float64 result beside
the most that any float32 evaluation of it may be off. u = 2**-24 is the unit roundoff.
Source: N. J. Higham, "Accuracy and stability of numerical algorithms", 2nd ed. (2002), section 3.3;
for sums and products of any order section 3.1: |error| <= gamma_k * sum |x| |w|, gamma_k =
k * u / (1 - k * u). A fused multiply-add rounds once where the bound allows twice.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.special
import tvm
from tvm import tirx

from tvmopt.kernels.conv import ConvSite
from tvmopt.kernels.epilogue import Epilogue, Operand
from tvmopt.kernels.vector import Vector, parameters, prim_func
from tvmopt.targets import get
from tvmopt.targets.description import CpuTarget

U = 2.0**-24
GUARD = 64  # floats of NaN before and after every array

AVX2 = get("x86-64-v3")
AVX512 = get("x86-64-v4")
NEON = get("cortex-a76-pi5")


def gamma(k: int) -> float:
    """Return the relative bound of k roundings."""
    return k * U / (1 - k * U)


@dataclass(frozen=True)
class Bounded:
    """Exact values and the largest error that float32 may make of each, both float64."""

    value: np.ndarray
    error: np.ndarray | float = 0.0

    @classmethod
    def dot(
        cls, product: Callable[..., np.ndarray], x: np.ndarray, w: np.ndarray, k: int
    ) -> Bounded:
        """Return ``product(x, w)``, each element a sum of at most k products."""
        x, w = x.astype(np.float64), w.astype(np.float64)
        return cls(product(x, w), gamma(k) * product(np.abs(x), np.abs(w)))

    def rounded(self, ulps: float = 0.5, absolute: float = 0.0) -> Bounded:
        """Return the same after one more operation that is off by so many units of the last place.

        A unit of the last place is at most 2u of the value.
        """
        largest = np.abs(self.value) + self.error
        return Bounded(self.value, self.error + 2 * ulps * U * largest + absolute + 1e-45)

    def check(self, got: np.ndarray) -> None:
        """Fail where ``got`` is off by more than the bound."""
        excess = np.abs(got - self.value) - self.error
        assert not np.isnan(got).any(), f"{np.isnan(got).sum()} of {got.size} are NaN"
        assert excess.max() <= 0, f"off by {excess.max():.1e} more than the bound"


def _linear(
    function: Callable[[np.ndarray], np.ndarray], slope: float, **off: float
) -> Callable[[Bounded], Bounded]:
    """Return a function of one value whose derivative is at most ``slope``."""
    return lambda a: Bounded(function(a.value), slope * a.error).rounded(**off)


def _monotone(
    function: Callable[[np.ndarray], np.ndarray], ulps: float
) -> Callable[[Bounded], Bounded]:
    """Return an increasing function of one value; its error is that at the interval's ends."""

    def apply(a: Bounded) -> Bounded:
        exact = function(a.value)
        ends = function(a.value - a.error), function(a.value + a.error)
        return Bounded(exact, np.maximum(exact - ends[0], ends[1] - exact)).rounded(ulps)

    return apply


def _times(a: Bounded, b: Bounded) -> Bounded:
    spread = np.abs(a.value) * b.error + np.abs(b.value) * a.error + a.error * b.error
    return Bounded(a.value * b.value, spread).rounded()


def _over(a: Bounded, b: Bounded) -> Bounded:
    least = np.abs(b.value) - b.error
    assert np.all(least > 0), "a test must not divide by what may be zero"
    exact = a.value / b.value
    return Bounded(exact, (a.error + np.abs(exact) * b.error) / least).rounded()


# How far each operation is off: the arithmetic ones by half a unit in the last place, the others
# by what tvmopt/kernels/math.py promises (and its own tests check over all of float32).
EXACT: dict[str, Callable[..., Bounded]] = {
    "add": lambda a, b: Bounded(a.value + b.value, a.error + b.error).rounded(),
    "sub": lambda a, b: Bounded(a.value - b.value, a.error + b.error).rounded(),
    "mul": _times,
    "div": _over,
    "max": lambda a, b: Bounded(np.maximum(a.value, b.value), np.maximum(a.error, b.error)),
    "min": lambda a, b: Bounded(np.minimum(a.value, b.value), np.maximum(a.error, b.error)),
    "exp": _monotone(np.exp, 2),
    "log": _monotone(np.log, 2),
    "sqrt": _monotone(np.sqrt, 0.5),
    "sigmoid": _monotone(scipy.special.expit, 3),
    "tanh": _linear(np.tanh, 1, ulps=5e-7 / (2 * U)),
    "erf": _linear(scipy.special.erf, 2 / np.sqrt(np.pi), ulps=5e-7 / (2 * U)),
}


def _gelu(a: Bounded) -> Bounded:
    exact = a.value / 2 * (1 + scipy.special.erf(a.value / np.sqrt(2)))
    # Its slope is at most 1.13; 4e-7 * max(|x|, 1) is what math.gelu promises.
    off = 4e-7 * np.maximum(np.abs(a.value) + a.error, 1)
    return Bounded(exact, 1.13 * a.error + off)


def _gelu_tanh(a: Bounded) -> Bounded:
    inner = np.sqrt(2 / np.pi) * (a.value + 0.044715 * a.value**3)
    # The same slope and promise as gelu's.
    off = 4e-7 * np.maximum(np.abs(a.value) + a.error, 1)
    return Bounded(a.value / 2 * (1 + np.tanh(inner)), 1.13 * a.error + off)


EXACT["gelu"] = _gelu
EXACT["gelu_tanh"] = _gelu_tanh


def after(epilogue: Epilogue, accumulator: Bounded, operands: list[np.ndarray]) -> Bounded:
    """Return what ``epilogue`` makes of an accumulator of shape (..., channels)."""
    values = [accumulator, *(Bounded(array.astype(np.float64)) for array in operands)]
    for step in epilogue.steps:
        args = [
            Bounded(np.float64(np.float32(arg))) if isinstance(arg, float) else values[arg]
            for arg in step.args
        ]
        values.append(EXACT[step.op](*args))
    return values[-1]


def windows(x: np.ndarray, site: Any, fill: float = 0.0) -> np.ndarray:
    """Return what each tap of each output pixel reads: (n, out_h, out_w, c, kh, kw).

    Args:
        x: (n, h, w, c).
        site: Has kernel, strides, pads, dilation and out_size.
        fill: The value of the padding.
    """
    top, left, bottom, right = site.pads
    x = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=fill)
    (kh, kw), (dh, dw), (sh, sw) = site.kernel, site.dilation, site.strides
    span = (dh * (kh - 1) + 1, dw * (kw - 1) + 1)
    seen = np.lib.stride_tricks.sliding_window_view(x, span, (1, 2))
    return seen[:, ::sh, ::sw, :, ::dh, ::dw]


def convolution(x: np.ndarray, weight: np.ndarray, site: ConvSite) -> np.ndarray:
    """Return the NHWC convolution by (o, kh, kw, c / groups), in the arrays' own precision."""
    seen = windows(x, site)
    grouped = seen.reshape(*seen.shape[:3], site.groups, site.group_channels, *site.kernel)
    cut = weight.reshape(site.groups, -1, *weight.shape[1:])
    out = np.einsum("nhwgcij,goijc->nhwgo", grouped, cut, optimize=True)
    return out.reshape(site.output_shape)


def operands(
    epilogue: Epilogue, shape: tuple[int, ...], rng: np.random.Generator
) -> list[np.ndarray]:
    """Return random operands for an output of that shape."""
    shapes = {Operand.CHANNEL: shape[-1:], Operand.TENSOR: shape, Operand.PLANE: shape[-2:]}
    kinds = epilogue.operands
    return [rng.standard_normal(shapes[kind]).astype(np.float32) for kind in kinds]


def build(func: tirx.PrimFunc, target: CpuTarget) -> tvm.runtime.Module:
    """Compile one PrimFunc as codegen does."""
    mod = tvm.IRModule({"kernel": func.with_attr("global_symbol", "kernel")})
    with tvm.transform.PassContext(opt_level=3, config={"tirx.disable_assert": True}):
        return tirx.build(mod, target=target.to_tvm())


class _Guarded:
    """An array with bytes of ones before and behind it, 64-byte aligned: NaN in any float type."""

    def __init__(self, shape: tuple[int, ...], dtype: str, data: np.ndarray | None = None) -> None:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        whole = np.full(size + 8 * GUARD + 64, 0xFF, np.uint8)
        start = 4 * GUARD + -whole.ctypes.data % 64
        self.inner = whole[start : start + size].view(dtype).reshape(shape)
        self.before, self.behind = whole[:start], whole[start + size :]
        if data is not None:
            self.inner[...] = data
        self.tensor = tvm.runtime.from_dlpack(self.inner)

    def untouched(self) -> bool:
        return bool((self.before == 0xFF).all() and (self.behind == 0xFF).all())


def run(target: CpuTarget, func: tirx.PrimFunc, *inputs: np.ndarray) -> np.ndarray:
    """Return the last tensor of a kernel, compiled for ``target``, that is given the others.

    What it never wrote is NaN in a float result, and so is what depends on a read out of bounds.
    """
    return run_outputs(target, func, 1, *inputs)[0]


def run_outputs(
    target: CpuTarget, func: tirx.PrimFunc, count: int, *inputs: np.ndarray
) -> list[np.ndarray]:
    """Return the last ``count`` tensors of a kernel, as ``run`` does."""
    types = [
        (tuple(int(extent) for extent in param.shape), str(param.dtype)) for param in func.params
    ]
    given = [_Guarded(*t, x.reshape(t[0])) for t, x in zip(types[:-count], inputs, strict=True)]
    outputs = [_Guarded(*t) for t in types[-count:]]
    build(func, target)["kernel"](*(x.tensor for x in (*given, *outputs)))
    for out in outputs:
        assert out.untouched(), "the kernel wrote outside its output"
    for x, before in zip(given, inputs, strict=True):
        assert np.array_equal(x.inner.ravel(), before.ravel()), "the kernel wrote to an input"
    return [out.inner.copy() for out in outputs]


def apply(
    target: CpuTarget, epilogue: Epilogue, x: np.ndarray, extra: list[np.ndarray], lanes: int
) -> np.ndarray:
    """Run an epilogue alone on accumulators ``x``, (rows, channels), channels = lanes."""
    rows, channels = x.shape
    vector = Vector(lanes)

    def body() -> None:
        source, *others, y = parameters(("x", x.shape, str(x.dtype)), *epilogue.parameters(x.shape))
        for row in range(rows):
            at = row * channels

            def load(number: int, kind: Operand, at: int = at) -> tirx.Expr:
                return vector.load(others[number], 0 if kind is Operand.CHANNEL else at)

            vector.store(y, epilogue.apply(vector, vector.load(source, at), load), at)

    return run(target, prim_func("epilogue", body, {}), x, *extra)


@dataclass(frozen=True)
class Loop:
    """An innermost loop of a compiled kernel.

    Attributes:
        code: Its instructions, from the label to the jump back.
        stack: How an operand on the stack is spelled in this function.
    """

    code: tuple[str, ...]
    stack: str

    @property
    def spills(self) -> list[str]:
        """Instructions that touch the stack."""
        return [line for line in self.code if re.search(self.stack, line)]

    @property
    def calls(self) -> list[str]:
        """Instructions that call a function."""
        return [line for line in self.code if re.match(r"(call\w*|bl|blr)\b", line)]

    def count(self, pattern: str) -> int:
        """Return how many instructions begin with ``pattern``."""
        return sum(bool(re.match(pattern, line)) for line in self.code)

    def multiply_adds(self, target: CpuTarget) -> int:
        """Return how many instructions multiply and add whole registers of the target."""
        return sum(is_multiply_add(line, target) for line in self.code)


def inner_loops(assembly: str) -> list[Loop]:
    """Return each loop that holds no other: what lies between a label and a jump back to it."""
    found: list[Loop] = []
    for function in re.split(r"\n(?=[A-Za-z_]\w*:)", assembly):
        # Where it is no frame pointer, rbp is a register like any other.
        framed = re.search(r"movq\s+%rsp, %rbp", function)
        stack = r"%rsp|%rbp" if framed else r"%rsp|\bsp\b|\bx29\b"
        lines = [line.split("#")[0].strip() for line in function.splitlines()]
        labels = {line[:-1]: i for i, line in enumerate(lines) if re.match(r"\.LBB\w+:$", line)}
        back = set[tuple[int, int]]()
        for i, line in enumerate(lines):
            jump = re.match(r"[a-z].*(\.LBB\w+)$", line)
            if jump and labels[jump[1]] <= i:
                back.add((labels[jump[1]], i))
        for start, end in sorted(back):
            if not any((s, e) != (start, end) and start <= s and e <= end for s, e in back):
                code = [
                    line
                    for line in lines[start : end + 1]
                    if re.match(r"(\{vex\})?\s*[a-z]\S*", line)
                ]
                found.append(Loop(tuple(code), stack))
    return found


def loops(func: tirx.PrimFunc, target: CpuTarget) -> list[Loop]:
    """Return the innermost loops of a kernel's code."""
    return inner_loops(build(func, target).inspect_source("asm"))


def hot_loops(func: tirx.PrimFunc, target: CpuTarget) -> list[Loop]:
    """Return the innermost loops of a kernel's code that multiply and add vectors."""
    return [loop for loop in loops(func, target) if loop.multiply_adds(target)]


def is_multiply_add(line: str, target: CpuTarget) -> bool:
    """Say whether an instruction is a multiply-add of whole registers of the target."""
    if target.triple.startswith("aarch64"):
        return bool(re.match(r"fmla\s+v\d+\.4s", line))
    return bool(re.match(r"vfn?madd\w+ps\s", line)) and register(target) in line


def register(target: CpuTarget) -> str:
    """Return how the target's widest registers are spelled."""
    return {512: "%zmm", 256: "%ymm"}[target.vector_bits]


@pytest.fixture(scope="session")
def kit(here: CpuTarget) -> SimpleNamespace:
    """The helpers above, for test files cannot import a conftest; kernels run on this machine."""
    return SimpleNamespace(
        AVX2=AVX2,
        AVX512=AVX512,
        Bounded=Bounded,
        EXACT=EXACT,
        HERE=here,
        NEON=NEON,
        U=U,
        after=after,
        apply=partial(apply, here),
        build=build,
        convolution=convolution,
        gamma=gamma,
        hot_loops=hot_loops,
        inner_loops=inner_loops,
        loops=loops,
        operands=operands,
        run=partial(run, here),
        run_outputs=partial(run_outputs, here),
        windows=windows,
    )
