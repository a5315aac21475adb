"""Matrix products of two activations, one for each batch: attention's scores and their use.

``y[b, m, n] = epilogue(sum_k x[b, m, k] * w[b, k, n])``. Each operand is addressed by strides, so
that the transposes around attention heads need no copy of their own. Where the columns of w are
not contiguous, they are gathered once for each batch into a scratch panel.

Source: none; derived here.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812  (TVM's own name for it)

from tvmopt.kernels import cost
from tvmopt.kernels.blocks import worth_threads
from tvmopt.kernels.epilogue import STORE, Epilogue
from tvmopt.kernels.micro import Accumulators
from tvmopt.kernels.tile import choose_tile, panels
from tvmopt.kernels.vector import Expr, bind, loop, parameters, prim_func
from tvmopt.targets.description import CpuTarget


@dataclass(frozen=True, slots=True)
class View:
    """How a batch of matrices lies in a tensor.

    Attributes:
        size: Elements of the whole tensor.
        batch: Stride of each batch axis, elements.
        row: Stride of a row, elements.
        column: Stride of a column, elements.
    """

    size: int
    batch: tuple[int, ...]
    row: int
    column: int

    def offset(self, extents: tuple[int, ...], batch: Expr) -> Expr:
        """Return where the matrix of that number starts, given the batch axes' extents."""
        place: Expr = tirx.const(0, "int32")
        for extent, stride in zip(reversed(extents), reversed(self.batch), strict=True):
            place = place + batch % extent * stride
            batch = batch // extent
        return place


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchMatmulSite:
    """Products of two activations.

    Attributes:
        batch: Extent of each batch axis.
        m: Rows of a left matrix.
        k: Columns of a left matrix, rows of a right one.
        n: Columns of a right matrix.
        left: Where the left matrices lie.
        right: Where the right matrices lie.
        output: Where the products go; ``column`` must be 1.
        epilogue: What follows the product; its tensor operands lie as the output does.
    """

    batch: tuple[int, ...]
    m: int
    k: int
    n: int
    left: View
    right: View
    output: View
    epilogue: Epilogue = STORE

    @property
    def batches(self) -> int:
        """Products in all."""
        return prod(self.batch)

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return self.batches * self.m * self.k * self.n


def cycles(site: BatchMatmulSite, target: CpuTarget) -> float:
    """Return the predicted cycles of one core: tiles, and the panels that are gathered."""
    tile = choose_tile(site.m, site.n, target)
    count = site.batches * len(panels(site.n, tile))
    tiles = cost.tile_cycles(tile, count * -(-site.m // tile.rows), site.k, site.epilogue, target)
    gathered = count * site.k * tile.columns if site.right.column != 1 else 0
    return cost.CALL_CYCLES + tiles + gathered


def batch_matmul(site: BatchMatmulSite, target: CpuTarget, name: str) -> tirx.PrimFunc:
    """Return ``name(x, w, y)``, flat float32 tensors of the sizes that the views say."""
    tile = choose_tile(site.m, site.n, target)
    count, tiles = len(panels(site.n, tile)), -(-site.m // tile.rows)
    gathered = site.right.column != 1

    def body() -> None:
        x, w, *operands, y = parameters(
            ("x", (site.left.size,)),
            ("w", (site.right.size,)),
            *site.epilogue.parameters((site.output.size,), (site.m, site.n)),
        )
        with loop(site.batches * count, parallel=worth_threads(site.macs)) as task:
            batch, panel = bind(task // count), bind(task % count)
            column = bind(tirx.min(panel * tile.columns, site.n - tile.columns))
            place = bind(site.right.offset(site.batch, batch))
            right, at, pitch = w, place + column, site.right.row
            if gathered:
                start = bind(place + column * site.right.column)
                right, at, pitch = (
                    gather(site.right, site.k, tile.columns, w, start),
                    0,
                    tile.columns,
                )
            left = bind(site.left.offset(site.batch, batch))
            out = bind(site.output.offset(site.batch, batch))
            with T.serial(tiles) as g:
                row = bind(tirx.min(g * tile.rows, site.m - tile.rows))
                sums = Accumulators(tile)
                sums.accumulate(
                    site.k,
                    lambda i, step: x[left + (row + i) * site.left.row + step * site.left.column],
                    lambda step, v: sums.vector.load(right, at + step * pitch + tile.starts[v]),
                )
                sums.write(
                    y,
                    operands,
                    site.epilogue,
                    column,
                    lambda i: out + (row + i) * site.output.row,
                    lambda i: (row + i) * site.n,
                )

    scratch = site.k * tile.columns * 4 if gathered else 0
    return prim_func(name, body, {"tvmopt.macs": site.macs, "tvmopt.scratch_bytes": scratch})


def gather(view: View, k: int, columns: int, w: tirx.Buffer, start: Expr) -> tirx.Buffer:
    """Emit the copy of ``columns`` columns, (k, columns), out of a matrix whose columns are apart.

    Args:
        view: How the matrix lies in ``w``.
        k: Its rows.
        columns: How many columns are copied.
        w: The tensor.
        start: Where the first of them begins.
    """
    panel = T.alloc_buffer((k * columns,), "float32")
    with T.serial(columns) as j, T.serial(k) as step:
        value = w[start + step * view.row + j * view.column]
        T.buffer_store(panel, value, [step * columns + j])
    return panel
