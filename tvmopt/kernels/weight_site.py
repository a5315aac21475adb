"""A product of an activation and a constant whose weights are stored in fewer bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812  (TVM's own name for it)

from tvmopt.kernels.epilogue import STORE, Epilogue
from tvmopt.kernels.tile import FMA_LATENCY, Tile, panel_columns, panels
from tvmopt.kernels.vector import Expr, Vector, bind, cast
from tvmopt.kernels.weight_code import (
    WORD,
    HalfCode,
    IntCode,
    WeightCode,
    Words,
    reinterpret,
)
from tvmopt.targets.description import CpuTarget


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightSite:
    """A product with coded weights.

    Attributes:
        m: Rows of the activation, at least 1.
        k: Columns of the activation.
        n: Columns of the weight.
        code: How weights are stored.
        epilogue: What follows the product.
    """

    m: int
    k: int
    n: int
    code: WeightCode
    epilogue: Epilogue = STORE

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the product."""
        return self.m * self.k * self.n

    @property
    def groups(self) -> int:
        """Groups along k, each with its scales; 0 where the code has none."""
        return self.k // self.code.group if self.code.group else 0

    def parameters(self, tile: Tile) -> list[tuple[str, tuple[int, ...], str]]:
        """Return name, shape and dtype of each tensor of the weights, in ``pack``'s order."""
        count = len(panels(self.n, tile))
        scales = (count, self.groups, tile.width)
        found: list[tuple[str, tuple[int, ...], str]] = [
            ("w", (count, self.panel_bytes(tile)), "uint8")
        ]
        if self.code.entries:
            found.append(("t", (self.code.entries,), "float32"))
        if self.groups:
            found.append(("s", scales, "float32"))
        if self.code.zero is None:
            found.append(("z", scales, "uint8"))
        return found

    def panel_bytes(self, tile: Tile) -> int:
        """Return the bytes of a panel's codes."""
        return -(-self.k // self.code.block) * self.code.rows * tile.width * WORD

    def bytes(self, tile: Tile) -> int:
        """Return the bytes of all tensors of the weights."""
        sizes = {"uint8": 1, "float32": 4}
        return sum(int(np.prod(shape)) * sizes[dtype] for _, shape, dtype in self.parameters(tile))

    def pack(
        self,
        codes: np.ndarray,
        tile: Tile,
        *,
        scale: np.ndarray | None = None,
        zero: np.ndarray | None = None,
        table: np.ndarray | None = None,
    ) -> tuple[np.ndarray, ...]:
        """Return the tensors that a kernel takes.

        Args:
            codes: (k, n): unsigned codes, or the floats of 16 bits.
            tile: The kernel's register tile.
            scale: (groups, n), float32, where the code has groups.
            zero: (groups, n), uint8, where each group has its own.
            table: (entries,) or fewer, float32, where codes are numbers of its entries.
        """
        columns = panel_columns(self.n, tile)
        cut = codes[:, columns].transpose(1, 0, 2)
        code = self.code
        found = [code.pack(cut, tile.lanes) if isinstance(code, HalfCode) else code.pack(cut)]
        if table is not None:
            found.append(np.pad(table, (0, code.entries - len(table))).astype(np.float32))
        given = [tensor for tensor in (scale, zero) if tensor is not None]
        found += [np.ascontiguousarray(each[:, columns].transpose(1, 0, 2)) for each in given]
        return tuple(found)


def narrow_tile(rows: int, n: int, most: int, register_cycles: float, target: CpuTarget) -> Tile:
    """Return the tile of few rows that covers n columns in the fewest cycles.

    Args:
        rows: Rows of the tile.
        n: Columns of the product.
        most: Registers of columns at most.
        register_cycles: Cycles of one register of columns, a step.
        target: The machine.
    """
    lanes = min(target.lanes(32), n)

    def cycles(vectors: int) -> float:
        return -(-n // (vectors * lanes)) * max(vectors * register_cycles, FMA_LATENCY)

    vectors = min(range(1, max(2, min(most, n // lanes) + 1)), key=lambda v: (cycles(v), -v))
    return Tile(rows, vectors * lanes, lanes)


class Weights:
    """The tensors of coded weights within a kernel, read at one panel."""

    def __init__(
        self, site: WeightSite, tile: Tile, tensors: list[tirx.Buffer], panel: Expr
    ) -> None:
        self.site, self.tile = site, tile
        self.vector = Vector(tile.lanes)
        named = {name: t for (name, *_), t in zip(site.parameters(tile), tensors, strict=True)}
        self.codes, self.table = named["w"], named.get("t")
        self.scales, self.zeros = named.get("s"), named.get("z")
        self.start = bind(panel * site.panel_bytes(tile))
        self.first_scale = bind(panel * site.groups * tile.width)

    def words(self, block: Expr | int, v: int) -> Words:
        """Return the v-th register of each row of words of a block."""
        lanes, rows = self.tile.lanes, self.site.code.rows
        first = self.start + block * (rows * self.tile.width * WORD) + v * lanes * WORD

        def row(number: int) -> Expr:
            place = first + number * (self.tile.width * WORD)
            held = Vector(lanes * WORD, "uint8").load(self.codes, place)
            return bind(reinterpret(held, "uint32", lanes))

        return row

    def value(self, block: Expr | int, k: int, v: int) -> Expr:
        """Return the v-th register of code k of a block, as float32."""
        return self.site.code.value(self.words(block, v), k, self.tile.lanes, self.table)

    def scale(self, group: Expr, v: int) -> Expr:
        """Return the v-th register of a group's scales."""
        assert self.scales is not None
        return self.vector.load(self.scales, self._scale_place(group, v))

    def zero(self, group: Expr, v: int) -> Expr | None:
        """Return the v-th register of a group's zero points as float32; None where they are 0."""
        code = self.site.code
        if self.zeros is not None:
            held = Vector(self.tile.lanes, "uint8").load(self.zeros, self._scale_place(group, v))
            return cast(held, "float32")
        assert isinstance(code, IntCode) or not code.zero
        return self.vector.splat(float(code.zero)) if code.zero else None

    def _scale_place(self, group: Expr, v: int) -> Expr:
        return self.first_scale + group * self.tile.width + v * self.tile.lanes


def each_group(
    site: WeightSite,
    start: Callable[[Expr], None],
    codes: Callable[[Expr | int, int, int], None],
    finish: Callable[[Expr], None],
) -> None:
    """Emit the walk along k over all groups; a weight without scales is one.

    Args:
        site: The product.
        start: Emits what comes before a group's codes.
        codes: Emits what is done with codes ``first`` to ``last`` (excluded) of a block.
        finish: Emits what comes behind a group's codes.
    """
    block = site.code.block
    whole, left = divmod(site.k, block)
    size = site.code.group if site.groups else site.k

    def within(number: Expr | int, extent: int) -> None:
        for first in range(0, extent, size):
            g = bind(number * (block // size) + first // size)
            start(g)
            codes(number, first, first + size)
            finish(g)

    if site.groups > 1 and size < block:
        with T.serial(whole) as b:
            within(b, block)
        within(whole, left)
        return
    with T.serial(site.k // size) as g:
        start(g)
        with T.serial(size // block) as b:
            codes(g * (size // block) + b, 0, block)
        codes(whole, 0, size % block)
        finish(g)
