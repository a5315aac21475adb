"""What a kernel does to its accumulator before it stores it: a small program of elementwise steps.

Value 0 of the program is the accumulator, values 1 to n the operands, and each step appends one
value; the last value is stored. A bias is an ``add`` of a channel operand, a residual an ``add`` of
a tensor operand, hard swish four steps that read value 0 twice.

All values are float32. An operand of integers is converted as it is loaded, an accumulator of
integers before the first step, and a kernel that stores integers rounds the last value. ``scale``
stands for ``mul`` where no CPU may contract ``a * b + c`` into one rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from math import prod

import numpy as np
from tvm import tirx

from tvmopt.kernels import math
from tvmopt.kernels.rows import Rows, pitch_of
from tvmopt.kernels.vector import Expr, Parameter, Vector, bind, cast, fence, intrinsic


class Operand(Enum):
    """How an operand's elements follow the output's.

    Attributes:
        CHANNEL: One element for each output channel (the innermost axis), ``(o,)``.
        TENSOR: One element for each output element, of the output's shape.
        PLANE: One element for each element of the two innermost axes, the same for every batch;
            only products of activations read it.
        ROW: One element for each row, the same for every channel; only integer products read it.
        ONE: One element for all, which is known at run time alone; only kernels of integers read
            it.
    """

    CHANNEL = "channel"
    TENSOR = "tensor"
    PLANE = "plane"
    ROW = "row"
    ONE = "one"


@dataclass(frozen=True, slots=True)
class Step:
    """One elementwise operation.

    Attributes:
        op: A key of ``OPS``.
        args: Earlier values that it reads, by number; a float is a constant.
    """

    op: str
    args: tuple[int | float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Requantize:
    """How the last value v becomes an integer: ``clip(rint(v) + zero_point, low, high)``.

    ``rint`` rounds half to even.

    Attributes:
        dtype: "uint8" or "int8".
        zero_point: The integer that stands for 0.
        low: Least integer stored, from the dtype's least.
        high: Greatest integer stored, to the dtype's greatest.
        bounded: Whether ``abs(v) < 2**31`` is certain; if not, v is clipped as a float first.
    """

    dtype: str
    zero_point: int
    low: int
    high: int
    bounded: bool = False

    def apply(self, value: Expr) -> Expr:
        """Return the integers of a float32 value.

        They narrow in the two saturating steps that SIMD units have, 32 to 16 to 8 bits. The zero
        point is added in between, saturating too: no result changes, for beyond 16 bits every
        integer lies outside of 8 bits with it as without.
        """
        lanes = _lanes(value)
        if not self.bounded:
            vector = Vector(lanes)
            low, high = self.low - self.zero_point, self.high - self.zero_point
            value = tirx.max(tirx.min(value, vector.splat(float(high))), vector.splat(float(low)))
        whole = cast(intrinsic(str(value.ty), "llvm.rint", value), "int32")
        short = bind(_saturate(whole, "int16"))
        if self.zero_point:
            zero = Vector(lanes, "int16").splat(self.zero_point)
            short = intrinsic(str(short.ty), "llvm.sadd.sat", short, zero)
        stored, limits = _saturate(short, self.dtype), np.iinfo(self.dtype)
        vector = Vector(lanes, self.dtype)
        if self.low > limits.min:
            stored = tirx.max(stored, vector.splat(self.low))
        return tirx.min(stored, vector.splat(self.high)) if self.high < limits.max else stored


@dataclass(frozen=True, slots=True)
class Epilogue:
    """The elementwise program that ends a kernel.

    Attributes:
        operands: The extra tensors that the kernel takes, in order.
        steps: The program; empty stores the accumulator as it is.
        dtypes: Of the operands, in order; all float32 if empty.
        output: How the last value becomes an integer; None stores float32.
        rows: Where the output's rows lie; None where they follow one another.
        operand_rows: The same of each operand, of which only whole tensors may have it; empty for
            none.
    """

    operands: tuple[Operand, ...] = ()
    steps: tuple[Step, ...] = ()
    dtypes: tuple[str, ...] = ()
    output: Requantize | None = None
    rows: Rows | None = None
    operand_rows: tuple[Rows | None, ...] = ()

    @property
    def name(self) -> str:
        """The steps' names, for a kernel's name; empty for none."""
        return "".join(f"_{step.op}" for step in self.steps)

    @property
    def dtype(self) -> str:
        """Element type of the output."""
        return "float32" if self.output is None else self.output.dtype

    def parameters(
        self, output: tuple[int, ...], plane: tuple[int, int] | None = None
    ) -> list[Parameter]:
        """Return each operand and, last, the output, "y", as ``parameters`` takes them.

        Args:
            output: Shape of the output.
            plane: As ``operand_parameters`` takes it.
        """
        return [*self.operand_parameters(output, plane), ("y", output, self.dtype, self.rows)]

    def operand_parameters(
        self, output: tuple[int, ...], plane: tuple[int, int] | None = None
    ) -> list[tuple[str, tuple[int, ...], str, Rows | None]]:
        """Return each operand of a kernel whose output has that shape.

        Args:
            output: Shape of the output.
            plane: Extents of its two innermost axes, where ``output`` is flat.
        """
        inner = output[-2:] if plane is None else plane
        shapes = {
            Operand.CHANNEL: inner[-1:],
            Operand.TENSOR: output,
            Operand.PLANE: (prod(inner),),
            Operand.ROW: (prod(output[:-1]), 1),
            Operand.ONE: (1,),
        }
        dtypes = self.dtypes or ("float32",) * len(self.operands)
        return [
            (f"e{i}", shapes[kind], dtype, self.rows_of(i))
            for i, (kind, dtype) in enumerate(zip(self.operands, dtypes, strict=True))
        ]

    def rows_of(self, operand: int) -> Rows | None:
        """Return where the rows of the operand of that number (from 0) lie."""
        return self.operand_rows[operand] if self.operand_rows else None

    def store(
        self,
        vector: Vector,
        accumulator: Expr,
        operands: Sequence[tirx.Buffer],
        output: tirx.Buffer,
        place: tuple[Expr, Expr, int],
    ) -> None:
        """Emit the program and the store of some channels of one pixel.

        Args:
            vector: The type of all values.
            accumulator: Value 0, float32 or int32.
            operands: The operands, flat.
            output: The output, flat.
            place: Number of the pixel, first channel, and the channels of a pixel.
        """
        pixel, channel, channels = place

        def at(rows: Rows | None) -> Expr:
            return pixel * pitch_of(rows, channels) + channel

        def load(number: int, kind: Operand) -> Expr:
            if kind is Operand.ONE:
                return vector.splat(operands[number][0])
            whole = kind is not Operand.CHANNEL
            return vector.load(operands[number], at(self.rows_of(number)) if whole else channel)

        vector.store(output, self.apply(vector, accumulator, load), at(self.rows))

    def apply(
        self, vector: Vector, accumulator: Expr, load: Callable[[int, Operand], Expr]
    ) -> Expr:
        """Return the value to store.

        Args:
            vector: The type of all values.
            accumulator: Value 0, float32 or int32.
            load: Gives the elements of the operand of that number (from 0) at the same place.
        """
        last = self.real(vector, accumulator, load)
        return last if self.output is None else self.output.apply(last)

    def real(self, vector: Vector, accumulator: Expr, load: Callable[[int, Operand], Expr]) -> Expr:
        """Return the last value, float32; the arguments are those of ``apply``."""
        loaded = (load(i, kind) for i, kind in enumerate(self.operands))
        values = [_as_float(value) for value in (accumulator, *loaded)]
        for step in self.steps:
            args = [
                vector.splat(arg) if isinstance(arg, float) else values[arg] for arg in step.args
            ]
            values.append(bind(OPS[step.op](*args)))
        return values[-1] if self.steps else values[0]


STORE = Epilogue()  # nothing but the store


def _as_float(value: Expr) -> Expr:
    """Return a value of any type as float32; named, so that it is converted once."""
    return value if str(value.ty).startswith("float32") else bind(cast(value, "float32"))


def _saturate(value: Expr, dtype: str) -> Expr:
    """Return integers clipped to a narrower type, in it."""
    kind, limits = str(value.ty).split("x")[0], np.iinfo(dtype)
    vector = Vector(_lanes(value), kind)
    low, high = vector.splat(int(limits.min)), vector.splat(int(limits.max))
    return cast(tirx.min(tirx.max(value, low), high), dtype)


def _lanes(value: Expr) -> int:
    return int(value.ty.dtype.lanes)


OPS: dict[str, Callable[..., Expr]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "scale": lambda a, b: fence(a * b),
    "div": lambda a, b: a / b,
    "max": tirx.max,
    "min": tirx.min,
    "exp": math.exp,
    "log": math.log,
    "erf": math.erf,
    "tanh": math.tanh,
    "sigmoid": math.sigmoid,
    "gelu": math.gelu,
    "gelu_tanh": math.gelu_tanh,
    "sqrt": tirx.sqrt,
}
