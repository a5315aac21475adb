"""What the executor does, as plain data: the one thing that codegen's two halves share.

The reading half (graph.py, memory.py) makes a plan of a lowered module; the writing half (emit.py)
makes C tables of it. Nothing here knows TVM or C.

A plan is a tuple of blocks of steps; the executor runs block 0. Every shape has a slot of its own
that tensors point to, so that a length known only at run time is one value in one place.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

ALIGNMENT = 64  # bytes; what kernels may assume of every pointer

BITS = {
    "float16": 16,
    "float32": 32,
    "float64": 64,
    "int8": 8,
    "int16": 16,
    "int32": 32,
    "int64": 64,
    "uint8": 8,
    "uint16": 16,
    "uint32": 32,
    "uint64": 64,
    "bool": 8,
}


def align_up(size: int) -> int:
    """Return the least multiple of ``ALIGNMENT`` that is at least ``size``, bytes."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def tensor_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Return the bytes of a dense tensor."""
    return math.prod(shape) * BITS[dtype] // 8


class Space(enum.IntEnum):
    """Which memory a tensor lies in; the numbers are those of internal.h."""

    ARENA = 0
    CONSTANT = 1
    INPUT = 2
    OUTPUT = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a tensor lies.

    Attributes:
        space: Which memory.
        port: Which input or output of the model; 0 in the other spaces.
        offset: Bytes from the start of that memory.
    """

    space: Space
    port: int = 0
    offset: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Port:
    """One input or output of the model."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes of a buffer for it."""
        return tensor_bytes(self.dtype, self.shape)


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernel:
    """One function that steps call.

    Attributes:
        function: The PrimFunc's name in the module, or None for the executor's own copy.
        name: The kernel's name by the house's grammar.
        macs: Multiply-accumulates of one call, or None where lowering did not say.
        cycles: Predicted cycles of one call on one core, or None where lowering did not say.
        parallel: Whether it has a parallel loop.
        scratch: Most workspace that one task of it holds at a time, bytes; 0 where unknown.
    """

    function: str | None
    name: str
    macs: int | None = None
    cycles: int | None = None
    parallel: bool = False
    scratch: int = 0


COPY = Kernel(function=None, name="copy")


@dataclass(frozen=True, kw_only=True, slots=True)
class Argument:
    """One tensor that a step hands to its kernel; ``shape`` is a slot of the plan."""

    place: Place
    dtype: str
    shape: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One kernel call; ``kernel`` is an index into the plan's kernels."""

    layer: str
    kernel: int
    arguments: tuple[Argument, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """Steps that run one after another."""

    steps: tuple[Step, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """All that the executor needs to know.

    Attributes:
        inputs: What the caller gives, in order.
        outputs: What the caller gets, in order.
        kernels: Every kernel, once.
        blocks: Runs of steps; the first is the model's.
        shapes: Every distinct shape, once; the slots that arguments point to.
        constants: The weights, each at a multiple of ``ALIGNMENT``.
        arena_bytes: Memory for activations.
        aliased: Names of the functions that some step calls with an output over an input.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    kernels: tuple[Kernel, ...]
    blocks: tuple[Block, ...]
    shapes: tuple[tuple[int, ...], ...]
    constants: bytes
    arena_bytes: int
    aliased: frozenset[str]

    @property
    def steps(self) -> tuple[Step, ...]:
        """Every step, block by block: a step's number is its index here."""
        return tuple(step for block in self.blocks for step in block.steps)

    @property
    def scratch_bytes(self) -> int:
        """Workspace that each thread needs, as far as kernels say."""
        return max((kernel.scratch for kernel in self.kernels), default=0)
