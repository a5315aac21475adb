"""Arm CPUs with the 64-bit instruction set, seen through NEON: 32 registers of 128 bits.

Sources, unless a target names its own. Caches: Arm's Technical Reference Manual of the core.
Multiply-adds a cycle: Arm's Software Optimization Guide of the core, "ASIMD FP multiply
accumulate". Registers: Arm Architecture Reference Manual (DDI 0487), A1.4. Required: LLVM's feature
list of the CPU name, which a test compares.

Scalable vectors (SVE) are taken away where a core has them: their width is not known when code is
generated. So is complex arithmetic, which LLVM uses by itself and an artefact cannot check.
"""

from tvmopt.targets.description import CpuTarget

_TRIPLE = "aarch64-linux-gnu"

_V8_2 = ("neon", "rdm", "fullfp16", "dotprod")

# Any CPU of Armv8-A. Caches: those of a Cortex-A53 with a small level 2 (DDI 0500), four cores.
AARCH64 = CpuTarget(
    name="aarch64",
    triple=_TRIPLE,
    cpu="generic",
    required=("neon",),
    cores=4,
    vector_bits=128,
    vector_registers=32,
    fma_per_cycle=1,
    l1d_bytes=32 * 1024,
    l2_bytes=128 * 1024,
    l3_bytes=0,
)

# Raspberry Pi 4: BCM2711 ("Raspberry Pi documentation, Processors"); DDI 0488. The four cores share
# a level 2 of 1 MiB, of which this is a quarter. Optimization Guide (UAN 0016).
CORTEX_A72_PI4 = CpuTarget(
    name="cortex-a72-pi4",
    triple=_TRIPLE,
    cpu="cortex-a72",
    required=("neon",),
    cores=4,
    vector_bits=128,
    vector_registers=32,
    fma_per_cycle=1,
    l1d_bytes=32 * 1024,
    l2_bytes=256 * 1024,
    l3_bytes=0,
)

# Raspberry Pi 5: BCM2712 ("Raspberry Pi documentation, Processors"); 100798, A6.1.
# Optimization Guide (PJDOC-466751330-7215).
CORTEX_A76_PI5 = CpuTarget(
    name="cortex-a76-pi5",
    triple=_TRIPLE,
    cpu="cortex-a76",
    required=_V8_2,
    cores=4,
    vector_bits=128,
    vector_registers=32,
    fma_per_cycle=2,
    l1d_bytes=64 * 1024,
    l2_bytes=512 * 1024,
    l3_bytes=2 * 1024 * 1024,
)

# AWS Graviton2 ("AWS Graviton Technical Guide", github.com/aws/aws-graviton-getting-started);
# 100616. Optimization Guide (PJDOC-466751330-9707).
NEOVERSE_N1 = CpuTarget(
    name="neoverse-n1",
    triple=_TRIPLE,
    cpu="neoverse-n1",
    required=_V8_2,
    cores=64,
    vector_bits=128,
    vector_registers=32,
    fma_per_cycle=2,
    l1d_bytes=64 * 1024,
    l2_bytes=1024 * 1024,
    l3_bytes=32 * 1024 * 1024,
)

# AWS Graviton3 (same guide); 101427. Four 128-bit units: Optimization Guide (PJDOC-466751330-9685).
NEOVERSE_V1 = CpuTarget(
    name="neoverse-v1",
    triple=_TRIPLE,
    cpu="neoverse-v1",
    features=("-sve", "-complxnum"),
    required=("neon", "rdm", "fullfp16", "fp16fml", "dotprod", "i8mm", "bf16"),
    cores=64,
    vector_bits=128,
    vector_registers=32,
    fma_per_cycle=4,
    l1d_bytes=64 * 1024,
    l2_bytes=1024 * 1024,
    l3_bytes=32 * 1024 * 1024,
)

TARGETS = (AARCH64, CORTEX_A72_PI4, CORTEX_A76_PI5, NEOVERSE_N1, NEOVERSE_V1)
