"""The table of 256 integers that a chain of functions of one quantized tensor is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.special

from tvmopt import forms
from tvmopt.forms import Affine
from tvmopt.lowering.program import SUM, Arg, Program

SQRT_2, TANH_SLOPE = np.sqrt(2.0), np.sqrt(2 / np.pi)

# Each is evaluated in float64 and rounded once: what float32 arithmetic gives for the first six and
# the root, and the same on every machine for the others, as NumPy's float32 functions are not.
FUNCTIONS: dict[str, Callable[..., np.ndarray]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
    "sqrt": np.sqrt,
    "exp": np.exp,
    "log": np.log,
    "erf": scipy.special.erf,
    "tanh": np.tanh,
    "sigmoid": scipy.special.expit,
    "gelu": lambda x: x / 2 * (1 + scipy.special.erf(x / SQRT_2)),
    "gelu_tanh": lambda x: x / 2 * (1 + np.tanh(TANH_SLOPE * (x + 0.044715 * x**3))),
}


def byte_table(read: Affine, program: Program) -> np.ndarray:
    """Return what ``program`` makes of each byte of a tensor.

    Args:
        read: How the bytes stand for real numbers; one scale.
        program: Steps without inputs, and a quantized output.

    Returns:
        (256,) of the output's dtype; entry i is for the byte i. What is no number becomes the least
        integer.
    """
    assert program.output is not None, "only integers fit a table of bytes"
    assert not program.inputs, "a table is a function of one tensor"
    codes = np.arange(256, dtype=np.uint8).view(read.dtype).astype(np.int64)
    real = (codes - read.zero_point).astype(np.float32) * np.float32(read.scale)
    values: dict[Arg, np.ndarray] = {SUM: real}
    # What a function does at the ends of the range is its own affair, infinities included.
    with np.errstate(all="ignore"):
        for i, (op, args) in enumerate(program.steps):
            operands = [np.float32(arg) if isinstance(arg, float) else values[arg] for arg in args]
            exact = FUNCTIONS[op](*(np.float64(operand) for operand in operands))
            values[f"step {i}"] = np.asarray(exact).astype(np.float32)
        last = np.broadcast_to(values[program.last], codes.shape)
        return forms.quantized(np.where(np.isnan(last), -np.inf, last), program.output)
