"""Replace each byte of a tensor by what a table of 256 entries holds for it.

Any function of one 8-bit tensor that gives 8 bits is such a table: rescaling, sigmoid, hard swish,
a chain of them. Where the instruction set shuffles bytes within 16 (``vpshufb``), the table is 16
parts of 16 entries. Part k is looked up at ``x - 16 k``, which gives nothing where that is
negative, and the parts are joined by exclusive or, so that each holds the difference to what those
before it have given::

    part'[k] = part[k] ^ part[k - 1]                     k < 8
    part'[k] = part[k] ^ part[k - 1] ^ part'[k - 8]      k >= 8

The subtraction wraps for the first eight parts, which brings bytes from 128 on into the range that
shuffles, and saturates from there on, which keeps the others out of it: parts k - 7 to k answer for
bytes of part k >= 8, all up to k for the others. It takes half the time of a load for each byte.

Source: XNNPACK, ``x8-lut/avx2.c.in``, for shuffles with subtraction and differences; the recurrence
is derived here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812  (TVM's own name for it)

from tvmopt.kernels import cost
from tvmopt.kernels.blocks import worth_threads
from tvmopt.kernels.vector import Expr, Vector, bind, cast, intrinsic, loop, parameters, prim_func
from tvmopt.targets.description import CpuTarget

ENTRIES = 256
PARTS, PART = 16, 16
WRAPPING = 8  # parts up to which the subtraction wraps
SHUFFLED = 32  # bytes that AVX2 shuffles at once
CHUNK = 4096  # bytes that a thread takes at once; a multiple of every register
SHUFFLED_CYCLES = 0.43  # of a byte; measured on Zen 3
LOADED_CYCLES = 0.86  # of a byte that is looked up by a load of its own; measured on Zen 3


@dataclass(frozen=True, kw_only=True, slots=True)
class LookupSite:
    """A table applied to every byte of a tensor.

    Attributes:
        size: Elements.
        read: Element type of the input, "uint8" or "int8".
        stored: Element type of the output, "uint8" or "int8".
    """

    size: int
    read: str
    stored: str


@dataclass(frozen=True, kw_only=True, slots=True)
class LookupConfig:
    """How a table is looked up.

    Attributes:
        shuffled: Whether by shuffles of a register, or by one load a byte.
        parallel: Whether threads share the tensor.
    """

    shuffled: bool
    parallel: bool


def config(site: LookupSite, target: CpuTarget) -> LookupConfig:
    """Return the analytic choice for ``site``."""
    wide = target.triple.startswith("x86_64") and target.vector_bits >= 8 * SHUFFLED
    shuffled = wide and site.size >= SHUFFLED
    return LookupConfig(shuffled=shuffled, parallel=worth_threads(4 * site.size))


def cycles(site: LookupSite, how: LookupConfig, target: CpuTarget) -> float:
    """Return the predicted cycles of one core: shuffles or loads, or memory."""
    work = site.size * (SHUFFLED_CYCLES if how.shuffled else LOADED_CYCLES)
    return cost.CALL_CYCLES + max(work, cost.stream_cycles(2 * site.size, target))


def pack(table: np.ndarray, how: LookupConfig) -> np.ndarray:
    """Return a table as the kernel reads it, uint8.

    Args:
        table: (256,) uint8 or int8; entry i is for the byte i, which in an int8 tensor stands for
            ``i - 256`` from 128 on.
        how: The kernel's configuration.

    Returns:
        (256,), or where it is shuffled (16 * 32,): each part's difference, twice.
    """
    plain = table.view(np.uint8)
    if not how.shuffled:
        return plain.copy()
    parts = plain.reshape(PARTS, PART)
    found = np.zeros_like(parts)
    for k in range(PARTS):
        found[k] = parts[k]
        if k >= 1:
            found[k] ^= parts[k - 1]
        if k >= WRAPPING:
            found[k] ^= found[k - WRAPPING]
    return np.tile(found, (1, SHUFFLED // PART)).reshape(-1)


def lookup(site: LookupSite, how: LookupConfig, name: str) -> tirx.PrimFunc:
    """Return ``name(x: (size,), table, y: (size,))``; the table as ``pack`` returns it."""
    chunk = min(CHUNK, site.size)
    step = SHUFFLED if how.shuffled else 1
    entries = PARTS * SHUFFLED if how.shuffled else ENTRIES

    def body() -> None:
        x, table, y = parameters(
            ("x", (site.size,), site.read),
            ("table", (entries,), "uint8"),
            ("y", (site.size,), site.stored),
        )
        with loop(-(-site.size // chunk), parallel=how.parallel) as task:
            # The last chunk, and the last register of a chunk, overlap what is before them.
            first = bind(tirx.min(task * chunk, site.size - chunk))
            with T.serial(-(-chunk // step)) as i:
                at = first + tirx.min(i * step, chunk - step)
                value = Vector(step, site.read).load(x, at)
                found = _shuffled(table, value) if how.shuffled else _loaded(table, value)
                Vector(step, site.stored).store(y, _as(found, site.stored), at)

    return prim_func(name, body, {"tvmopt.macs": 0})


def _as(value: Expr, dtype: str) -> Expr:
    """Return the same bits as bytes of another type."""
    lanes = int(value.ty.dtype.lanes)
    return T.reinterpret(dtype if lanes == 1 else f"{dtype}x{lanes}", value)


def _loaded(table: tirx.Buffer, value: Expr) -> Expr:
    return table[cast(_as(value, "uint8"), "int32")]


def _shuffled(table: tirx.Buffer, value: Expr) -> Expr:
    """Return 32 entries, int8."""
    vector, signed = Vector(SHUFFLED, "uint8"), f"int8x{SHUFFLED}"
    sixteen = Vector(SHUFFLED, "int8").splat(PART)
    index, found = bind(_as(value, "int8")), None
    for k in range(PARTS):
        part = _as(vector.load(table, k * SHUFFLED), "int8")
        entry = intrinsic(signed, "llvm.x86.avx2.pshuf.b", part, index)
        found = bind(entry if found is None else tirx.bitwise_xor(found, entry))
        if k < WRAPPING:
            index = bind(index - sixteen)
        elif k < PARTS - 1:
            index = bind(intrinsic(signed, "llvm.ssub.sat", index, sixteen))
    return found
