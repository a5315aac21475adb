"""The fastest loop there is: multiply-adds in registers that touch no memory.

How long it takes says what share of the core's peak another kernel reaches. It is part of every
artefact, so that the peak is measured with the instructions that the artefact's kernels may use,
on the core that runs them.

Source: the method of A. Fog, "The microarchitecture of Intel, AMD and VIA CPUs": independent
chains cover the latency of the multiply-add, at least latency x issue rate of them, 4 x 2 mostly.
"""

from __future__ import annotations

from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812  (TVM's own name for it)

from tvmopt.kernels.vector import Vector, bind, parameters, prim_func
from tvmopt.targets.description import CpuTarget

ROUNDS = 4096  # some 10 us: the call and the loads around the loop do not count
OPERANDS = 2  # registers beside the chains: the factor, and one for LLVM


def chains(target: CpuTarget) -> int:
    """Return the chains that fit the registers beside the operands, a multiple of 4."""
    return max(target.vector_registers - OPERANDS, 4) // 4 * 4


def peak_floats(target: CpuTarget) -> int:
    """Return the floats in each of the kernel's two arrays."""
    return chains(target) * target.lanes(32)


def peak_flops(target: CpuTarget) -> int:
    """Return the floating-point operations of one call; a multiply-add is two."""
    return 2 * ROUNDS * peak_floats(target)


def peak(target: CpuTarget, name: str) -> tirx.PrimFunc:
    """Return ``name(x: (floats,), y: (floats,))``, floats = chains * lanes.

    With s the rows of ``x`` as (chains, lanes) and f the first of them, ``y`` is s after ROUNDS
    rounds of ``s[i] += f * s[(i + 1) % chains]`` for each i in turn.
    """
    vector = Vector(target.lanes(32))

    def body() -> None:
        floats = (peak_floats(target),)
        x, y = parameters(("x", floats), ("y", floats))
        factor = bind(vector.load(x, 0))
        # One buffer a chain: TVM puts those of up to 1024 bytes on the stack, LLVM in registers.
        sums = [T.alloc_buffer((vector.lanes,), "float32") for _ in range(chains(target))]
        for i, one in enumerate(sums):
            vector.store(one, vector.load(x, i * vector.lanes), 0)
        with T.serial(ROUNDS):
            # The other factor changes too, else LLVM would move the product out of the loop; and
            # a sum is the addend, which is the operand that Arm's instruction overwrites.
            for one, other in zip(sums, [*sums[1:], sums[0]], strict=True):
                value = vector.load(one, 0) + factor * vector.load(other, 0)
                vector.store(one, value, 0)
        for i, one in enumerate(sums):
            vector.store(y, vector.load(one, 0), i * vector.lanes)

    return prim_func(name, body, {})
