"""Weights in fewer bits than float32, and how registers of them become float32 again.

A panel is cut along k into blocks. The codes of a block lie in rows of 32-bit words, one word for
each column, so that one load brings the codes of as many columns as a register has float lanes, and
a shift and a mask per code line them up for the conversion. In words of integers, byte b of a word
belongs to k = 4 j + b of the block: that is also the order in which instructions that multiply four
bytes and add them up want their operands, so products of floats and of integers read one layout.

Codes whose width does not divide a byte leave bits over in each byte; those hold the last codes of
the block, in pieces: 3 bits are three bytes of two codes each, and the 2 + 2 + 2 bits left over are
the other two codes. A block of 32 codes takes ``bits`` words whatever the width.

Source: E. Frantar et al., "GPTQ", ICLR 2023, for scales of groups and unpacking in registers; the
layout is derived here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from tvm import tirx

from tvmopt.kernels.vector import Expr, Vector, bind, cast, intrinsic
from tvmopt.targets.description import CpuTarget

BLOCK = 32  # codes of a column in a block
WORD = 4  # bytes of a word

Words = Callable[[int], Expr]  # row of a block -> its words for one register of columns, uint32


@dataclass(frozen=True, slots=True)
class Piece:
    """Some bits of a code.

    Attributes:
        row: Which byte of the group of bytes holds them.
        shift: Their place in that byte.
        bits: How many.
        place: Their place in the code.
    """

    row: int
    shift: int
    bits: int
    place: int


def pieces(bits: int) -> list[list[Piece]]:
    """Return where each of 8 codes of that width lies in ``bits`` bytes, 1 <= bits <= 8."""
    whole = 8 // bits
    found = [[Piece(row, bits * i, bits, 0)] for row in range(bits) for i in range(whole)][:8]
    rest = [(row, shift) for row in range(bits) for shift in range(bits * whole, 8)]
    for first in range(0, len(rest), bits):
        taken: list[Piece] = []
        for place, (row, shift) in enumerate(rest[first : first + bits]):
            last = taken[-1] if taken else None
            if last and last.row == row and last.shift + last.bits == shift:
                taken[-1] = Piece(row, last.shift, last.bits + 1, last.place)
            else:
                taken.append(Piece(row, shift, 1, place))
        found.append(taken)
    return found


def pack_bits(codes: np.ndarray, bits: int) -> np.ndarray:
    """Pack unsigned codes.

    Args:
        codes: (p, k, columns), integers in [0, 2^bits - 1].
        bits: Width of a code, 1 to 8.

    Returns:
        uint8 (p, blocks * bits * columns * 4): of each block of 32 k, padded by zeros, ``bits``
        rows of one word a column.
    """
    p, k, columns = codes.shape
    padded = np.pad(codes.astype(np.uint8), ((0, 0), (0, -k % BLOCK), (0, 0)))
    steps = padded.reshape(p, -1, 8, WORD, columns)
    packed = np.zeros((p, steps.shape[1], bits, WORD, columns), np.uint8)
    for step, parts in enumerate(pieces(bits)):
        for part in parts:
            held = (steps[:, :, step] >> part.place) & ((1 << part.bits) - 1)
            packed[:, :, part.row] |= held << part.shift
    return np.ascontiguousarray(packed.swapaxes(3, 4)).reshape(p, -1)


def unsigned(words: Words, bits: int, k: int, lanes: int) -> Expr:
    """Return code k of a block as int32 in [0, 2^bits - 1]."""
    step, byte = divmod(k, WORD)
    parts = [(p.row, 8 * byte + p.shift - p.place, _mask(p)) for p in pieces(bits)[step]]
    return reinterpret(_gathered(words, parts, lanes), "int32", lanes)


def code_bytes(words: Words, bits: int, step: int, lanes: int, nibble: int | None = None) -> Expr:
    """Return the codes 4 step to 4 step + 3 of a block in the bytes of uint32 words.

    Args:
        words: The block.
        bits: Width of a code.
        step: From 0 to 7.
        lanes: Words.
        nibble: 0 or 4: only the four bits from there, of codes of 8 bits.
    """
    if nibble is not None:
        parts = [(step, nibble, 0x0F0F0F0F)]
    else:
        parts = [(p.row, p.shift - p.place, _mask(p) * 0x01010101) for p in pieces(bits)[step]]
    return _gathered(words, parts, lanes)


def _mask(part: Piece) -> int:
    """Return the bits that a piece fills in its code."""
    return ((1 << part.bits) - 1) << part.place


def _gathered(words: Words, parts: list[tuple[int, int, int]], lanes: int) -> Expr:
    """Return the union of rows of words, each shifted right by some bits and masked."""
    whole = Vector(lanes, "uint32")
    total: Expr | None = None
    for row, shift, mask in parts:
        value, by = words(row), whole.splat(abs(shift))
        value = tirx.shift_right(value, by) if shift >= 0 else tirx.shift_left(value, by)
        value = tirx.bitwise_and(value, whole.splat(mask))
        total = value if total is None else tirx.bitwise_or(total, value)
    assert total is not None
    return total


def reinterpret(value: Expr, dtype: str, lanes: int) -> Expr:
    """Return the same bits as ``lanes`` elements of another type."""
    return tirx.reinterpret(dtype if lanes == 1 else f"{dtype}x{lanes}", value)


@dataclass(frozen=True, slots=True)
class IntCode:
    """Integers of one width with a scale, and maybe a zero point, for each group along k.

    Attributes:
        bits: Width, 2 to 8.
        group: Rows of the weight that share a scale: k, or a divisor of k that is a multiple or a
            divisor of 32 and a multiple of 4.
        zero: The code that stands for 0; None where each group and column has its own.
    """

    bits: int
    group: int
    zero: int | None

    block = BLOCK
    entries = 0

    @property
    def name(self) -> str:
        """XNNPACK's grammar: blocks of integers of that width."""
        return f"qb{self.bits}w"

    @property
    def rows(self) -> int:
        """Rows of words of a block."""
        return self.bits

    @property
    def decode_cycles(self) -> float:
        """Cycles of decoding one register of columns: shift, mask, conversion in four pipes."""
        return 0.75 if 8 % self.bits == 0 else 1.2

    def value(self, words: Words, k: int, lanes: int, _table: tirx.Buffer | None) -> Expr:
        """Return code k of a block as float32."""
        return cast(unsigned(words, self.bits, k, lanes), "float32")

    def pack(self, codes: np.ndarray) -> np.ndarray:
        """Return codes (p, k, columns), uint8, as ``value`` finds them: uint8 (p, bytes)."""
        return pack_bits(codes, self.bits)


