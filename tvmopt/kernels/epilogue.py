"""What a kernel does to its accumulator before it stores it: a small program of elementwise steps.

Value 0 of the program is the accumulator, values 1 to n the operands, and each step appends one
value; the last value is stored. A bias is an ``add`` of a channel operand, a residual an ``add`` of
a tensor operand, hard swish four steps that read value 0 twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from math import prod

from tvm import tirx

from tvmopt.kernels import math
from tvmopt.kernels.vector import Expr, Vector, bind


class Operand(Enum):
    """How an operand's elements follow the output's.

    Attributes:
        CHANNEL: One element for each output channel (the innermost axis), ``(o,)``.
        TENSOR: One element for each output element, of the output's shape.
        PLANE: One element for each element of the two innermost axes, the same for every batch;
            only products of activations read it.
    """

    CHANNEL = "channel"
    TENSOR = "tensor"
    PLANE = "plane"


@dataclass(frozen=True, slots=True)
class Step:
    """One elementwise operation.

    Attributes:
        op: A key of ``OPS``.
        args: Earlier values that it reads, by number; a float is a constant.
    """

    op: str
    args: tuple[int | float, ...]


@dataclass(frozen=True, slots=True)
class Epilogue:
    """The elementwise program that ends a kernel.

    Attributes:
        operands: The extra tensors that the kernel takes, in order.
        steps: The program; empty stores the accumulator as it is.
    """

    operands: tuple[Operand, ...] = ()
    steps: tuple[Step, ...] = ()

    @property
    def name(self) -> str:
        """The steps' names, for a kernel's name; empty for none."""
        return "".join(f"_{step.op}" for step in self.steps)

    def parameters(
        self, output: tuple[int, ...], plane: tuple[int, int] | None = None
    ) -> list[tuple[str, tuple[int, ...]]]:
        """Return name and shape of each operand of a kernel whose output has that shape.

        Args:
            output: Shape of the output.
            plane: Extents of its two innermost axes, where ``output`` is flat.
        """
        inner = output[-2:] if plane is None else plane
        shapes = {
            Operand.CHANNEL: inner[-1:],
            Operand.TENSOR: output,
            Operand.PLANE: (prod(inner),),
        }
        return [(f"e{i}", shapes[kind]) for i, kind in enumerate(self.operands)]

    def apply(
        self, vector: Vector, accumulator: Expr, load: Callable[[int, Operand], Expr]
    ) -> Expr:
        """Return the value to store.

        Args:
            vector: The type of all values.
            accumulator: Value 0.
            load: Gives the elements of the operand of that number (from 0) at the same place.
        """
        values = [accumulator, *(load(i, kind) for i, kind in enumerate(self.operands))]
        for step in self.steps:
            args = [
                vector.splat(arg) if isinstance(arg, float) else values[arg] for arg in step.args
            ]
            values.append(bind(OPS[step.op](*args)))
        return values[-1]


STORE = Epilogue()  # nothing but the store

OPS: dict[str, Callable[..., Expr]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
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
