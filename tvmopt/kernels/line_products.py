"""The middle stage of Winograd's convolution along a line: a matrix product for each place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812  (TVM's own name for it)

from tvmopt.kernels.micro import Accumulators
from tvmopt.kernels.tile import Tile, panels
from tvmopt.kernels.vector import Expr, Vector, bind, loop, prefetch

STRIDE_PAD = 16  # floats between places, so that their strides are no multiple of 4 KiB


@dataclass(frozen=True, kw_only=True, slots=True)
class Products:
    """``products[place, row, o] = sum_k moved[place, row * pitch + k] * w[place, k, o]``.

    Attributes:
        places: Products in all.
        rows: Rows of each.
        pitch: Floats from one row of ``moved`` to the next; less than ``k`` where rows overlap.
        k: Extent of each sum.
        chunk: Part of ``k`` that is summed at once; divides it. The rest is added in memory.
        columns: Columns of each product, the output channels.
        tile: The register tile: rows by output channels.
        prefetch: Whether the next chunk of weights is fetched ahead.
        parallel: Whether threads share out the products.
    """

    places: int
    rows: int
    pitch: int
    k: int
    chunk: int
    columns: int
    tile: Tile
    prefetch: bool
    parallel: bool

    @property
    def input_pitch(self) -> int:
        """Floats from one place of ``moved`` to the next."""
        return (self.rows - 1) * self.pitch + self.k + STRIDE_PAD

    @property
    def output_pitch(self) -> int:
        """Floats from one place of ``products`` to the next."""
        return self.rows * self.columns + STRIDE_PAD

    @property
    def panels(self) -> int:
        """Panels of weights of one place."""
        return len(panels(self.columns, self.tile))

    def emit(self, moved: tirx.Buffer, w: tirx.Buffer, products: tirx.Buffer) -> None:
        """Emit the products; ``w`` is flat (places, panels, k, tile.width)."""
        tile, chunks = self.tile, self.k // self.chunk
        groups, size = -(-self.rows // tile.rows), self.chunk * tile.width
        share = -(-tile.width // groups)  # of the next chunk's floats: a step's
        with loop(self.places * self.panels, parallel=self.parallel) as task:
            place, panel = bind(task // self.panels), bind(task % self.panels)
            source = place * self.input_pitch
            column = bind(tirx.min(panel * tile.columns, self.columns - tile.columns))
            with T.serial(chunks) as part, T.serial(groups) as g:
                row = bind(tirx.min(g * tile.rows, self.rows - tile.rows))
                sums = Accumulators(tile)
                start = (task * chunks + part) * size
                ahead = start + size + g * self.chunk * share
                sums.accumulate(
                    self.chunk,
                    lambda i, c: moved[source + (row + i) * self.pitch + part * self.chunk + c],
                    lambda c, v: sums.vector.load(w, start + c * tile.width + v * tile.lanes),
                    (lambda c: prefetch(w, ahead + c * share, share)) if self.prefetch else None,
                )
                self._store(sums, products, place, (row, g * tile.rows), column, part)

    def _store(
        self,
        sums: Accumulators,
        products: tirx.Buffer,
        place: Expr,
        rows: tuple[Expr, Expr],
        column: Expr,
        part: Expr,
    ) -> None:
        """Emit the stores of a tile's sums; those of later chunks are added to the first's.

        ``rows`` are the tile's first row and the first that no tile before it has added.
        """
        row, fresh = rows
        vector = sums.vector

        def put(i: int, *, add: bool) -> None:
            at = place * self.output_pitch + (row + i) * self.columns + column
            values = [sums.value(i, v) for v in range(self.tile.vectors)]
            if add:  # all are read before one is written, for two vectors may overlap
                read = [bind(vector.load(products, at + start)) for start in self.tile.starts]
                values = [value + before for value, before in zip(values, read, strict=True)]
            for value, start in zip(values, self.tile.starts, strict=True):
                vector.store(products, value, at + start)

        def add(i: int) -> None:
            if self.rows % self.tile.rows == 0:
                put(i, add=True)
                return
            with T.If(row + i >= fresh), T.Then():
                put(i, add=True)

        if self.k == self.chunk:
            for i in range(self.tile.rows):
                put(i, add=False)
            return
        with T.If(part == 0):
            with T.Then():
                for i in range(self.tile.rows):
                    put(i, add=False)
            with T.Else():
                for i in range(self.tile.rows):
                    add(i)


def each_vector(channels: int, lanes: int, emit: Callable[[Vector, Expr], None]) -> None:
    """Emit a loop over the vectors of a pixel's channels, the last one overlapping."""
    vector = Vector(min(lanes, channels))
    with T.serial(-(-channels // vector.lanes)) as i:
        emit(vector, bind(tirx.min(i * vector.lanes, channels - vector.lanes)))


def either(inside: Expr, transform: Callable[..., None]) -> None:
    """Emit ``transform(check=...)`` twice: without tests of its bounds where all are inside."""
    with T.If(inside):
        with T.Then():
            transform(check=False)
        with T.Else():
            transform(check=True)
