"""The micro-kernel that matrix products and convolutions share: one register tile.

A PrimFunc may hold only one: with two, LLVM schedules across them and spills accumulators.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812  (TVM's own name for it)

from tvmopt.kernels.epilogue import Epilogue, Operand
from tvmopt.kernels.rows import Rows
from tvmopt.kernels.tile import Tile
from tvmopt.kernels.vector import Expr, Vector, bind, registers


class Accumulators:
    """The tile's partial sums, in registers."""

    def __init__(self, tile: Tile) -> None:
        self.tile = tile
        self.vector = Vector(tile.lanes)
        self.sums = [registers(tile.vectors * tile.lanes) for _ in range(tile.rows)]
        for i in range(tile.rows):
            for v in range(tile.vectors):
                self._set(i, v, self.vector.splat(0.0))

    def accumulate(
        self,
        k: int,
        row: Callable[[int, Expr], Expr],
        columns: Callable[[Expr, int], Expr],
        ahead: Callable[[Expr], None] | None = None,
    ) -> None:
        """Emit ``sums[i, v] += row(i, k) * columns(k, v)`` for every k.

        Args:
            k: Extent of the contraction.
            row: Gives the scalar of row i at step k.
            columns: Gives the v-th vector of the columns at step k.
            ahead: Emits a prefetch at step k.
        """
        with T.serial(k) as step:
            if ahead is not None:
                ahead(step)
            right = [bind(columns(step, v)) for v in range(self.tile.vectors)]
            for i in range(self.tile.rows):
                left = bind(self.vector.splat(row(i, step)))
                for v in range(self.tile.vectors):
                    self._set(i, v, self.value(i, v) + left * right[v])

    def accumulate_listed(
        self,
        extent: Expr,
        place: Callable[[Expr], Expr],
        row: Callable[[int, Expr], Expr],
        columns: Callable[[Expr, int], Expr],
        sets: int = 1,
    ) -> None:
        """Emit the products of steps whose inputs lie where a list says.

        Args:
            extent: Steps, a multiple of ``sets``.
            place: Gives a step's place.
            row: Gives the scalar of row i at a place.
            columns: Gives the v-th vector of the columns at a step.
            sets: Sums that take the steps in turn: with few of them, a multiply-add would wait for
                the one before.
        """
        more = [Accumulators(self.tile) for _ in range(sets - 1)]
        with T.serial(extent // sets if more else extent) as turn:
            for number, held in enumerate([self, *more]):
                step = turn * sets + number if more else turn
                at = bind(place(step))
                right = [bind(columns(step, v)) for v in range(self.tile.vectors)]
                for i in range(self.tile.rows):
                    left = bind(self.vector.splat(row(i, at)))
                    for v in range(self.tile.vectors):
                        held._set(i, v, held.value(i, v) + left * right[v])
        for held in more:
            for i in range(self.tile.rows):
                for v in range(self.tile.vectors):
                    self._set(i, v, self.value(i, v) + held.value(i, v))

    def write(
        self,
        output: tirx.Buffer,
        operands: list[tirx.Buffer],
        epilogue: Epilogue,
        column: Expr,
        offset: Callable[[int], Expr],
        plane: Callable[[int], Expr] | None = None,
        row: Callable[[int], Expr] | None = None,
    ) -> None:
        """Emit the epilogue and the stores.

        Args:
            output: Flat output.
            operands: Flat operands of the epilogue.
            epilogue: What is done to the sums.
            column: The tile's first column.
            offset: Gives the output's offset of row i, column 0 of the matrix.
            plane: The same for an operand that follows the two innermost axes alone.
            row: As ``write_tile`` takes it.
        """
        write_tile(
            self.tile, self.value, output, operands, epilogue, column, offset, plane, row=row
        )

    def value(self, i: int, v: int) -> Expr:
        """Return the v-th vector of row i."""
        return self.vector.load(self.sums[i], v * self.tile.lanes)

    def _set(self, i: int, v: int, value: Expr) -> None:
        self.vector.store(self.sums[i], value, v * self.tile.lanes)


def write_tile(
    tile: Tile,
    value: Callable[[int, int], Expr],
    output: tirx.Buffer,
    operands: list[tirx.Buffer],
    epilogue: Epilogue,
    column: Expr,
    offset: Callable[[int], Expr],
    plane: Callable[[int], Expr] | None = None,
    *,
    lanes: int | None = None,
    row: Callable[[int], Expr] | None = None,
) -> None:
    """Emit the epilogue and the stores of a tile.

    Args:
        tile: The register tile.
        value: Gives the v-th vector of sums of row i.
        output: As ``Accumulators.write`` takes it, and so the rest.
        operands: See there.
        epilogue: See there.
        column: See there.
        offset: See there.
        plane: See there.
        lanes: Columns of a vector that exist; None for all.
        row: Gives the number of row i in the matrix, for operands of one element a row, and for
            tensors whose rows lie within wider ones.
    """
    vector = Vector(lanes or tile.lanes)
    whole = vector.lanes == tile.lanes

    def number(i: int) -> Expr:
        assert row is not None, "the kernel knows no rows"
        return row(i)

    def place(i: int, rows: Rows | None) -> Expr:
        """Return where row i begins in a tensor of the output's shape."""
        return offset(i) if rows is None else number(i) * rows.pitch

    def real(i: int, v: int) -> Expr:
        """Return the last float32 value of the v-th vector of row i."""
        at = column + tile.starts[v]

        def load(operand: int, kind: Operand) -> Expr:
            if kind is Operand.ROW:
                return vector.splat(operands[operand][number(i)])
            if kind is Operand.ONE:
                return vector.splat(operands[operand][0])
            if kind is Operand.CHANNEL:
                return vector.load(operands[operand], at)
            if kind is Operand.PLANE and plane is not None:
                return vector.load(operands[operand], plane(i) + at)
            return vector.load(operands[operand], place(i, epilogue.rows_of(operand)) + at)

        return epilogue.real(vector, value(i, v), load)

    for i in range(tile.rows):
        for group in _groups(tile, pairs=epilogue.output is not None and whole):
            stored = Vector(vector.lanes * len(group))
            result = stored.joined([real(i, v) for v in group])
            if epilogue.output is not None:
                result = epilogue.output.apply(result)
            stored.store(output, result, place(i, epilogue.rows) + column + tile.starts[group[0]])


def _groups(tile: Tile, *, pairs: bool) -> list[list[int]]:
    """Return the vectors of a row that are stored at once, by number.

    Integers are narrowed two vectors at a time where these lie side by side.
    """
    groups: list[list[int]] = []
    for v, start in enumerate(tile.starts):
        beside = groups and len(groups[-1]) == 1 and start == tile.starts[v - 1] + tile.lanes
        if pairs and beside:
            groups[-1].append(v)
        else:
            groups.append([v])
    return groups
