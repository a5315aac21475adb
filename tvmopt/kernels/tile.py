"""The register tile: how many rows and columns of a product one micro-kernel holds in registers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tvmopt.targets.description import CpuTarget

LOADS_PER_CYCLE = 2  # every CPU in the catalogue reads two vectors from level 1 in a cycle
FMA_LATENCY = 4  # cycles from one multiply-add to the next that needs its result
LOOP_CYCLES = 0.03  # what a row or a vector more costs a step, beyond the bounds; fitted on Zen 3
PANEL_BYTES_PER_CYCLE = 24  # of level 2, in a loop of multiply-adds; fitted on Zen 3
ENDS_CYCLES = 2  # to start and to leave the loop of one tile, beside the next one's products
STORE_CYCLES = 0.75  # to clear, finish and store one vector
BURST_VECTORS = 8  # stores in a row that hide behind the next tile's products
BURST_CYCLES = 2  # what one more of them costs; measured on Zen 3, with everything in level 1
BURST_STEPS = 6  # elementwise steps before a store that draw such a burst out
ADDRESS_CYCLES = 10  # to find one row's place by division; measured on Zen 3
MAX_ROWS = 8  # each row needs an address; with more, the general registers spill


@dataclass(frozen=True, slots=True)
class Tile:
    """Accumulators of ``rows`` x ``columns`` elements.

    Attributes:
        rows: Rows (pixels) of the tile.
        columns: Columns (output channels) of the tile.
        lanes: Elements of one SIMD register, at most ``columns``.
    """

    rows: int
    columns: int
    lanes: int

    @property
    def starts(self) -> list[int]:
        """First column of each register of a row; the last one ends with the tile."""
        return [
            min(start, self.columns - self.lanes) for start in range(0, self.columns, self.lanes)
        ]

    @property
    def vectors(self) -> int:
        """SIMD registers that a row takes."""
        return len(self.starts)

    @property
    def width(self) -> int:
        """Columns as packed: those that two registers share are stored twice."""
        return self.vectors * self.lanes

    def cycles(self, k: int, target: CpuTarget) -> float:
        """Return the least cycles of one of ``k`` steps.

        Arithmetic, loads, latency, and the weights' way from level 2 where a panel outgrows level 1
        bound it.
        """
        multiply_adds = self.rows * self.vectors
        outgrown = k * self.width * 4 > target.l1d_bytes // 2
        bound = max(
            multiply_adds / target.fma_per_cycle,
            (self.rows + self.vectors) / LOADS_PER_CYCLE,
            FMA_LATENCY,
            self.width * 4 / PANEL_BYTES_PER_CYCLE if outgrown else 0.0,
        )
        return bound + LOOP_CYCLES * (self.rows + self.vectors)

    def ends(self, line: int | None = None, steps: int = 0) -> float:
        """Return the cycles of a tile beside its steps along k.

        Args:
            line: Rows from one line's start to the next, where rows lie in lines: a tile that may
                cross a line's end finds the place of each row by itself.
            steps: Elementwise steps before each store.
        """
        crossing = line is not None and line % self.rows != 0
        places = ADDRESS_CYCLES * self.rows if crossing else 0
        stores = self.rows * self.vectors
        burst = BURST_CYCLES * max(0, stores - BURST_VECTORS) * max(0, 1 - steps / BURST_STEPS)
        return ENDS_CYCLES + STORE_CYCLES * stores + burst + places

    def fits(self, target: CpuTarget) -> bool:
        """Say whether accumulators, weights and one broadcast input stay in registers."""
        return self.rows * self.vectors + self.vectors + 1 <= target.vector_registers


def choose_tile(
    rows: int,
    columns: int,
    target: CpuTarget,
    *,
    k: int = 256,
    line: int | None = None,
    steps: int = 0,
    most_rows: int = MAX_ROWS,
) -> Tile:
    """Return the tile that covers a ``rows`` x ``columns`` product in the fewest cycles.

    The last tile of a row or a column overlaps its neighbour, so a product that is no multiple of
    the tile costs whole tiles. Ties go to the larger tile, which stores and loops less.

    Args:
        rows: Rows of the product.
        columns: Columns of the product.
        target: The machine.
        k: Steps of the contraction: with few, what a tile costs beside them counts.
        line: As ``Tile.ends`` takes it.
        steps: See there.
        most_rows: Rows that a tile may have at most.
    """

    def cycles(tile: Tile) -> float:
        count = -(-rows // tile.rows) * -(-columns // tile.columns)
        return count * (k * tile.cycles(k, target) + tile.ends(line, steps))

    return min(
        _candidates(min(rows, most_rows), columns, target),
        key=lambda tile: (cycles(tile), -tile.rows * tile.columns),
    )


def panels(n: int, tile: Tile) -> list[int]:
    """Return the first column of each panel of an n-column matrix; the last ends with it."""
    assert tile.columns <= n, f"a tile of {tile.columns} columns cannot cover {n} columns"
    return [min(start, n - tile.columns) for start in range(0, n, tile.columns)]


def panel_columns(n: int, tile: Tile) -> np.ndarray:
    """Return the columns of an n-column matrix as packed, (panels, tile.width)."""
    within = np.concatenate([np.arange(start, start + tile.lanes) for start in tile.starts])
    return np.array(panels(n, tile))[:, None] + within


def _candidates(most_rows: int, columns: int, target: CpuTarget) -> list[Tile]:
    lanes = min(target.lanes(32), columns)
    widths = {min(v * lanes, columns) for v in range(1, target.vector_registers // 2 + 1)}
    tiles = [Tile(r, w, lanes) for w in sorted(widths) for r in range(1, most_rows + 1)]
    return [tile for tile in tiles if tile.fits(target)]
