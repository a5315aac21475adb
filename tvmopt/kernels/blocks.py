"""How the rows of a product are grouped, and when threads pay."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from tvmopt.kernels.vector import Expr
from tvmopt.targets.description import CpuTarget

# Below this work a kernel stays on one thread: at some 25 GMAC/s a core it ends in 8 us, and waking
# a parked thread costs 2 to 5.
THREAD_MACS = 200_000
THREAD_BYTES = 512 * 1024  # of weights that are read once: at 50 GB/s from level 3, 10 us

PREFETCH_BLOCKS = 4  # passes over the weights of which the first pays for prefetching in all


def worth_threads(macs: int, weight_bytes: int = 0) -> bool:
    """Say whether a kernel gains from a second thread.

    Args:
        macs: Multiply-accumulates of the kernel.
        weight_bytes: What it reads from beyond level 2; threads share that out as well.
    """
    return macs >= THREAD_MACS or weight_bytes >= THREAD_BYTES


@dataclass(frozen=True, slots=True)
class RowBlocks:
    """Rows cut into tiles, and tiles into blocks.

    Attributes:
        m: Rows in all.
        rows: Rows of a tile; the last tile ends at row m and overlaps its neighbour.
        per_block: Tiles of a block; the last block may hold fewer.
    """

    m: int
    rows: int
    per_block: int

    def __post_init__(self) -> None:
        assert self.rows <= self.m, f"a tile of {self.rows} rows cannot cover {self.m} rows"

    @classmethod
    def choose(
        cls,
        m: int,
        rows: int,
        row_bytes: int,
        weight_bytes: int,
        target: CpuTarget,
        *,
        input_bytes: int | None = None,
    ) -> RowBlocks:
        """Return blocks that stay in half of level 2 while every panel passes over them.

        Weights are read once instead, with all rows in one block, where they are larger than half
        of level 2, or where they outgrow level 1 and the whole input stays in half of level 2.

        Args:
            m: Rows in all.
            rows: Rows of a tile.
            row_bytes: Of a row's input and output: a line of the output that two panels share would
                come and go twice if the block were larger.
            weight_bytes: Of all panels.
            target: The machine.
            input_bytes: Of all rows' input; None where the weights' size alone shall decide.
        """
        tiles = -(-m // rows)
        if weight_bytes > target.l2_bytes // 2 and m * row_bytes <= 8 * weight_bytes:
            return cls(m, rows, tiles)
        stays = input_bytes is not None and input_bytes <= target.l2_bytes // 2
        if stays and weight_bytes > target.l1d_bytes:
            return cls(m, rows, tiles)
        most = max(1, min(tiles, target.l2_bytes // 4 // (rows * row_bytes)))
        # Blocks of one size: threads share them out.
        return cls(m, rows, -(-tiles // -(-tiles // most)))

    def worth_prefetch(self, weight_bytes: int, target: CpuTarget) -> bool:
        """Say whether the next panel should be fetched ahead.

        What a kernel reads of its weights for the first time comes from beyond level 2, for the
        rest of the network has passed since the last run. Later blocks find them nearer, and pay
        for the instructions: so it is a matter of few blocks, or of weights that level 2 cannot
        keep either.
        """
        few = self.count <= PREFETCH_BLOCKS and weight_bytes > target.l1d_bytes
        return few or weight_bytes > 2 * target.l2_bytes

    @property
    def total(self) -> int:
        """Tiles in all."""
        return -(-self.m // self.rows)

    @property
    def count(self) -> int:
        """Blocks in all."""
        return -(-self.total // self.per_block)

    def tiles(self, block: Expr) -> Expr | int:
        """Return how many tiles ``block`` holds."""
        if self.total % self.per_block == 0:
            return self.per_block
        return tirx.min(self.per_block, self.total - block * self.per_block)

    def first_row(self, block: Expr, tile: Expr) -> Expr:
        """Return the first row of a tile of a block."""
        row = (block * self.per_block + tile) * self.rows
        return row if self.m % self.rows == 0 else tirx.min(row, self.m - self.rows)
