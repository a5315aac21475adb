"""How a CPU multiplies short integers and adds them up: one step of an integer product.

A step takes a group of neighbouring values of k from one row of the activation, which is broadcast,
and as many from every column of the weights, and adds their products to 32-bit sums::

    sums[j] += sum_g x[g] * w[j, g]        for every lane j

All of them are exact: none is chosen where a 16-bit intermediate could overflow.

Sources: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2 (PMADDUBSW, PMADDWD,
VPDPBUSD); Arm Architecture Reference Manual for A-profile, C7.2 (SDOT, USDOT).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tvm import tirx

from tvmopt.kernels.vector import Expr, Vector, bind, cast, intrinsic, wrapping
from tvmopt.targets.description import CpuTarget

UNSIGNED_HIGH = 255  # greatest value of an activation as PMADDUBSW reads it
INT16_HIGH = 2**15 - 1
# Two products of a pair meet in 16 bits: 2 * 255 * 64 = 32640.
PAIR_LIMIT = INT16_HIGH // (2 * UNSIGNED_HIGH)


@dataclass(frozen=True, kw_only=True, slots=True)
class Dot:
    """One way to do a step.

    Attributes:
        name: The instruction, in lower case.
        group: Values of k that one step takes.
        activation: Type of an activation as the instruction reads it.
        weight: Type of a weight as packed.
        lanes: 32-bit sums of one register.
        multiplies: Instructions that multiply, a step and a register of sums.
        instructions: Instructions in all, a step and a register of sums.
        depth: Steps whose results are added in 16 bits before they are widened; 1 for none.
        chained: Whether these steps follow each other without a loop; their sums then never leave
            registers, and which weights they may have is decided one by one (bins.py).
    """

    name: str
    group: int
    activation: str
    weight: str
    lanes: int
    multiplies: float
    instructions: float
    depth: int = 1
    chained: bool = False

    @property
    def narrow(self) -> bool:
        """Whether sums are kept in 16 bits over a loop of steps."""
        return self.depth > 1 and not self.chained

    @property
    def key(self) -> str:
        """What a kernel's name says of it."""
        return f"{self.name}x{self.depth}" if self.depth > 1 else self.name


