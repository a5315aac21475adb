"""Integers of 4 bits, two a byte, and a run of them as bytes again.

The bytes of a chunk hold its first half in their lower bits and its second half in the upper ones,
each integer as what it is above -8: a shift, a mask and a subtraction give whole registers.

Source: none; derived here.
"""

from __future__ import annotations

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812  (TVM's own name for it)

from tvmopt.kernels.vector import Expr, Vector, bind

LOW, HIGH = -8, 7  # of an integer of 4 bits
LONGEST = 32  # bytes of a chunk at most
UNPACK_CYCLES = 1.5  # of a register of integers: mask, subtract, store, half of a load and a shift


def chunk_bytes(count: int) -> int:
    """Return the bytes of a chunk of a run of ``count`` integers, a multiple of 2."""
    size = LONGEST
    while count % (2 * size):
        size //= 2
    return size


def fits(codes: np.ndarray) -> bool:
    """Say whether integers of any shape have 4 bits each."""
    return bool(codes.min() >= LOW) and bool(codes.max() <= HIGH)


def pack(codes: np.ndarray) -> np.ndarray:
    """Return runs of integers, (runs, count) in [-8, 7], two a byte: uint8 (runs, count / 2)."""
    assert fits(codes), "each integer has 4 bits"
    runs, count = codes.shape
    size = chunk_bytes(count)
    above = (codes.astype(np.int16) - LOW).astype(np.uint8).reshape(runs, -1, 2, size)
    return np.ascontiguousarray(above[:, :, 0] | above[:, :, 1] << 4).reshape(runs, count // 2)


def unpacked(packed: tirx.Buffer, start: Expr, count: int) -> tirx.Buffer:
    """Emit a run of ``count`` integers as int8 in memory of their own, and return that.

    Args:
        packed: Flat, as ``pack`` gives it.
        start: Where the run begins there, bytes.
        count: Integers of the run, as ``pack`` had them.
    """
    out, size = T.alloc_buffer((count,), "int8"), chunk_bytes(count)
    both, vector = Vector(size, "uint8"), Vector(size, "int8")
    with T.serial(count // (2 * size)) as chunk:
        pair = bind(both.load(packed, start + chunk * size))
        lower = tirx.bitwise_and(pair, both.splat(tirx.const(15, "uint8")))
        upper = tirx.shift_right(pair, both.splat(tirx.const(4, "uint8")))
        for half, above in enumerate((lower, upper)):
            kind = "int8" if size == 1 else f"int8x{size}"
            value = tirx.reinterpret(kind, above) + vector.splat(tirx.const(LOW, "int8"))
            vector.store(out, value, (chunk * 2 + half) * size)
    return out
