"""What it takes to move bytes, in cycles of one core."""

from __future__ import annotations

from tvmopt.targets.description import CpuTarget

# Bytes that one core reads in a cycle from each level, measured on Zen 3 with prefetch.
L2_BYTES_PER_CYCLE = 32
L3_BYTES_PER_CYCLE = 16
MEMORY_BYTES_PER_CYCLE = 5


def stream_cycles(size: int, target: CpuTarget) -> float:
    """Return the cycles of reading ``size`` bytes once, from the level that holds them."""
    if size <= target.l2_bytes // 2:
        return size / L2_BYTES_PER_CYCLE
    if size <= target.l3_bytes // 2:
        return size / L3_BYTES_PER_CYCLE
    return size / MEMORY_BYTES_PER_CYCLE
