"""The micro-kernel of integer products: one register tile of 32-bit sums.

As with float tiles (micro.py), a PrimFunc may hold only one.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812  (TVM's own name for it)

from tvmopt.kernels import dot as dots
from tvmopt.kernels.dot import Dot
from tvmopt.kernels.tile import Tile
from tvmopt.kernels.vector import Expr, Vector, bind, registers, wrapping


class DotTile:
    """The tile's partial sums.

    Wide sums are int32, in registers; of a narrow ``dot`` they lie in level 1, and the registers
    hold the 16-bit sums of the steps since they were last widened.
    """

    def __init__(self, tile: Tile, dot: Dot, start: Callable[[int], Expr]) -> None:
        """Emit the sums' first values.

        Args:
            tile: The register tile; its lanes are the dot's.
            dot: How a step is done.
            start: Gives the v-th vector of what the sums of every row begin with, int32.
        """
        self.tile, self.dot = tile, dot
        self.wide, self.short = Vector(dot.lanes, "int32"), Vector(2 * dot.lanes, "int16")
        size = tile.vectors * dot.lanes
        self.sums = [registers(size, "int32") for _ in range(tile.rows)]
        self.pairs = [registers(2 * size, "int16") for _ in range(tile.rows if dot.narrow else 0)]
        first = [bind(start(v)) for v in range(tile.vectors)]
        for i, v in self._places():
            self.wide.store(self.sums[i], first[v], v * dot.lanes)

    def accumulate(
        self,
        steps: int | Expr,
        row: Callable[[int, Expr], Expr],
        columns: Callable[[Expr, int], Expr],
        ahead: Callable[[Expr], None] | None = None,
    ) -> None:
        """Emit the products of ``steps`` groups of k.

        Args:
            steps: Groups of k.
            row: Gives the broadcast activations of row i at a step.
            columns: Gives the v-th vector of weights at a step.
            ahead: Emits a prefetch at a step.
        """
        if self.dot.chained:
            with T.serial(steps // self.dot.depth) as chain:
                self._chain(chain * self.dot.depth, row, columns, ahead)
            return
        if not self.dot.narrow:
            with T.serial(steps) as at:
                self._step(at, row, columns, ahead)
            return
        depth = self.dot.depth
        whole = isinstance(steps, int) and steps % depth == 0
        with T.serial((steps + depth - 1) // depth) as chunk:
            first = chunk * depth
            for i, v in self._places():
                zero = self.short.splat(tirx.const(0, "int16"))
                self.short.store(self.pairs[i], zero, 2 * v * self.dot.lanes)
            # One loop for whole and partial chunks: with two, LLVM spills the sums of both.
            with T.serial(depth if whole else tirx.min(depth, steps - first)) as at:
                self._step(first + at, row, columns, ahead)
            self._widen()

    def value(self, i: int, v: int) -> Expr:
        """Return the v-th vector of row i, int32."""
        return self.wide.load(self.sums[i], v * self.dot.lanes)

    def _step(
        self,
        at: Expr,
        row: Callable[[int, Expr], Expr],
        columns: Callable[[Expr, int], Expr],
        ahead: Callable[[Expr], None] | None,
    ) -> None:
        if ahead is not None:
            ahead(at)
        right = [bind(columns(at, v)) for v in range(self.tile.vectors)]
        for i in range(self.tile.rows):
            left = row(i, at)
            for v in range(self.tile.vectors):
                if self.dot.narrow:
                    place = 2 * v * self.dot.lanes
                    total = self.short.load(self.pairs[i], place)
                    total = total + dots.products(left, right[v], self.dot)
                    self.short.store(self.pairs[i], total, place)
                else:
                    total = dots.step(self.value(i, v), left, right[v], self.dot)
                    self.wide.store(self.sums[i], total, v * self.dot.lanes)

    def _chain(
        self,
        first: Expr,
        row: Callable[[int, Expr], Expr],
        columns: Callable[[Expr, int], Expr],
        ahead: Callable[[Expr], None] | None,
    ) -> None:
        """Emit ``depth`` steps whose sums of 16 bits are widened at once."""
        steps = [first + i for i in range(self.dot.depth)]
        vectors = range(self.tile.vectors)
        right = [[bind(columns(at, v)) for v in vectors] for at in steps]
        for at in steps:
            if ahead is not None:
                ahead(at)
        for i in range(self.tile.rows):
            pairs: list[Expr] = []
            for at, weights in zip(steps, right, strict=True):
                left = row(i, at)
                more = [dots.products(left, w, self.dot) for w in weights]
                pairs = [bind(a + b) for a, b in zip(pairs, more, strict=True)] if pairs else more
            for v in vectors:
                total = wrapping("add", self.value(i, v), dots.widened(pairs[v], self.dot))
                self.wide.store(self.sums[i], total, v * self.dot.lanes)

    def _widen(self) -> None:
        """Add the 16-bit sums to the wide ones."""
        for i, v in self._places():
            pairs = self.short.load(self.pairs[i], 2 * v * self.dot.lanes)
            total = wrapping("add", self.value(i, v), dots.widened(pairs, self.dot))
            self.wide.store(self.sums[i], total, v * self.dot.lanes)

    def _places(self) -> list[tuple[int, int]]:
        return [(i, v) for i in range(self.tile.rows) for v in range(self.tile.vectors)]
