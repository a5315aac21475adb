"""Matrix product with a constant right side: linear layers and 1x1 convolutions of stride 1.

``y[m, n] = epilogue(sum_k x[m, k] * w[k, n])``, x and y row-major, w packed into panels of one
tile's columns, so that the micro-kernel reads it front to back. The last panel overlaps the one
before it, and the last rows likewise: no size needs a second micro-kernel.

Source: K. Goto and R. van de Geijn, "Anatomy of high-performance matrix multiplication", ACM TOMS
34 (2008), for panels and register tiles; that k is not blocked (a panel fits level 2) is derived
here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812  (TVM's own name for it)

from tvmopt.kernels import cost
from tvmopt.kernels.blocks import RowBlocks, worth_threads
from tvmopt.kernels.epilogue import STORE, Epilogue
from tvmopt.kernels.micro import Accumulators
from tvmopt.kernels.rows import Rows, pitch_of
from tvmopt.kernels.tile import FMA_LATENCY, MAX_ROWS, Tile, choose_tile, panel_columns, panels
from tvmopt.kernels.vector import bind, loop, parameters, prefetch, prim_func
from tvmopt.targets.description import CpuTarget

# Bytes that one core reads in a cycle beyond level 1 if it reads them in order and does nothing
# else, without prefetch; measured on Zen 3 from level 2 and from level 3.
LINE_BYTES_PER_CYCLE = 24


@dataclass(frozen=True, kw_only=True, slots=True)
class GemmSite:
    """A product of an activation and a constant.

    Attributes:
        m: Rows of the activation, at least 1.
        k: Columns of the activation.
        n: Columns of the constant.
        epilogue: What follows the product.
        input_rows: Where the activation's rows lie; None where they follow one another.
    """

    m: int
    k: int
    n: int
    epilogue: Epilogue = STORE
    input_rows: Rows | None = None

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the product."""
        return self.m * self.k * self.n


@dataclass(frozen=True, kw_only=True, slots=True)
class GemmConfig:
    """How a product is cut.

    Attributes:
        tile: The register tile.
        rows: Blocks of rows; one block runs against all panels while it lies in level 2.
        prefetch: Whether the next panel is fetched ahead.
        parallel: Whether blocks are shared out among threads.
    """

    tile: Tile
    rows: RowBlocks
    prefetch: bool
    parallel: bool


def config(site: GemmSite, target: CpuTarget) -> GemmConfig:
    """Return the analytic choice for ``site``.

    A single row's weights are read once and in order: CPUs fetch those ahead by themselves, and a
    prefetch of the next panel made a second stream of them, which took 1.5 times as long.
    """
    tile = (
        row_tile(site.n, target)
        if site.m == 1
        else choose_tile(
            site.m,
            site.n,
            target,
            k=site.k,
            steps=len(site.epilogue.steps),
            most_rows=_most_rows(site.n, target),
        )
    )
    weights, inputs = site.k * site.n * 4, site.m * site.k * 4
    rows = RowBlocks.choose(
        site.m, tile.rows, (site.k + site.n) * 4, weights, target, input_bytes=inputs
    )
    return GemmConfig(
        tile=tile,
        rows=rows,
        prefetch=site.m > 1 and rows.worth_prefetch(weights, target),
        parallel=worth_threads(site.macs, weights),
    )


def _most_rows(n: int, target: CpuTarget) -> int:
    """Return the most rows of a tile.

    LLVM takes two steps of a tile of one vector at once, and loads what both need first: of 16
    registers, 8 rows spill, and take 1.3 times as long for each row as 6.
    """
    if n > target.lanes(32):
        return MAX_ROWS
    return min(MAX_ROWS, (target.vector_registers + 2) // 3)


def row_tile(n: int, target: CpuTarget) -> Tile:
    """Return the tile of a single row by ``n`` columns.

    Its weights are operands in memory, which need no registers: half of these hold sums, more than
    it takes to hide a multiply-add's latency. Ties go to the wider panel.
    """
    lanes = min(target.lanes(32), n)
    columns = [min(v * lanes, n) for v in range(1, target.vector_registers // 2 + 1)]

    def cycles(tile: Tile) -> int:
        return len(panels(n, tile)) * max(tile.vectors, FMA_LATENCY + 1)

    tiles = [Tile(1, width, lanes) for width in sorted(set(columns))]
    return min(tiles, key=lambda tile: (cycles(tile), -tile.columns))


def cycles(site: GemmSite, how: GemmConfig, target: CpuTarget) -> float:
    """Return the predicted cycles of one core: tiles, or what they wait for."""
    count = how.rows.total * len(panels(site.n, how.tile))
    tiles = cost.tile_cycles(how.tile, count, site.k, site.epilogue, target)
    weights = site.k * site.n * 4
    fetch = cost.weight_cycles(weights, how.rows.count, target)
    if site.m == 1 and cost.stays_in_l3(weights, target):
        fetch = weights / LINE_BYTES_PER_CYCLE
    return cost.CALL_CYCLES + max(tiles, fetch)


def pack(weight: np.ndarray, tile: Tile) -> np.ndarray:
    """Return ``weight`` (k, n) as panels (p, k, tile.width)."""
    return np.ascontiguousarray(weight[:, panel_columns(weight.shape[1], tile)].transpose(1, 0, 2))


def gemm(site: GemmSite, how: GemmConfig, name: str) -> tirx.PrimFunc:
    """Return ``name(x: (m, k), w: (p, k, columns), *operands, y: (m, n))``."""
    m, k, n, tile, blocks = site.m, site.k, site.n, how.tile, how.rows
    count, pitch = len(panels(n, tile)), pitch_of(site.input_rows, k)
    share = -(-tile.width // blocks.per_block)  # of the next panel's floats: a step's

    def body() -> None:
        x, w, *operands, y = parameters(
            ("x", (m, k), "float32", site.input_rows),
            ("w", (count, k, tile.width)),
            *site.epilogue.parameters((m, n)),
        )
        with loop(blocks.count * count, parallel=how.parallel) as task:
            block, panel = bind(task // count), bind(task % count)
            with T.serial(blocks.tiles(block)) as g:
                row = bind(blocks.first_row(block, g))
                sums = Accumulators(tile)
                ahead = (panel + 1) * k * tile.width + g * k * share
                sums.accumulate(
                    k,
                    lambda i, step: x[(row + i) * pitch + step],
                    lambda step, v: sums.vector.load(
                        w, (panel * k + step) * tile.width + v * tile.lanes
                    ),
                    (lambda step: prefetch(w, ahead + step * share, share))
                    if how.prefetch
                    else None,
                )
                column = bind(tirx.min(panel * tile.columns, n - tile.columns))
                sums.write(
                    y,
                    operands,
                    site.epilogue,
                    column,
                    lambda i: (row + i) * n,
                    row=lambda i: row + i,
                )

    return prim_func(name, body, {"tvmopt.macs": site.macs})
