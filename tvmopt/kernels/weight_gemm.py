"""Many rows times a matrix of coded weights: a panel becomes float32 in memory, once for all rows.

The product is that of ``gemm.py`` with the dequantized weight, and so are its roundings. Only one
panel a thread is ever stored as float32.

Source: E. Frantar et al., "GPTQ", ICLR 2023, for weights alone in few bits; that a panel is decoded
where the product of it begins is derived here.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812  (TVM's own name for it)

from tvmopt.kernels import cost
from tvmopt.kernels.blocks import worth_threads
from tvmopt.kernels.micro import Accumulators
from tvmopt.kernels.tile import Tile, choose_tile, panels
from tvmopt.kernels.vector import Expr, Vector, bind, loop, parameters, prim_func
from tvmopt.kernels.weight_site import Weights, WeightSite, each_group
from tvmopt.targets.description import CpuTarget


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightGemmConfig:
    """How the product is cut.

    Attributes:
        tile: The register tile.
        parallel: Whether panels are shared out among threads.
    """

    tile: Tile
    parallel: bool


def config(site: WeightSite, target: CpuTarget) -> WeightGemmConfig:
    """Return the analytic choice."""
    tile = choose_tile(site.m, site.n, target, k=site.k)
    return WeightGemmConfig(tile=tile, parallel=worth_threads(site.macs))


def cycles(site: WeightSite, how: WeightGemmConfig, target: CpuTarget) -> float:
    """Return the predicted cycles of one core: decoding once, and the tiles."""
    count = len(panels(site.n, how.tile))
    tiles = count * -(-site.m // how.tile.rows)
    decode = count * how.tile.vectors * site.k * (site.code.decode_cycles + cost.STEP_CYCLES)
    fetch = cost.stream_cycles(site.bytes(how.tile), target)
    products = cost.tile_cycles(how.tile, tiles, site.k, site.epilogue, target)
    return cost.CALL_CYCLES + max(decode, fetch) + products


def weight_gemm(site: WeightSite, how: WeightGemmConfig, name: str) -> tirx.PrimFunc:
    """Return ``name(x: (m, k), *weights, *operands, y: (m, n))``, weights as ``site.pack`` has."""
    tile = how.tile
    count, tiles = len(panels(site.n, tile)), -(-site.m // tile.rows)

    def body() -> None:
        x, *rest = parameters(
            ("x", (site.m, site.k)),
            *site.parameters(tile),
            *site.epilogue.parameters((site.m, site.n)),
        )
        tensors = len(site.parameters(tile))
        weights, (*operands, y) = rest[:tensors], rest[tensors:]
        with loop(count, parallel=how.parallel) as panel:
            w = decoded(site, Weights(site, tile, weights, panel))
            column = bind(tirx.min(panel * tile.columns, site.n - tile.columns))
            with T.serial(tiles) as g:
                row = bind(tirx.min(g * tile.rows, site.m - tile.rows))
                sums = Accumulators(tile)
                sums.accumulate(
                    site.k,
                    lambda i, step: x[(row + i) * site.k + step],
                    lambda step, v: sums.vector.load(w, step * tile.width + v * tile.lanes),
                )
                sums.write(y, operands, site.epilogue, column, lambda i: (row + i) * site.n)

    scratch = site.k * tile.width * 4
    return prim_func(name, body, {"tvmopt.macs": site.macs, "tvmopt.scratch_bytes": scratch})


def decoded(site: WeightSite, weights: Weights) -> tirx.Buffer:
    """Emit the decoding of one panel; return its weights as float32, (k * width,)."""
    tile = weights.tile
    vector = Vector(tile.lanes)
    panel = T.alloc_buffer((site.k * tile.width,), "float32")
    scales: list[Expr] = []
    zeros: list[Expr | None] = []

    def start(group: Expr) -> None:
        registers = range(tile.vectors) if site.groups else ()
        scales[:] = [bind(weights.scale(group, v)) for v in registers]
        found = [weights.zero(group, v) for v in registers]
        zeros[:] = [zero if zero is None else bind(zero) for zero in found]

    def codes(block: Expr | int, first: int, last: int) -> None:
        for k in range(first, last):
            row = (block * site.code.block + k) * tile.width
            for v in range(tile.vectors):
                value = weights.value(block, k, v)
                if site.groups:
                    zero = zeros[v]
                    value = (value if zero is None else value - zero) * scales[v]
                vector.store(panel, value, row + v * tile.lanes)

    each_group(site, start, codes, lambda _: None)
    return panel
