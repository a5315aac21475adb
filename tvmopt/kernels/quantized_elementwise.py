"""Elementwise programs over 8-bit integers that end in 8-bit integers.

Sums of two quantized tensors, products with a gate for each channel, and what follows them. The
integers of one tensor are the accumulator of an epilogue, the other tensors are its operands.

Source: none; derived here.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812  (TVM's own name for it)

from tvmopt.kernels import cost
from tvmopt.kernels.blocks import worth_threads
from tvmopt.kernels.epilogue import Epilogue, Operand
from tvmopt.kernels.vector import Expr, Vector, bind, cast, loop, parameters, prim_func
from tvmopt.targets.description import CpuTarget

REGISTERS = 4  # of float32 at once: their integers fill one register
CHUNK = 4096  # elements that a thread takes at once, where rows do not matter
LOAD_STEPS = 4  # elementwise steps that a load, its conversion, rounding and packing stand for


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizedElementwiseSite:
    """An elementwise program whose first input is integers.

    Attributes:
        shape: Of the input and the output; channels are the last axis.
        dtype: Of the input, "uint8" or "int8".
        zero_point: The input's integer that stands for 0; the accumulator is what exceeds it.
        epilogue: The program.
    """

    shape: tuple[int, ...]
    dtype: str
    zero_point: int
    epilogue: Epilogue

    @property
    def runs(self) -> tuple[int, int]:
        """Runs of contiguous elements and the length of one: a pixel, if channels matter."""
        size = prod(self.shape)
        if Operand.CHANNEL in self.epilogue.operands:
            return size // self.shape[-1], self.shape[-1]
        length = min(CHUNK, size)
        return -(-size // length), length


def cycles(site: QuantizedElementwiseSite, target: CpuTarget) -> float:
    """Return the predicted cycles of one core: the steps of all registers, or memory."""
    runs, length = site.runs
    inputs = 1 + len(site.epilogue.operands)
    steps = len(site.epilogue.steps) + LOAD_STEPS * inputs
    work = runs * (-(-length // target.lanes(32)) * steps * cost.STEP_CYCLES + 2)
    operands = site.epilogue.operand_parameters(site.shape)
    moved = sum(prod(shape) * np.dtype(dtype).itemsize for _, shape, dtype, _ in operands)
    moved += prod(site.shape) * (1 + np.dtype(site.epilogue.dtype).itemsize)
    return cost.CALL_CYCLES + max(work, cost.stream_cycles(moved, target))


def quantized_elementwise(
    site: QuantizedElementwiseSite, target: CpuTarget, name: str
) -> tirx.PrimFunc:
    """Return ``name(x, *operands, y)``; shapes as the site says."""
    (runs, length), size = site.runs, prod(site.shape)
    vector = Vector(min(REGISTERS * target.lanes(32), length))

    def body() -> None:
        x, *operands, y = parameters(
            ("x", site.shape, site.dtype), *site.epilogue.parameters(site.shape)
        )
        parallel = worth_threads(size * (LOAD_STEPS + len(site.epilogue.steps)))
        with loop(runs, parallel=parallel) as run:
            # The last chunk, and the last register of a run, overlap what is before them.
            first = bind(tirx.min(run * length, size - length))
            with T.serial(-(-length // vector.lanes)) as i:
                inner = bind(tirx.min(i * vector.lanes, length - vector.lanes))
                at = first + inner

                def load(number: int, kind: Operand) -> Expr:
                    place = inner if kind is Operand.CHANNEL else at
                    return vector.load(operands[number], place)

                value = cast(vector.load(x, at), "int32")
                if site.zero_point:
                    value = value - Vector(vector.lanes, "int32").splat(site.zero_point)
                vector.store(y, site.epilogue.apply(vector, value, load), at)

    return prim_func(name, body, {"tvmopt.macs": 0})
