"""The register tile of an integer product."""

from __future__ import annotations

from tvmopt.kernels import cost
from tvmopt.kernels.dot import Dot
from tvmopt.kernels.epilogue import Epilogue
from tvmopt.kernels.tile import LOADS_PER_CYCLE, Tile
from tvmopt.targets.description import CpuTarget

ISSUE = 4  # vector instructions that a core starts in a cycle
MAX_ROWS = 7  # each row needs an address; with more, the general registers spill
WIDEN = 4  # instructions to widen one register of 16-bit sums: multiply, add to memory, clear
REQUANTIZE_STEPS = 5  # convert, round, clip and narrow one vector, in elementwise steps
CHUNK_CYCLES = 6  # to start and to leave the loop between two widenings; measured on Zen 3
ENDS_CYCLES = 12  # to start and to leave the loop of one tile
STORE_CYCLES = 1.0  # to begin and to store one vector of sums
ADDRESS_CYCLES = 10  # to find one row's place by division


def step_cycles(tile: Tile, dot: Dot, target: CpuTarget) -> float:
    """Return the cycles of one step of a tile."""
    sums = tile.rows * tile.vectors
    work = sums * (dot.instructions + WIDEN / dot.depth * dot.narrow)
    multiplies = sums * (dot.multiplies + dot.narrow / dot.depth)
    return max(
        multiplies / max(1, target.fma_per_cycle),
        (work + tile.rows + tile.vectors) / ISSUE,
        (tile.rows + tile.vectors) / LOADS_PER_CYCLE,
    )


def tile_cycles(
    tile: Tile,
    steps: int,
    dot: Dot,
    target: CpuTarget,
    epilogue: Epilogue,
    line: int | None = None,
) -> float:
    """Return the cycles of one tile.

    Args:
        tile: The register tile.
        steps: Steps of the contraction.
        dot: How a step is done.
        target: The machine.
        epilogue: What follows the products.
        line: Rows from one line's start to the next, as ``Tile.ends`` takes it.
    """
    sums = tile.rows * tile.vectors
    crossing = line is not None and line % tile.rows != 0
    ends = ENDS_CYCLES + ADDRESS_CYCLES * tile.rows * crossing
    finish = sums * (STORE_CYCLES + cost.STEP_CYCLES * elementwise_steps(epilogue))
    chunks = CHUNK_CYCLES * -(-steps // dot.depth) if dot.narrow else 0
    return steps * step_cycles(tile, dot, target) + chunks + ends + finish


def elementwise_steps(epilogue: Epilogue) -> int:
    """Return the elementwise steps of one vector of sums, requantization's own included."""
    return len(epilogue.steps) + REQUANTIZE_STEPS * (epilogue.output is not None)


def held(dot: Dot) -> int:
    """Return the registers beside the sums that a column of them needs: weights, 16-bit sums."""
    return dot.depth + 1 if dot.chained else 1


def choose_qtile(
    rows: int, columns: int, steps: int, dot: Dot, target: CpuTarget, line: int | None
) -> Tile:
    """Return the tile that covers a ``rows`` x ``columns`` product in the fewest cycles.

    A tile has whole registers of columns, also where the product has fewer.
    """
    # Sums, one register of weights for each column of them, the activation and a product.
    free = target.vector_registers - 2
    candidates = [
        Tile(r, v * dot.lanes, dot.lanes)
        for v in range(1, free // 2 + 1)
        for r in range(1, min(rows, MAX_ROWS) + 1)
        if r * v + v * held(dot) <= free and (v == 1 or v * dot.lanes <= columns)
    ]

    def cycles(tile: Tile) -> float:
        count = -(-rows // tile.rows) * -(-columns // tile.columns)
        return count * tile_cycles(tile, steps, dot, target, Epilogue(), line)

    return min(candidates, key=lambda tile: (cycles(tile), -tile.rows * tile.columns))