def choose_dot(target: CpuTarget, largest: int) -> Dot:
    """Return the fastest exact way on ``target``.

    Args:
        target: The machine.
        largest: Largest magnitude of a weight, at most 2**15 - 1.
    """
    lanes, has = target.lanes(32), set(target.required)
    if largest > 128:  # weights beyond 8 bits: an asymmetric grid whose zero point is far off
        return wide_dot(target)
    if ("avx512vnni" in has and target.vector_bits >= 256) or "avxvnni" in has:
        return _dot("vpdpbusd", "uint8", lanes)
    if "i8mm" in has:
        return _dot("usdot", "uint8", lanes)
    if "dotprod" in has:
        return _dot("sdot", "int8", lanes)
    if largest <= PAIR_LIMIT and has >= _PAIRS.get(target.vector_bits, {"never"}):
        return _pairs(lanes, max(1, INT16_HIGH // (2 * UNSIGNED_HIGH * max(1, largest))))
    # In memory 8 bits are enough: a load widens them.
    return replace(wide_dot(target), weight="int8")


def chained_dot(target: CpuTarget, largest: int) -> Dot | None:
    """Return the way that adds two steps up in 16 bits, for weights of 7 bits.

    None where another is as good: where one step alone fits 16 bits always, and two seldom do not.
    """
    plain = choose_dot(target, largest)
    if plain.name != "pmaddubsw" or plain.depth > 1:
        return None
    # Of two steps: two products, one sum of 16 bits, one widening and one of 32; and what the
    # longer loop body costs besides, measured on Zen 3.
    return replace(plain, multiplies=1.5, instructions=2.75, depth=2, chained=True)


def evenly(dot: Dot, steps: int) -> Dot:
    """Return ``dot`` with a depth that divides ``steps`` where one is nearly as great.

    All loops between two widenings are then of one length, known at compile time.
    """
    if not dot.narrow:
        return dot
    least = -(-3 * dot.depth // 4)
    depths = [d for d in range(dot.depth, least - 1, -1) if steps % d == 0]
    return replace(dot, depth=depths[0]) if depths else dot


_PAIRS = {512: {"avx512bw"}, 256: {"avx2"}, 128: {"ssse3"}}
_MAX_DEPTH = 16  # more steps between two widenings save nothing that could be measured


def _dot(name: str, activation: str, lanes: int) -> Dot:
    return Dot(
        name=name,
        group=4,
        activation=activation,
        weight="int8",
        lanes=lanes,
        multiplies=1,
        instructions=1,
    )


def _pairs(lanes: int, depth: int) -> Dot:
    narrow = depth > 1
    return Dot(
        name="pmaddubsw",
        group=4,
        activation="uint8",
        weight="int8",
        lanes=lanes,
        multiplies=1 if narrow else 2,
        instructions=2 if narrow else 3,
        depth=min(depth, _MAX_DEPTH),
    )


def wide_dot(target: CpuTarget) -> Dot:
    """Return the way on ``target`` that multiplies 16-bit integers."""
    lanes = target.lanes(32)
    if target.triple.startswith("x86_64"):
        # AVX-512 without its byte and word instructions has no PMADDWD of 512 bits.
        lanes = min(lanes, 8) if "avx512bw" not in target.required else lanes
        return Dot(
            name="pmaddwd",
            group=2,
            activation="int16",
            weight="int16",
            lanes=lanes,
            multiplies=1,
            instructions=2,
        )
    return Dot(
        name="mla",
        group=1,
        activation="int16",
        weight="int16",
        lanes=lanes,
        multiplies=1,
        instructions=1,
    )


def word(x: tirx.Buffer, offset: Expr, dot: Dot, *, flip: bool) -> Expr:
    """Return the group of activations at ``offset`` in one register, in every lane.

    Args:
        x: Flat activations: uint8 or int8, or int16 where ``dot`` reads that.
        offset: Of the first.
        dot: The instruction.
        flip: Whether 128 is added to (or, the same bits, taken from) each of 8 bits.
    """
    if dot.group == 1:
        return bind(Vector(dot.lanes, "int32").splat(cast(x[offset], "int32")))
    bits = tirx.reinterpret("int32", Vector(dot.group).load(x, offset))
    if flip:
        bits = bits ^ tirx.const(-0x7F7F7F80, "int32")
    whole = Vector(dot.lanes, "int32").splat(bits)
    return bind(tirx.reinterpret(f"{dot.activation}x{dot.group * dot.lanes}", whole))


def products(x: Expr, w: Expr, dot: Dot) -> Expr:
    """Return the 16-bit sums of two products each, of a narrow ``dot``."""
    name = {4: "ssse3.pmadd.ub.sw.128", 8: "avx2.pmadd.ub.sw", 16: "avx512.pmaddubs.w.512"}
    return intrinsic(f"int16x{2 * dot.lanes}", f"llvm.x86.{name[dot.lanes]}", x, w)


def widened(pairs: Expr, dot: Dot) -> Expr:
    """Return the 32-bit sums of neighbouring 16-bit ones."""
    ones = Vector(2 * dot.lanes, "int16").splat(tirx.const(1, "int16"))
    return _pmaddwd(pairs, ones, dot)


def step(sums: Expr, x: Expr, w: Expr, dot: Dot) -> Expr:
    """Return ``sums`` and the products of one step; w: a vector of ``group * lanes`` weights."""
    if dot.name == "pmaddubsw":
        return wrapping("add", sums, widened(products(x, w, dot), dot))
    if dot.name == "pmaddwd":
        return wrapping("add", sums, _pmaddwd(x, cast(w, "int16"), dot))
    if dot.name == "mla":
        return wrapping("add", sums, x * cast(w, "int32"))
    return intrinsic(f"int32x{dot.lanes}", _DIRECT[dot.name, dot.lanes], sums, x, w)


_DIRECT = {
    ("vpdpbusd", 16): "llvm.x86.avx512.vpdpbusd.512",
    ("vpdpbusd", 8): "llvm.x86.avx512.vpdpbusd.256",
    ("sdot", 4): "llvm.aarch64.neon.sdot.v4i32.v16i8",
    ("usdot", 4): "llvm.aarch64.neon.usdot.v4i32.v16i8",
}


def _pmaddwd(x: Expr, w: Expr, dot: Dot) -> Expr:
    name = {4: "sse2.pmadd.wd", 8: "avx2.pmadd.wd", 16: "avx512.pmaddw.d.512"}
    return intrinsic(f"int32x{dot.lanes}", f"llvm.x86.{name[dot.lanes]}", x, w)
