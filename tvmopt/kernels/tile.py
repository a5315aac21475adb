"""The register tile: how many rows and columns of a product one micro-kernel holds in registers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tvmopt.targets.description import CpuTarget

LOADS_PER_CYCLE = 2  # every CPU in the catalogue reads two vectors from level 1 in a cycle
FMA_LATENCY = 4  # cycles from one multiply-add to the next that needs its result
LOOP_CYCLES = 0.1  # what a row or a vector more costs a step, beyond the bounds; fitted on Zen 3
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

    def cycles(self, target: CpuTarget) -> float:
        """Return the least cycles of a step along k: arithmetic, loads and latency bound it."""
        multiply_adds = self.rows * self.vectors
        bound = max(
            multiply_adds / target.fma_per_cycle,
            (self.rows + self.vectors) / LOADS_PER_CYCLE,
            FMA_LATENCY,
        )
        return bound + LOOP_CYCLES * (self.rows + self.vectors)

    def fits(self, target: CpuTarget) -> bool:
        """Say whether accumulators, weights and one broadcast input stay in registers."""
        return self.rows * self.vectors + self.vectors + 1 <= target.vector_registers


def choose_tile(rows: int, columns: int, target: CpuTarget) -> Tile:
    """Return the tile that covers a ``rows`` x ``columns`` product in the fewest cycles.

    The last tile of a row or a column overlaps its neighbour, so a product that is no multiple of
    the tile costs whole tiles. Ties go to the larger tile, which stores and loops less.
    """
    return min(
        _candidates(rows, columns, target),
        key=lambda tile: (
            -(-rows // tile.rows) * -(-columns // tile.columns) * tile.cycles(target),
            -tile.rows * tile.columns,
        ),
    )


def panels(n: int, tile: Tile) -> list[int]:
    """Return the first column of each panel of an n-column matrix; the last ends with it."""
    assert tile.columns <= n, f"a tile of {tile.columns} columns cannot cover {n} columns"
    return [min(start, n - tile.columns) for start in range(0, n, tile.columns)]


def panel_columns(n: int, tile: Tile) -> np.ndarray:
    """Return the columns of an n-column matrix as packed, (panels, tile.width)."""
    within = np.concatenate([np.arange(start, start + tile.lanes) for start in tile.starts])
    return np.array(panels(n, tile))[:, None] + within


def _candidates(rows: int, columns: int, target: CpuTarget) -> list[Tile]:
    lanes = min(target.lanes(32), columns)
    widths = {min(v * lanes, columns) for v in range(1, target.vector_registers // 2 + 1)}
    tiles = [Tile(r, w, lanes) for w in sorted(widths) for r in range(1, min(rows, MAX_ROWS) + 1)]
    return [tile for tile in tiles if tile.fits(target)]
