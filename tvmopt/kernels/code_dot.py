"""Sums of four products of an unsigned code and a signed byte, in each lane of 32 bits.

``sum[lane] += sum_b code[4 lane + b] * x[b]``, codes of 2 to 8 bits, x in [-127, 127]. Every way is
exact:

* ``vpdpbusd`` adds four products to 32 bits at once;
* ``vpmaddubsw`` adds two to 16 bits, where they may be added up ``capacity`` times before
  ``vpmaddwd`` widens them; a code of 8 bits is two of 4, for one product of it would saturate;
* ``sdot`` multiplies signed bytes: codes of 8 bits are moved by -128, and so is their zero point;
* any other CPU multiplies integers of 32 bits.

Source: Intel 64 and IA-32 Architectures Software Developer's Manual, and Arm A64 Instruction Set
Architecture, for what the instructions do; the capacity is derived here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tvm import tirx

from tvmopt.kernels.vector import Expr, Vector, bind, intrinsic
from tvmopt.kernels.weight_code import WORD, Words, code_bytes, reinterpret, unsigned
from tvmopt.targets.description import CpuTarget

Kind = Literal["vpdpbusd", "vpmaddubsw", "sdot", "plain"]

MOST_X = 127  # the greatest magnitude of an activation

_DPBUSD = {256: "llvm.x86.avx512.vpdpbusd.256", 512: "llvm.x86.avx512.vpdpbusd.512"}
_MADDUBS = {
    128: "llvm.x86.ssse3.pmadd.ub.sw.128",
    256: "llvm.x86.avx2.pmadd.ub.sw",
    512: "llvm.x86.avx512.pmaddubs.w.512",
}
_MADDWD = {
    128: "llvm.x86.sse2.pmadd.wd",
    256: "llvm.x86.avx2.pmadd.wd",
    512: "llvm.x86.avx512.pmaddw.d.512",
}
_SDOT = "llvm.aarch64.neon.sdot.v4i32.v16i8"


def kind(target: CpuTarget, lanes: int) -> Kind:
    """Return the fastest way on ``target`` for values of ``lanes`` words."""
    if lanes * 32 != target.vector_bits:
        return "plain"
    if target.triple.startswith("aarch64"):
        return "sdot" if "dotprod" in target.required else "plain"
    vnni = "avx512vnni" if lanes * 32 == 512 else "avxvnni"
    if vnni in target.required and lanes * 32 in _DPBUSD:
        return "vpdpbusd"
    return "vpmaddubsw" if "ssse3" in target.required else "plain"


def capacity(bits: int) -> int:
    """Return how many sums of two products of a code fit 16 bits."""
    return (2**15 - 1) // (2 * (2**bits - 1) * MOST_X)


@dataclass(frozen=True, slots=True)
class CodeDot:
    """One way of multiplying codes of one width.

    Attributes:
        kind: The instruction.
        bits: Width of a code, 2 to 8.
        lanes: Words of a value.
    """

    kind: Kind
    bits: int
    lanes: int

    @property
    def moved(self) -> int:
        """What is subtracted from each code before it is multiplied."""
        return 128 if self.kind == "sdot" and self.bits == 8 else 0

    @property
    def cycles(self) -> float:
        """Cycles of a row's four products with one register of codes, beside decoding them."""
        return {"vpdpbusd": 0.5, "vpmaddubsw": 0.6 if self.bits < 7 else 1.1, "sdot": 0.5}.get(
            self.kind, 6.0
        )

    def add(
        self,
        sums: list[list[Expr]],
        words: Callable[[int], Words],
        x: Callable[[int, int], Expr],
        steps: range,
    ) -> list[list[Expr]]:
        """Emit the products with the codes of some steps of a block.

        Args:
            sums: (rows, vectors): int32 values to add to.
            words: Gives the words of register v.
            x: Gives four bytes of row i at a step, as one int32.
            steps: Which steps of four codes.

        Returns:
            The new sums.
        """
        if self.kind == "plain":
            return self._plain(sums, words, x, steps)
        if self.kind != "vpmaddubsw":
            return self._direct(sums, words, x, steps)
        halves = (0, 4) if self.bits == 8 else (None,)
        most = capacity(4 if self.bits == 8 else self.bits)
        for nibble in halves:
            for first in range(steps.start, steps.stop, most):
                part = range(first, min(first + most, steps.stop))
                sums = self._widened(sums, words, x, part, nibble)
        return sums

    def _widened(
        self,
        sums: list[list[Expr]],
        words: Callable[[int], Words],
        x: Callable[[int, int], Expr],
        steps: range,
        nibble: int | None,
    ) -> list[list[Expr]]:
        """Add products up in 16 bits over ``steps``, at most ``capacity``, then to ``sums``."""
        short = Vector(2 * self.lanes, "int16")
        factor = short.splat(1 if not nibble else 1 << nibble)
        maddubs, maddwd = _MADDUBS[32 * self.lanes], _MADDWD[32 * self.lanes]
        narrow: list[list[Expr | None]] = [[None] * len(row) for row in sums]
        for step in steps:
            codes = [bind(self._bytes(words(v), step, nibble)) for v in range(len(sums[0]))]
            for i, row in enumerate(narrow):
                left = bind(self._splat(x(i, step)))
                for v, code in enumerate(codes):
                    pairs = intrinsic(f"int16x{2 * self.lanes}", maddubs, code, left)
                    held = row[v]
                    row[v] = bind(pairs if held is None else held + pairs)
        wide = f"int32x{self.lanes}"
        return [
            [
                bind(total + intrinsic(wide, maddwd, held, factor))
                for total, held in zip(row, held_row, strict=True)
            ]
            for row, held_row in zip(sums, narrow, strict=True)
        ]

    def _direct(
        self,
        sums: list[list[Expr]],
        words: Callable[[int], Words],
        x: Callable[[int, int], Expr],
        steps: range,
    ) -> list[list[Expr]]:
        """Add four products to 32 bits at once."""
        dtype = f"int32x{self.lanes}"
        name = _SDOT if self.kind == "sdot" else _DPBUSD[32 * self.lanes]
        for step in steps:
            codes = [bind(self._bytes(words(v), step, None)) for v in range(len(sums[0]))]
            new: list[list[Expr]] = []
            for i, row in enumerate(sums):
                left = bind(self._splat(x(i, step)))
                new.append(
                    [
                        bind(intrinsic(dtype, name, total, code, left))
                        for total, code in zip(row, codes, strict=True)
                    ]
                )
            sums = new
        return sums

    def _plain(
        self,
        sums: list[list[Expr]],
        words: Callable[[int], Words],
        x: Callable[[int, int], Expr],
        steps: range,
    ) -> list[list[Expr]]:
        """Multiply integers of 32 bits."""
        whole = Vector(self.lanes, "int32")
        for step in steps:
            for byte in range(WORD):
                codes = [
                    bind(unsigned(words(v), self.bits, step * WORD + byte, self.lanes))
                    for v in range(len(sums[0]))
                ]
                for i, row in enumerate(sums):
                    # The byte's sign: up to the top of the word, and down again.
                    high = tirx.shift_left(x(i, step), tirx.const(24 - 8 * byte, "int32"))
                    left = bind(whole.splat(tirx.shift_right(high, tirx.const(24, "int32"))))
                    row[:] = [
                        bind(total + code * left) for total, code in zip(row, codes, strict=True)
                    ]
        return sums

    def _bytes(self, words: Words, step: int, nibble: int | None) -> Expr:
        """Return the codes of a step, or a half of each code of 8 bits, a byte each."""
        codes = code_bytes(words, self.bits, step, self.lanes, nibble)
        moved = reinterpret(codes, "int8", WORD * self.lanes)
        if self.moved:
            moved = tirx.bitwise_xor(moved, Vector(WORD * self.lanes, "int8").splat(-128))
        return moved

    def _splat(self, word: Expr) -> Expr:
        """Return the four bytes of a word in every lane."""
        return reinterpret(Vector(self.lanes, "int32").splat(word), "int8", WORD * self.lanes)
