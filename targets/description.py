"""What the rest of tvmopt may know about a machine."""

from __future__ import annotations

from dataclasses import dataclass

import tvm
from tvm.target.codegen import llvm_is_valid_cpu

from tvmopt.errors import TargetError


@dataclass(frozen=True, kw_only=True, slots=True)
class CpuTarget:
    """One CPU, as a buyer would describe it and as LLVM names it.

    Attributes:
        name: The key in ``tvmopt.targets.TARGETS``; lower case, parts joined by dashes.
        triple: LLVM target triple.
        cpu: LLVM CPU name, the value of ``-mcpu``.
        features: LLVM features beyond those the CPU name implies, each with its sign.
        required: Features, as LLVM spells them, that a CPU must have to run the code; the
            artefact checks them before it touches a kernel.
        cores: Cores that may run kernels at once.
        vector_bits: Width of one SIMD register, bits.
        vector_registers: SIMD registers that the instruction set names.
        fma_per_cycle: Vector fused multiply-adds that one core starts in a cycle.
        l1d_bytes: Level-1 data cache of one core, bytes.
        l2_bytes: Level-2 cache of one core, bytes.
        l3_bytes: Level-3 cache that the cores share, bytes; 0 where there is none.
    """

    name: str
    triple: str
    cpu: str
    features: tuple[str, ...] = ()
    required: tuple[str, ...]
    cores: int
    vector_bits: int
    vector_registers: int
    fma_per_cycle: int
    l1d_bytes: int
    l2_bytes: int
    l3_bytes: int

    def lanes(self, bits: int) -> int:
        """Return how many elements of ``bits`` bits fit one SIMD register, at least 1."""
        return max(self.vector_bits // bits, 1)

    def to_tvm(self) -> tvm.target.Target:
        """Return the TVM target for this machine.

        Raises:
            TargetError: LLVM does not know the CPU; TVM alone logs a line and builds for "generic".
        """
        if not llvm_is_valid_cpu(self.cpu, self.triple):
            raise TargetError(
                f"target {self.name!r}: LLVM knows no cpu {self.cpu!r} for triple {self.triple!r}"
            )
        return tvm.target.Target(
            {
                "kind": "llvm",
                "mtriple": self.triple,
                "mcpu": self.cpu,
                "mattr": list(self.features),
                "num-cores": self.cores,
                "vector-width": self.vector_bits,  # left out, TVM takes 512 for every x86-64
            }
        )