@dataclass(frozen=True, slots=True)
class HalfCode:
    """Floats of 16 bits.

    A block is one word: that of bfloat16 holds k and k + 1 of a column, that of float16 holds k of
    all columns of a register before their k + 1, for there is an instruction that converts those.

    Attributes:
        dtype: "float16" or "bfloat16".
    """

    dtype: str

    block = 2
    rows = 1
    group = 0
    zero = 0
    entries = 0
    decode_cycles = 0.75

    @property
    def name(self) -> str:
        """XNNPACK's grammar."""
        return {"float16": "f16w", "bfloat16": "bf16w"}[self.dtype]

    def value(self, words: Words, k: int, lanes: int, _table: tirx.Buffer | None) -> Expr:
        """Return weight k of a block as float32."""
        word = words(0)
        if self.dtype == "bfloat16":
            whole = Vector(lanes, "uint32")
            bits = tirx.shift_left(word, whole.splat(16)) if k == 0 else word
            return reinterpret(tirx.bitwise_and(bits, whole.splat(0xFFFF0000)), "float32", lanes)
        both = reinterpret(word, "float16", 2 * lanes)
        half = tirx.Shuffle([both], [tirx.const(k * lanes + i, "int32") for i in range(lanes)])
        return cast(half, "float32")

    def pack(self, weight: np.ndarray, lanes: int) -> np.ndarray:
        """Return a weight (p, k, columns) of ``dtype`` as ``value`` finds it: uint8 (p, bytes)."""
        p, k, columns = weight.shape
        bits = np.pad(weight.view(np.uint16), ((0, 0), (0, k % 2), (0, 0)))
        pairs = bits.reshape(p, -1, 2, columns // lanes, lanes)
        order = (0, 1, 3, 4, 2) if self.dtype == "bfloat16" else (0, 1, 3, 2, 4)
        return np.ascontiguousarray(pairs.transpose(order)).view(np.uint8).reshape(p, -1)


@dataclass(frozen=True, slots=True)
class TableCode:
    """Numbers of entries of a table of floats.

    Attributes:
        bits: Width of a number, 2 to 8.
        permute: Entries that one instruction of the target looks up for a whole register, from a
            register; 0 where each is a load.
    """

    bits: int
    permute: int

    block = BLOCK
    group = 0
    zero = 0

    @property
    def name(self) -> str:
        """In XNNPACK's grammar, for which it has no word: table."""
        return f"qt{self.bits}w"

    @property
    def rows(self) -> int:
        """Rows of words of a block."""
        return self.bits

    @property
    def entries(self) -> int:
        """Entries of the table."""
        return 1 << self.bits

    @property
    def decode_cycles(self) -> float:
        """Cycles of decoding one register of columns, by permutations or by a load for each."""
        if self.entries <= 2 * self.permute:
            return 0.5 + 1.5 * max(1, self.entries // self.permute)
        return 11.0

    def value(self, words: Words, k: int, lanes: int, table: tirx.Buffer | None) -> Expr:
        """Return the entry that code k of a block names."""
        assert table is not None
        number = unsigned(words, self.bits, k, lanes)
        if not self.permute or lanes != self.permute or self.entries > 2 * lanes:
            return table[number]
        return _looked_up(table, bind(number), self.entries, lanes)

    def pack(self, codes: np.ndarray) -> np.ndarray:
        """Return numbers (p, k, columns) as ``value`` finds them: uint8 (p, bytes)."""
        return pack_bits(codes, self.bits)


WeightCode: TypeAlias = IntCode | HalfCode | TableCode

_PERMUTE = {8: "llvm.x86.avx2.permps", 16: "llvm.x86.avx512.permvar.sf.512"}


def _looked_up(table: tirx.Buffer, number: Expr, entries: int, lanes: int) -> Expr:
    """Return entries of a table of one or two registers; the instruction reads the low bits."""
    vector, whole = Vector(lanes), Vector(lanes, "int32")

    def part(first: int) -> Expr:
        held = vector.load(table, first)
        return intrinsic(f"float32x{lanes}", _PERMUTE[lanes], held, number)

    if entries <= lanes:
        return part(0)
    return tirx.Select(number < whole.splat(lanes), part(0), part(lanes))


def permuted_entries(target: CpuTarget) -> int:
    """Return how many floats an instruction of the target looks up in a register, 0 for none."""
    lanes = target.lanes(32)
    return lanes if target.triple.startswith("x86_64") and lanes in _PERMUTE else 0
