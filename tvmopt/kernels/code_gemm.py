"""Rows of bytes, quantized at run time, times a matrix of coded weights, in integers.

``y[i, n] = epilogue(sx[i] * sum_g s[g, n] * sum_{k in g} xq[i, k] * (code[k, n] - zero[g, n]))``

The inner sum is exact in integers; the sum over groups is of float32. A register of codes is
decoded once for all rows of a tile.

Source: Z. Yao et al., "ZeroQuant", NeurIPS 2022, for rows quantized at run time with groups of
weights; the tile and the layout are derived here.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812  (TVM's own name for it)

from tvmopt.kernels import code_dot, cost
from tvmopt.kernels.blocks import worth_threads
from tvmopt.kernels.code_dot import CodeDot
from tvmopt.kernels.micro import Accumulators
from tvmopt.kernels.tile import Tile, panels
from tvmopt.kernels.vector import (
    Expr,
    Vector,
    bind,
    cast,
    loop,
    parameters,
    prim_func,
    registers,
)
from tvmopt.kernels.weight_code import BLOCK, WORD, IntCode
from tvmopt.kernels.weight_site import Weights, WeightSite, each_group, narrow_tile
from tvmopt.targets.description import CpuTarget

ROWS = 4  # of a tile at most: decoding is shared by enough, and registers suffice
FLUSH_CYCLES = 1.5  # of one register at the end of a group: convert, scale and add


@dataclass(frozen=True, kw_only=True, slots=True)
class CodeGemmConfig:
    """How the product is cut.

    Attributes:
        tile: The register tile.
        dot: How codes are multiplied.
        parallel: Whether panels are shared out among threads.
    """

    tile: Tile
    dot: CodeDot
    parallel: bool


def applies(site: WeightSite) -> bool:
    """Say whether weights are integers, and groups begin where four codes do."""
    return isinstance(site.code, IntCode) and site.k % WORD == 0


def config(site: WeightSite, target: CpuTarget) -> CodeGemmConfig:
    """Return the analytic choice: four registers of columns for one row, fewer for more."""
    assert isinstance(site.code, IntCode), "the codes must be integers"
    rows = min(site.m, ROWS)
    lanes = min(target.lanes(32), site.n)
    dot = CodeDot(code_dot.kind(target, lanes), site.code.bits, lanes)
    most = min(4, (target.vector_registers - 4) // (rows + 1))
    return CodeGemmConfig(
        tile=narrow_tile(rows, site.n, most, site.code.decode_cycles + rows * dot.cycles, target),
        dot=dot,
        parallel=worth_threads(site.macs),
    )


def cycles(site: WeightSite, how: CodeGemmConfig, target: CpuTarget) -> float:
    """Return the predicted cycles of one core: decoding, products and groups, or the codes' way."""
    tile, code = how.tile, site.code
    tiles = -(-site.m // tile.rows) * len(panels(site.n, tile)) * tile.vectors
    step = code.decode_cycles + tile.rows * how.dot.cycles * (2 if how.dot.bits == 8 else 1)
    work = tiles * (site.k / WORD * step + site.groups * FLUSH_CYCLES * tile.rows)
    return cost.CALL_CYCLES + max(work, cost.stream_cycles(site.bytes(tile), target))


def code_gemm(site: WeightSite, how: CodeGemmConfig, name: str) -> tirx.PrimFunc:
    """Return ``name(xq: (m, k) int8, sx: (m, 1), w, s, [z], *operands, y: (m, n))``."""
    tile = how.tile
    count, tiles = len(panels(site.n, tile)), -(-site.m // tile.rows)

    def body() -> None:
        x, row_scales, *rest = parameters(
            ("x", (site.m, site.k), "int8"),
            ("sx", (site.m, 1)),
            *site.parameters(tile),
            *site.epilogue.parameters((site.m, site.n)),
        )
        tensors = len(site.parameters(tile))
        weights, (*operands, y) = rest[:tensors], rest[tensors:]
        sums_of_x = _sums_of_groups(site, x)
        with loop(count, parallel=how.parallel) as panel:
            held = Weights(site, tile, weights, panel)
            column = bind(tirx.min(panel * tile.columns, site.n - tile.columns))
            with T.serial(tiles) as g:
                row = bind(tirx.min(g * tile.rows, site.m - tile.rows))
                total = _Product(site, how.dot, x, held, sums_of_x, row).run(row_scales)
                total.write(y, operands, site.epilogue, column, lambda i: (row + i) * site.n)

    return prim_func(
        name, body, {"tvmopt.macs": site.macs, "tvmopt.scratch_bytes": site.m * site.groups * 4}
    )


class _Product:
    """One tile: a group's sums in integers, and the total of all groups in float32."""

    def __init__(
        self,
        site: WeightSite,
        dot: CodeDot,
        x: tirx.Buffer,
        weights: Weights,
        sums_of_x: tirx.Buffer,
        row: Expr,
    ) -> None:
        self.site, self.dot, self.x, self.weights = site, dot, x, weights
        self.sums_of_x, self.row, self.tile = sums_of_x, row, weights.tile
        self.whole = Vector(self.tile.lanes, "int32")
        self.total = Accumulators(self.tile)
        self.parts = [registers(self.tile.width, "int32") for _ in range(self.tile.rows)]

    def run(self, row_scales: tirx.Buffer) -> Accumulators:
        """Emit the whole product; return its total."""
        each_group(self.site, self._start, self._codes, self._finish)
        vector = self.total.vector
        for i, total in enumerate(self.total.sums):
            scale = bind(vector.splat(row_scales[self.row + i]))
            for at in range(0, self.tile.width, self.tile.lanes):
                vector.store(total, vector.load(total, at) * scale, at)
        return self.total

    def _start(self, group: Expr) -> None:
        """Emit what the sums of a group begin with: less the share of a common zero point."""
        zero = (self.site.code.zero or 0) - self.dot.moved
        for i, part in enumerate(self.parts):
            first = self.whole.splat(0)
            if zero:
                share = self.sums_of_x[(self.row + i) * self.site.groups + group]
                first = bind(self.whole.splat(share * tirx.const(-zero, "int32")))
            for v in range(self.tile.vectors):
                self.whole.store(part, first, v * self.tile.lanes)

    def _codes(self, block: Expr | int, first: int, last: int) -> None:
        """Emit the products with codes ``first`` to ``last`` of a block."""
        if first == last:
            return
        site, lanes, vectors = self.site, self.tile.lanes, range(self.tile.vectors)
        quads = Vector(WORD, "int8")

        def four(i: int, step: int) -> Expr:
            place = (self.row + i) * site.k + block * BLOCK + step * WORD
            return tirx.reinterpret("int32", quads.load(self.x, place))

        sums = [[self.whole.load(part, v * lanes) for v in vectors] for part in self.parts]
        steps = range(first // WORD, last // WORD)
        sums = self.dot.add(sums, lambda v: self.weights.words(block, v), four, steps)
        for part, row in zip(self.parts, sums, strict=True):
            for v, value in enumerate(row):
                self.whole.store(part, value, v * lanes)

    def _finish(self, group: Expr) -> None:
        """Emit the group's share of the total."""
        vector = self.total.vector
        for v in range(self.tile.vectors):
            at = v * self.tile.lanes
            scale = bind(self.weights.scale(group, v))
            zero = bind(self.weights.zero(group, v)) if self.site.code.zero is None else None
            for i, part in enumerate(self.parts):
                value = cast(self.whole.load(part, at), "float32")
                if zero is not None:
                    share = self.sums_of_x[(self.row + i) * self.site.groups + group]
                    value = value - zero * vector.splat(cast(share, "float32"))
                total = self.total.sums[i]
                vector.store(total, vector.load(total, at) + value * scale, at)


def _sums_of_groups(site: WeightSite, x: tirx.Buffer) -> tirx.Buffer:
    """Emit the sums of each row of x over each group, (m * groups,) int32."""
    sums = T.alloc_buffer((site.m * site.groups,), "int32")
    group = site.code.group
    lanes = next(size for size in (16, 8, 4, 2, 1) if group % size == 0)
    whole, narrow = Vector(lanes, "int32"), Vector(lanes, "int8")
    part = registers(lanes, "int32")
    with T.serial(site.m * site.groups) as g:  # rows of whole groups lie one behind the other
        whole.store(part, whole.splat(0), 0)
        with T.serial(group // lanes) as step:
            held = cast(narrow.load(x, g * group + step * lanes), "int32")
            whole.store(part, whole.load(part, 0) + held, 0)
        total = part[0]
        for i in range(1, lanes):
            total = total + part[i]
        T.buffer_store(sums, total, [g])
    return sums
