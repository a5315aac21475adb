"""The epilogue of an integer product: real steps over an accumulator that counts in small units.

Where everything between the product and the closing quantize commutes with a positive factor (bias,
residuals, relu, clip), all of it is done in steps of the output: one multiplication by
``sx * sw / sy``, and bounds that are integers. Anything else is done on real numbers.

Every rounding to float32 stands for itself: no CPU may fuse a multiplication and an addition.

Source: B. Jacob et al., "Quantization and training of neural networks for efficient
integer-arithmetic-only inference", CVPR 2018, section 2.4; the float32 multiplier is ours.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tvmopt.forms import Affine
from tvmopt.kernels.epilogue import Epilogue, Operand, Requantize
from tvmopt.lowering.program import SUM, Arg, Input, Program, dequantized, requantize

CLIPS = ("max", "min")
INT32_HIGH = 2.0**31


def take_bias(program: Program, unit: np.ndarray, channels: int) -> tuple[Program, np.ndarray]:
    """Return the program without its integer bias, and the bias, (channels,) int64.

    Args:
        program: What follows the product.
        unit: What the accumulator counts in, float32, () or (channels,).
        channels: Output channels.
    """
    none = np.zeros(channels, np.int64)
    if not program.steps or program.steps[0][0] != "add":
        return program, none
    others = [arg for arg in program.steps[0][1] if arg != SUM]
    if len(others) != 1 or not str(others[0]).startswith("operand"):
        return program, none
    read = program.inputs[int(str(others[0]).split()[1])]
    if read.kind is not Operand.CHANNEL or read.integers is None:
        return program, none
    codes, how = read.integers
    same = how.scale.size in (1, channels) and np.array_equal(
        np.broadcast_to(how.scale, channels), np.broadcast_to(unit, channels)
    )
    if how.dtype != "int32" or np.any(how.zero_point) or not same:
        return program, none
    rest = Program(output=program.output)
    values: dict[Arg, Arg] = {"step 0": SUM}
    for i, value in enumerate(program.inputs):
        if value is not read:
            values[f"operand {i}"] = rest.operand(value)
    for i, (op, args) in enumerate(program.steps[1:], start=1):
        values[f"step {i}"] = rest.step(op, *(values.get(arg, arg) for arg in args))
    return rest, np.broadcast_to(codes.astype(np.int64), channels)


def integer_epilogue(
    program: Program, unit: np.ndarray, limit: float
) -> tuple[Epilogue, tuple[Input, ...]]:
    """Return the program for an accumulator of int32, and the tensors that it reads.

    Args:
        program: What follows the product, over real numbers.
        unit: What the accumulator counts in: float64, () or (channels,).
        limit: Largest magnitude that the accumulator can take.
    """
    if program.output is not None and commutes(program):
        return _in_steps(program, program.output, unit, limit)
    new = Program(list(program.inputs))
    values: dict[Arg, Arg] = {SUM: _times(new, SUM, unit)}
    for i, (op, args) in enumerate(program.steps):
        args = tuple(values.get(arg, arg) for arg in args)
        if op == "dequantize":
            values[f"step {i}"] = dequantized(new, args, "scale")
        else:
            values[f"step {i}"] = new.step("scale" if op == "mul" else op, *args)
    if program.output is None:
        return new.numbered(None), tuple(new.inputs)
    new.step("scale", values[program.last], float(np.float32(1 / np.float64(program.output.scale))))
    return new.numbered(requantize(program.output)), tuple(new.inputs)


def commutes(program: Program) -> bool:
    """Say whether the program is a chain of sums and clips: then all of it may be scaled."""
    chain: Arg = SUM
    terms = set[Arg]()
    for i, (op, args) in enumerate(program.steps):
        if op == "dequantize":
            terms.add(f"step {i}")
            continue
        others = [arg for arg in args if arg != chain]
        if len(others) != 1 or len(args) != 2:
            return False
        constant = isinstance(others[0], float)
        sums = op == "add" and (constant or others[0] in terms or _channels(program, others[0]))
        if not sums and not (op in CLIPS and constant):
            return False
        chain = f"step {i}"
    return chain == program.last


def _channels(program: Program, arg: Arg) -> bool:
    """Say whether a value is a constant of one element for each channel."""
    if not str(arg).startswith("operand"):
        return False
    read = program.inputs[int(str(arg).split()[1])]
    return read.kind is Operand.CHANNEL and isinstance(read.value, np.ndarray)


def _in_steps(
    program: Program, output: Affine, unit: np.ndarray, limit: float
) -> tuple[Epilogue, tuple[Input, ...]]:
    """Return the epilogue that counts in steps of the output from its first operation on."""
    step = np.float64(output.scale)
    new = Program([_scaled(read, step) for read in program.inputs])
    # Above 2**31 the conversion to integers would not saturate; every term adds to the bound.
    bound = limit * float(np.max(unit)) / float(step)
    bound += sum(
        float(np.max(np.abs(read.value)))
        for read in new.inputs
        if isinstance(read.value, np.ndarray)
    )
    first_clip = _first_of_last_clips(program)
    values: dict[Arg, Arg] = {SUM: _times(new, SUM, unit / step)}
    for i, (op, args) in enumerate(program.steps[:first_clip]):
        if op == "dequantize":
            operand, zero, scale = args
            assert isinstance(scale, float), "a residual has one scale"
            ratio = float(np.float32(np.float64(np.float32(scale)) / step))
            bound += 2.0**16 * ratio
            values[f"step {i}"] = dequantized(new, (operand, zero, ratio), "scale")
            continue
        scaled = [
            float(np.float32(arg / step)) if isinstance(arg, float) else values.get(arg, arg)
            for arg in args
        ]
        bound += sum(abs(arg) for arg in scaled if isinstance(arg, float))
        values[f"step {i}"] = new.step(op, *scaled)
    last = replace(_clipped(program, output, first_clip), bounded=bound < INT32_HIGH)
    return new.numbered(last), tuple(new.inputs)


def _scaled(read: Input, step: np.float64) -> Input:
    """Return an input in steps of the output; residuals are scaled by their own step."""
    if read.kind is not Operand.CHANNEL or not isinstance(read.value, np.ndarray):
        return read
    return replace(read, value=(read.value.astype(np.float64) / step).astype(np.float32))


def _first_of_last_clips(program: Program) -> int:
    """Return the first step behind which all are clips."""
    first = len(program.steps)
    while first and program.steps[first - 1][0] in CLIPS:
        first -= 1
    return first


def _clipped(program: Program, output: Affine, first: int) -> Requantize:
    """Return the last rounding, with the clips from step ``first`` on as bounds on integers."""
    how = requantize(output)
    low, high = -np.inf, np.inf
    for op, args in program.steps[first:]:
        bound = next(arg for arg in args if isinstance(arg, float))
        clip = max if op == "max" else min
        low, high = clip(low, bound), clip(high, bound)

    def integer(real: float) -> int:
        if np.isinf(real):
            return how.high if real > 0 else how.low
        at = np.rint(np.float64(np.float32(real)) / np.float64(output.scale))
        return int(np.clip(at + how.zero_point, how.low, how.high))

    return replace(how, low=integer(low), high=integer(high))


def _times(program: Program, value: Arg, factor: np.ndarray) -> Arg:
    """Append a multiplication by a constant or by one of each channel; return its value."""
    rounded = np.asarray(factor, np.float64).astype(np.float32)
    if rounded.size == 1 or np.all(rounded == rounded.reshape(-1)[0]):
        return program.step("scale", value, float(rounded.reshape(-1)[0]))
    operand = program.operand(Input(kind=Operand.CHANNEL, value=np.ascontiguousarray(rounded)))
    return program.step("scale", value, operand)
