"""A few rows times a matrix of coded weights, which become float32 in registers.

``y[m, n] = epilogue(sum_k x[m, k] * (code[k, n] - zero[g, n]) * scale[g, n])``, g the group of k.
The sums of a group run over the codes as they are; scale and zero point enter once a group::

    sum_k x * (code - zero) * scale = scale * (sum_k x * code - zero * sum_k x)

With one row nothing is read twice but x, so bytes and the work of decoding bound the kernel: a
weight costs a shift, a mask, a conversion and a multiply-add.

Source: E. Frantar et al., "GPTQ", ICLR 2023, for decoding within the product; that the zero point
moves out of the group's sum is derived here.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812  (TVM's own name for it)

from tvmopt.kernels import cost
from tvmopt.kernels.blocks import worth_threads
from tvmopt.kernels.micro import Accumulators
from tvmopt.kernels.tile import Tile, panels
from tvmopt.kernels.vector import Expr, Vector, bind, loop, parameters, prim_func, registers
from tvmopt.kernels.weight_code import HalfCode
from tvmopt.kernels.weight_site import Weights, WeightSite, each_group, narrow_tile
from tvmopt.targets.description import CpuTarget

ROWS = 4  # with more, decoding a panel once into memory is cheaper


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightGemvConfig:
    """How the product is cut.

    Attributes:
        tile: The register tile; its rows are all of the product's.
        parallel: Whether panels are shared out among threads.
    """

    tile: Tile
    parallel: bool


def applies(site: WeightSite) -> bool:
    """Say whether the product has few enough rows."""
    return site.m <= ROWS


def config(site: WeightSite, target: CpuTarget) -> WeightGemvConfig:
    """Return the analytic choice: four registers of columns for one row, fewer for more."""
    # Floats need no room for a group's sums, and have nothing but chains of additions to wait for.
    most = 8 if isinstance(site.code, HalfCode) else 4
    each = site.code.decode_cycles + site.m / target.fma_per_cycle
    return WeightGemvConfig(
        tile=narrow_tile(site.m, site.n, min(most, 8 // site.m), each, target),
        parallel=worth_threads(site.macs),
    )


def cycles(site: WeightSite, how: WeightGemvConfig, target: CpuTarget) -> float:
    """Return the predicted cycles of one core: decoding and multiply-adds, or the codes' way in."""
    steps = len(panels(site.n, how.tile)) * how.tile.vectors * site.k
    work = steps * (site.code.decode_cycles + site.m / target.fma_per_cycle)
    return cost.CALL_CYCLES + max(work, cost.stream_cycles(site.bytes(how.tile), target))


def weight_gemv(site: WeightSite, how: WeightGemvConfig, name: str) -> tirx.PrimFunc:
    """Return ``name(x: (m, k), *weights, *operands, y: (m, n))``, weights as ``site.pack`` has."""
    tile = how.tile
    count = len(panels(site.n, tile))

    def body() -> None:
        x, *rest = parameters(
            ("x", (site.m, site.k)),
            *site.parameters(tile),
            *site.epilogue.parameters((site.m, site.n)),
        )
        tensors = len(site.parameters(tile))
        weights, (*operands, y) = rest[:tensors], rest[tensors:]
        sums_of_x = _sums_of_groups(site, x) if site.code.zero != 0 else None
        with loop(count, parallel=how.parallel) as panel:
            held = Weights(site, tile, weights, panel)
            total = _Product(site, x, held, sums_of_x).run()
            column = bind(tirx.min(panel * tile.columns, site.n - tile.columns))
            total.write(y, operands, site.epilogue, column, lambda i: i * site.n)

    scratch = site.m * site.groups * 4 if site.code.zero != 0 else 0
    return prim_func(name, body, {"tvmopt.macs": site.macs, "tvmopt.scratch_bytes": scratch})


class _Product:
    """The sums of one panel: a group's in registers, and the total of all groups."""

    def __init__(
        self, site: WeightSite, x: tirx.Buffer, weights: Weights, sums_of_x: tirx.Buffer | None
    ) -> None:
        self.site, self.x, self.weights, self.sums_of_x = site, x, weights, sums_of_x
        self.tile = weights.tile
        self.vector = Vector(self.tile.lanes)
        self.total = Accumulators(self.tile)
        self.parts = [registers(self.tile.width) for _ in range(site.m)] if site.groups else []

    def run(self) -> Accumulators:
        """Emit the whole product; return its total."""
        each_group(self.site, self._start, self._codes, self._finish)
        return self.total

    def _start(self, group: Expr) -> None:
        """Emit what the sums of a group begin with: less the share of a common zero point."""
        for i, part in enumerate(self.parts):
            first = self.vector.splat(0.0)
            if self.site.code.zero:
                assert self.sums_of_x is not None
                share = self.sums_of_x[i * self.site.groups + group]
                first = bind(self.vector.splat(share * float(-self.site.code.zero)))
            for v in range(self.tile.vectors):
                self.vector.store(part, first, v * self.tile.lanes)

    def _codes(self, block: Expr | int, first: int, last: int) -> None:
        """Emit the products with codes ``first`` to ``last`` of a block."""
        site = self.site
        sums = self.parts or self.total.sums
        for k in range(first, last):
            values = [bind(self.weights.value(block, k, v)) for v in range(self.tile.vectors)]
            for i, part in enumerate(sums):
                place = i * site.k + block * site.code.block + k
                left = bind(self.vector.splat(self.x[place]))
                for v, value in enumerate(values):
                    at = v * self.tile.lanes
                    self.vector.store(part, self.vector.load(part, at) + left * value, at)

    def _finish(self, group: Expr) -> None:
        """Emit the group's share of the total."""
        for i, part in enumerate(self.parts):
            for v in range(self.tile.vectors):
                at = v * self.tile.lanes
                value = self.vector.load(part, at)
                if self.site.code.zero is None:
                    assert self.sums_of_x is not None
                    of_x = self.vector.splat(self.sums_of_x[i * self.site.groups + group])
                    value = value - self.weights.zero(group, v) * of_x
                total = self.total.sums[i]
                scaled = value * self.weights.scale(group, v)
                self.vector.store(total, self.vector.load(total, at) + scaled, at)


def _sums_of_groups(site: WeightSite, x: tirx.Buffer) -> tirx.Buffer:
    """Emit the sums of each row of x over each group, (m * groups,)."""
    sums = T.alloc_buffer((site.m * site.groups,), "float32")
    group = site.code.group
    lanes = next(size for size in (8, 4, 2, 1) if group % size == 0)
    vector = Vector(lanes)
    part = registers(lanes)
    with T.serial(site.m * site.groups) as g:  # rows of whole groups lie one behind the other
        vector.store(part, vector.splat(0.0), 0)
        with T.serial(group // lanes) as step:
            held = vector.load(x, g * group + step * lanes)
            vector.store(part, vector.load(part, 0) + held, 0)
        total = part[0]
        for i in range(1, lanes):
            total = total + part[i]
        T.buffer_store(sums, total, [g])
    return sums
