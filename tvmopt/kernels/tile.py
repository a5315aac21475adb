"""The register tile: how many rows and columns of a product one micro-kernel holds in registers."""

from __future__ import annotations

from dataclasses import dataclass

from tvmopt.targets.description import CpuTarget

LOADS_PER_CYCLE = 2  # every CPU in the catalogue reads two vectors from level 1 in a cycle
FMA_LATENCY = 4  # cycles from one multiply-add to the next that needs its result


@dataclass(frozen=True, slots=True)
class Tile:
    """Accumulators of ``rows`` x ``columns`` elements.

    Attributes:
        rows: Rows (pixels) of the tile.
        vectors: SIMD registers a row takes.
        lanes: Elements of each of these registers.
    """

    rows: int
    vectors: int
    lanes: int

    @property
    def columns(self) -> int:
        """Columns (output channels) of the tile."""
        return self.vectors * self.lanes

    def cycles(self, target: CpuTarget) -> float:
        """Return the least cycles of one step along k: arithmetic, loads and latency each bound it."""
        multiply_adds = self.rows * self.vectors
        return max(
            multiply_adds / target.fma_per_cycle,
            (self.rows + self.vectors) / LOADS_PER_CYCLE,
            FMA_LATENCY,
        )

    def fits(self, target: CpuTarget) -> bool:
        """Say whether accumulators, weights and one broadcast input stay in registers."""
        return self.rows * self.vectors + self.vectors + 1 <= target.vector_registers


def choose_tile(rows: int, columns: int, target: CpuTarget) -> Tile:
    """Return the tile that covers a ``rows`` x ``columns`` product in the fewest cycles.

    The last tile of a row or a column overlaps its neighbour, so a product that is no multiple of
    the tile costs whole tiles. Ties go to the larger tile, which stores and loops less.
    """
    best = min(
        _candidates(rows, columns, target),
        key=lambda tile: (
            -(-rows // tile.rows) * -(-columns // tile.columns) * tile.cycles(target),
            -tile.rows * tile.columns,
        ),
    )
    return best


def _candidates(rows: int, columns: int, target: CpuTarget) -> list[Tile]:
    lanes = target.lanes(32)
    if columns < lanes:
        shapes = [(1, columns)]
    else:
        shapes = [(v, lanes) for v in range(1, target.vector_registers // 2 + 1)]
        shapes = [(v, n) for v, n in shapes if v * n <= columns]
        if columns < 2 * lanes and columns % 2 == 0:
            shapes.append((2, columns // 2))  # 10 columns as 2 x 5 rather than 8 + an overlap of 8
    tiles = [
        Tile(r, v, n) for v, n in shapes for r in range(1, min(rows, target.vector_registers) + 1)
    ]
    return [tile for tile in tiles if tile.fits(target)]
