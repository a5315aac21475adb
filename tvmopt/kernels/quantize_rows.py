"""Rows of float32 to bytes, each row by its own scale: activations of a dynamic product.

``sx[i] = max(max_k |x[i, k]|, smallest) * f32(1 / 127)``, ``q[i, k] = clip(rint(x[i, k] / sx[i]),
-127, 127)``, rint to even, with the division of float32 itself: bit for bit the graph's own form.

Source: Z. Yao et al., "ZeroQuant", NeurIPS 2022, section 3.2, for scales of rows.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812  (TVM's own name for it)

from tvmopt.kernels import cost
from tvmopt.kernels.vector import (
    Expr,
    Vector,
    bind,
    cast,
    intrinsic,
    loop,
    parameters,
    prim_func,
    registers,
)
from tvmopt.targets.description import CpuTarget

LEVELS = 127
THREAD_VALUES = 32_768  # below, some 5 us, a second thread does not pay
PARTS = 4  # registers of maxima, so that none waits for the last
DIVIDE_CYCLES = 3.5  # a register's division and what is around it; measured on Zen 3
MAX_CYCLES = 0.6  # a register's part in the maximum


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizeRowsSite:
    """A tensor that is quantized row by row.

    Attributes:
        m: Rows.
        k: Values of a row.
        smallest: What the largest magnitude of a row is taken to be at least.
        offset: What is added to each integer: 0, or 128 for products that read unsigned bytes.
    """

    m: int
    k: int
    smallest: float
    offset: int = 0

    @property
    def dtype(self) -> str:
        """Element type of the integers."""
        return "uint8" if self.offset else "int8"


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizeRowsConfig:
    """How the work is cut.

    Attributes:
        lanes: Values of a register.
        parallel: Whether rows are shared out among threads.
    """

    lanes: int
    parallel: bool


def config(site: QuantizeRowsSite, target: CpuTarget) -> QuantizeRowsConfig:
    """Return the analytic choice."""
    return QuantizeRowsConfig(
        lanes=min(target.lanes(32), 1 << (site.k.bit_length() - 1)),
        parallel=site.m * site.k >= THREAD_VALUES,
    )


def cycles(site: QuantizeRowsSite, how: QuantizeRowsConfig, _target: CpuTarget) -> float:
    """Return the predicted cycles of one core: two passes over each row."""
    each = -(-site.k // how.lanes) * (DIVIDE_CYCLES + MAX_CYCLES) + 30
    return cost.CALL_CYCLES + site.m * each


def quantize_rows(site: QuantizeRowsSite, how: QuantizeRowsConfig, name: str) -> tirx.PrimFunc:
    """Return ``name(x: (m, k), q: (m, k), sx: (m, 1))``, the last two its outputs."""
    m, k, lanes = site.m, site.k, how.lanes
    vector = Vector(lanes)
    whole, left = divmod(k, lanes)
    starts = [k - lanes] if left else []  # the last register overlaps the one before it

    def body() -> None:
        x, q, scales = parameters(("x", (m, k)), ("q", (m, k), site.dtype), ("sx", (m, 1)))

        def quantize(place: Expr, scale: Expr) -> None:
            units = intrinsic(_float(lanes), "llvm.rint", vector.load(x, place) / scale)
            held = tirx.max(vector.splat(-float(LEVELS)), tirx.min(units, vector.splat(LEVELS)))
            codes = cast(held, "int32") + Vector(lanes, "int32").splat(site.offset)
            Vector(lanes, site.dtype).store(q, cast(codes, site.dtype), place)

        with loop(m, parallel=how.parallel) as row:
            first = bind(row * k)
            peak = bind(tirx.max(_largest(x, first, k, lanes), vector_const(site.smallest)))
            scale = bind(peak * vector_const(1.0 / LEVELS))
            T.buffer_store(scales, scale, [row])
            divisor = bind(vector.splat(scale))
            with T.serial(whole) as step:
                quantize(first + step * lanes, divisor)
            for start in starts:
                quantize(first + start, divisor)

    return prim_func(name, body, {})


def vector_const(value: float) -> Expr:
    """Return a float32 scalar."""
    return tirx.const(value, "float32")


def _float(lanes: int) -> str:
    return "float32" if lanes == 1 else f"float32x{lanes}"


def _largest(x: tirx.Buffer, first: Expr, k: int, lanes: int) -> Expr:
    """Emit the largest magnitude of ``k`` values from ``first``; NaN does not count."""
    vector = Vector(lanes)
    parts = [registers(lanes) for _ in range(PARTS)]
    for part in parts:
        vector.store(part, vector.splat(0.0), 0)

    def take(part: tirx.Buffer, place: Expr) -> None:
        size = intrinsic(_float(lanes), "llvm.fabs", vector.load(x, place))
        vector.store(part, tirx.max(size, vector.load(part, 0)), 0)

    whole, left = divmod(k, lanes)
    with T.serial(whole // PARTS) as step:
        for i, part in enumerate(parts):
            take(part, first + (step * PARTS + i) * lanes)
    for i in range(whole % PARTS):
        take(parts[i], first + (whole // PARTS * PARTS + i) * lanes)
    if left:
        take(parts[-1], first + k - lanes)
    for part in parts[1:]:
        vector.store(parts[0], tirx.max(vector.load(parts[0], 0), vector.load(part, 0)), 0)
    total = parts[0][0]
    for i in range(1, lanes):
        total = tirx.max(total, parts[0][i])
    return total
