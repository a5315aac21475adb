"""The elementwise program behind a site, while it grows and before a kernel's numbers are given."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from tvm import relax

from tvmopt.forms import Affine
from tvmopt.kernels.epilogue import Epilogue, Operand, Requantize, Step

SUM = "sum"  # the accumulator
Arg = float | str  # a constant; or a value: SUM, "operand i" or "step i"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Input:
    """A tensor that the program reads.

    Attributes:
        kind: How its elements follow the output's.
        value: An expression, or an array known now.
        dtype: Its element type.
        integers: What ``value`` was dequantized from, where it is a constant that was.
    """

    kind: Operand
    value: relax.Expr | np.ndarray
    dtype: str = "float32"
    integers: tuple[np.ndarray, Affine] | None = None


@dataclass(slots=True)
class Program:
    """Steps over real numbers; operands keep their place when steps follow.

    Besides the steps of kernels/epilogue.py there is ``dequantize`` (operand, zero point, scale).

    Attributes:
        inputs: The tensors it reads.
        steps: Operation and arguments of each step.
        output: How its last value is quantized; None where it stays float32.
    """

    inputs: list[Input] = field(default_factory=list)
    steps: list[tuple[str, tuple[Arg, ...]]] = field(default_factory=list)
    output: Affine | None = None

    def step(self, op: str, *args: Arg) -> Arg:
        """Append a step and return its value."""
        self.steps.append((op, args))
        return f"step {len(self.steps) - 1}"

    def operand(self, value: Input) -> Arg:
        """Append an input and return its value."""
        self.inputs.append(value)
        return f"operand {len(self.inputs) - 1}"

    @property
    def last(self) -> Arg:
        """The value that the program ends with."""
        return f"step {len(self.steps) - 1}" if self.steps else SUM

    def copy(self) -> Program:
        """Return the program as it is now."""
        return Program(list(self.inputs), list(self.steps), self.output)

    @property
    def tensors(self) -> tuple[relax.Expr | np.ndarray, ...]:
        """The inputs' values, as a kernel takes them."""
        return tuple(read.value for read in self.inputs)

    def epilogue(self) -> Epilogue:
        """Return the program for an accumulator of float32."""
        new = Program(list(self.inputs))
        values: dict[Arg, Arg] = {}
        for i, (op, args) in enumerate(self.steps):
            args = tuple(values.get(arg, arg) for arg in args)
            if op == "dequantize":
                values[f"step {i}"] = dequantized(new, args, "mul")
            else:
                values[f"step {i}"] = new.step(op, *args)
        if self.output is None:
            return new.numbered(None)
        last = values.get(self.last, SUM)
        new.step("mul", last, 1.0 / float(self.output.scale))
        return new.numbered(requantize(self.output))

    def numbered(self, output: Requantize | None) -> Epilogue:
        """Return the kernel's form of steps that are all its own."""

        def number(arg: Arg) -> int | float:
            if isinstance(arg, float):
                return arg
            if arg == SUM:
                return 0
            kind, place = arg.split()
            return int(place) + (1 if kind == "operand" else 1 + len(self.inputs))

        return Epilogue(
            tuple(read.kind for read in self.inputs),
            tuple(Step(op, tuple(number(a) for a in args)) for op, args in self.steps),
            tuple(read.dtype for read in self.inputs),
            output,
        )


def dequantized(program: Program, args: tuple[Arg, ...], multiply: str) -> Arg:
    """Append ``(operand - zero point) * scale`` and return its value.

    Args:
        program: Gets the steps.
        args: Operand, zero point, scale.
        multiply: "mul", or "scale" where its rounding must be kept apart.
    """
    operand, zero, scale = args
    value = program.step("sub", operand, zero) if zero else operand
    return program.step(multiply, value, scale)


def requantize(how: Affine) -> Requantize:
    """Return the last rounding to integers of ``how``, over their whole range."""
    return Requantize(dtype=how.dtype, zero_point=int(how.zero_point), low=how.low, high=how.high)
