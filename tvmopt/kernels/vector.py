"""Short spellings for the TIR that generators emit: loads, stores and splats of one SIMD width."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T  # noqa: N812  (TVM's own name for it)

from tvmopt.kernels.rows import Rows, rows_of
from tvmopt.targets.description import CpuTarget

Expr: TypeAlias = tirx.Expr


LINE_FLOATS = 16  # float32 values of one cache line of 64 bytes
STACK_BYTES = 16  # to which every ABI of a target aligns the stack


@dataclass(frozen=True, slots=True)
class Vector:
    """Values of ``lanes`` elements of one dtype.

    Attributes:
        lanes: Elements in a value, at least 1.
        dtype: Type of an element.
    """

    lanes: int
    dtype: str = "float32"

    def load(self, buffer: tirx.Buffer, offset: Expr | int) -> Expr:
        """Return ``buffer[offset : offset + lanes]`` of a flat buffer."""
        return buffer[self._ramp(offset)]

    def store(self, buffer: tirx.Buffer, value: Expr, offset: Expr | int) -> None:
        """Emit ``buffer[offset : offset + lanes] = value``."""
        T.buffer_store(buffer, value, [self._ramp(offset)])

    def splat(self, value: Expr | float) -> Expr:
        """Return a vector of ``lanes`` copies of a scalar."""
        if isinstance(value, int | float):
            value = tirx.const(value, self.dtype)
        return value if self.lanes == 1 else tirx.Broadcast(value, self.lanes)

    def first(self, value: Expr, lanes: int) -> Expr:
        """Return the first ``lanes`` elements of ``value``, a vector of this type."""
        if lanes == self.lanes:
            return value
        return tirx.Shuffle([value], [tirx.const(i, "int32") for i in range(lanes)])

    def joined(self, values: list[Expr]) -> Expr:
        """Return vectors of equal lanes, ``lanes`` in all, side by side in one."""
        if len(values) == 1:
            return values[0]
        return tirx.Shuffle(values, [tirx.const(i, "int32") for i in range(self.lanes)])

    def _ramp(self, offset: Expr | int) -> Expr:
        if isinstance(offset, int):
            offset = tirx.const(offset, "int32")
        return offset if self.lanes == 1 else tirx.Ramp(offset, 1, self.lanes)


def bind(value: Expr) -> Expr:
    """Give ``value`` a name in the emitted code, so that it is computed once."""
    return T.Bind(value)


Parameter: TypeAlias = (
    tuple[str, tuple[int, ...]]
    | tuple[str, tuple[int, ...], str]
    | tuple[str, tuple[int, ...], str, Rows | None]
)


def parameters(*tensors: Parameter) -> list[tirx.Buffer]:
    """Declare the PrimFunc's parameters and return their flat views.

    Args:
        tensors: Name, shape, dtype and place of the rows of each; float32 where no dtype is given,
            and rows one after another where no place is.
    """
    whole = [_declare(*tensor) for tensor in tensors]
    return [_flat(buffer) for buffer in whole]


def _declare(
    name: str, shape: tuple[int, ...], dtype: str = "float32", rows: Rows | None = None
) -> tirx.Buffer:
    if rows is None:
        return T.arg(name, T.buffer(shape, dtype))
    strides = rows.strides(shape)
    return T.arg(name, T.buffer(shape, dtype, strides=strides, align=rows.align))


def _flat(buffer: tirx.Buffer) -> tirx.Buffer:
    """Return the elements from a parameter's first to its last as one axis."""
    shape, rows = tuple(int(extent) for extent in buffer.shape), rows_of(buffer)
    if len(shape) == 1:
        return buffer
    if rows is None:
        return T.decl_buffer((prod(shape),), buffer.dtype, data=buffer.data)
    size = rows.span(shape)
    return T.decl_buffer((size,), buffer.dtype, data=buffer.data, align=rows.align)


def intrinsic(dtype: str, name: str, *args: Expr) -> Expr:
    """Return the result, of type ``dtype``, of LLVM's intrinsic ``name``, without side effects."""
    return tirx.call_llvm_pure_intrin(dtype, name, *args)


def fence(value: Expr) -> Expr:
    """Return ``value`` as rounded: LLVM may not contract it into a multiply-add."""
    return intrinsic(str(value.ty), "llvm.arithmetic.fence", value)


def wrapping(op: str, a: Expr, b: Expr) -> Expr:
    """Return "add", "sub", "mul" or "ashr" of two int32 vectors, modulo 2**32.

    TVM's own operators promise LLVM that no 32-bit integer overflows.
    """
    lanes = int(a.ty.dtype.lanes)
    every = tirx.Broadcast(tirx.const(True, "bool"), lanes)
    return intrinsic(f"int32x{lanes}", f"llvm.vp.{op}", a, b, every, tirx.const(lanes, "int32"))


def cast(value: Expr, dtype: str) -> Expr:
    """Return ``value``, a scalar or a vector, with elements of another type."""
    lanes = int(value.ty.dtype.lanes)
    wanted = dtype if lanes == 1 else f"{dtype}x{lanes}"
    return value if str(value.ty) == wanted else tirx.Cast(wanted, value)


def registers(count: int, dtype: str = "float32") -> tirx.Buffer:
    """Declare values that LLVM will keep in registers, at most 1024 bytes of them.

    TVM 0.27 puts a buffer of at most 1024 bytes on the stack, where LLVM finds it, but only of the
    scope "global": one of "local" becomes a call that allocates, and is stored at every step.
    """
    return T.alloc_buffer((count,), dtype)


def align_stack(lanes: int) -> None:
    """Have the function that is being emitted align its stack to registers of 32-bit ``lanes``.

    Where LLVM finds out late that it must spill registers, it no longer aligns the stack: half of
    them would then lie across the ends of cache lines, where a load has to wait for the store. A
    vector on the stack, which a prefetch keeps there, settles that early.
    """
    if lanes * 4 <= STACK_BYTES:
        return
    held = T.alloc_buffer((1,), f"float32x{lanes}")
    prefetch(held, tirx.const(0, "int32"), 1)


def loop(extent: int, *, parallel: bool = False) -> AbstractContextManager[Expr]:
    """Open a loop of ``extent`` steps, which threads share where it is parallel."""
    return T.parallel(extent) if parallel and extent > 1 else T.serial(extent)


def prefetch(buffer: tirx.Buffer, offset: Expr, floats: int) -> None:
    """Ask for the cache lines of ``floats`` values from ``offset``, to be kept at level 2."""
    for line in range(0, floats, LINE_FLOATS):
        T.evaluate(
            tirx.call_llvm_intrin(
                "void",
                "llvm.prefetch",
                tirx.address_of(buffer[offset + line]),
                tirx.const(0, "int32"),
                tirx.const(2, "int32"),
                tirx.const(1, "int32"),
            )
        )


def isa(target: CpuTarget) -> str:
    """Return the instruction set that a kernel's name ends with, such as ``avx2``."""
    if target.triple.startswith("x86_64"):
        return {512: "avx512f", 256: "avx2"}.get(target.vector_bits, "sse")
    return "neon"


def prim_func(name: str, body: Callable[[], None], attrs: Mapping[str, object]) -> tirx.PrimFunc:
    """Return the PrimFunc ``name`` whose parameters and statements ``body`` emits."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(name)
        T.func_attr({"tirx.noalias": True, "tvmopt.kernel": name, **attrs})
        body()
    return builder.get()
