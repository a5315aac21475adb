"""What work costs, in cycles of one core: moving bytes, register tiles, elementwise steps."""

from __future__ import annotations

from tvmopt.kernels.epilogue import Epilogue
from tvmopt.kernels.tile import Tile
from tvmopt.targets.description import CpuTarget

# Bytes that one core reads in a cycle from each level, measured on Zen 3 with prefetch.
L2_BYTES_PER_CYCLE = 32
L3_BYTES_PER_CYCLE = 16
MEMORY_BYTES_PER_CYCLE = 5

STEP_CYCLES = 0.5  # one elementwise step of one vector: two are issued in a cycle
HIDDEN_STEPS = 0.5  # share of a tile's steps that the next tile's products hide; fitted on Zen 3
CALL_CYCLES = 150  # a kernel's call, with the executor's part


def stream_cycles(size: int, target: CpuTarget) -> float:
    """Return the cycles of reading ``size`` bytes once, from the level that holds them."""
    if size <= target.l2_bytes * 3 // 4:
        return size / L2_BYTES_PER_CYCLE
    if size <= target.l3_bytes * 3 // 4:  # what one kernel writes and the next one reads
        return size / L3_BYTES_PER_CYCLE
    return size / MEMORY_BYTES_PER_CYCLE


def image_cycles(read: int, written: int, target: CpuTarget) -> float:
    """Return the cycles that a kernel waits for images that come from memory and go back.

    What a cache holds is there in time. A line that is written is fetched first: it counts twice.

    Args:
        read: Bytes of the input.
        written: Bytes of the output.
        target: The machine.
    """
    if read + written <= max(target.l2_bytes, target.l3_bytes) * 3 // 4:
        return 0.0
    return (read + 2 * written) / MEMORY_BYTES_PER_CYCLE


def stays_in_l3(size: int, target: CpuTarget) -> bool:
    """Say whether level 3 keeps a kernel's weights from one run to the next.

    The rest of the network lies between: they must leave room for those of other layers and for
    other programs.
    """
    return size <= target.l3_bytes // 8


def weight_cycles(size: int, passes: int, target: CpuTarget) -> float:
    """Return the cycles of reading a kernel's weights so many times in one run.

    Args:
        size: Bytes of all weights.
        passes: How often a run reads them, at least once.
        target: The machine.
    """
    kept = stays_in_l3(size, target)
    first = size / (L3_BYTES_PER_CYCLE if kept else MEMORY_BYTES_PER_CYCLE)
    return first + (passes - 1) * stream_cycles(size, target)


def tile_cycles(
    tile: Tile,
    count: int,
    k: int,
    epilogue: Epilogue,
    target: CpuTarget,
    line: int | None = None,
) -> float:
    """Return the cycles of ``count`` register tiles.

    Args:
        tile: The register tile.
        count: How many of them.
        k: Steps of the contraction.
        epilogue: What follows it.
        target: The machine.
        line: As ``Tile.ends`` takes it.
    """
    steps = tile.rows * tile.vectors * STEP_CYCLES * len(epilogue.steps) * (1 - HIDDEN_STEPS)
    return count * (k * tile.cycles(k, target) + tile.ends(line, len(epilogue.steps)) + steps)
