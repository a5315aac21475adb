"""Attention: softmax(q k^T) v, one tile of rows at a time, so that no score leaves the cache.

For a few rows of q, all their scores are computed into a scratch line, turned into weights by a
softmax whose division waits until the end, and multiplied by v::

    s: (rows, t) = epilogue(q: (rows, d) @ k^T: (d, t))      scale and mask
    p: (rows, t) = exp(s - max(s))
    y: (rows, e) = (p @ v: (t, e)) / sum(p)

Source: A. Vaswani et al., "Attention is all you need", NeurIPS 2017, section 3.2.1, for the
operator; M. Milakov and N. Gimelshein, "Online normalizer calculation for softmax" (2018), for the
late division. A line of scores fits level 1 up to several thousand keys, so the maximum is taken
over the whole line and not block by block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812  (TVM's own name for it)

from tvmopt.kernels import cost, math
from tvmopt.kernels.batch_matmul import View, gather
from tvmopt.kernels.blocks import worth_threads
from tvmopt.kernels.epilogue import STORE, Epilogue
from tvmopt.kernels.micro import Accumulators
from tvmopt.kernels.tile import Tile, choose_tile, panels
from tvmopt.kernels.vector import Expr, Vector, bind, loop, parameters, prim_func, registers
from tvmopt.targets.description import CpuTarget

NOTHING = tirx.const(float("-inf"), "float32")  # a score whose weight is 0
EXP_CYCLES = 12  # exponential, maximum and sum of one vector; measured on Zen 3


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionSite:
    """Attention over one or more batch axes.

    Attributes:
        batch: Extent of each batch axis (images, heads).
        s: Queries of a batch.
        t: Keys and values of a batch.
        d: Elements of a query and a key.
        e: Elements of a value.
        q: Where the queries lie, (s, d).
        k: Where the keys lie, as the (d, t) matrix that the product reads.
        v: Where the values lie, (t, e); ``column`` must be 1.
        output: Where the results go, (s, e); ``column`` must be 1.
        epilogue: What is done to a score before the softmax.
    """

    batch: tuple[int, ...]
    s: int
    t: int
    d: int
    e: int
    q: View
    k: View
    v: View
    output: View
    epilogue: Epilogue = STORE

    @property
    def batches(self) -> int:
        """Attentions in all."""
        return prod(self.batch)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of both products."""
        return self.batches * self.s * self.t * (self.d + self.e)


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionConfig:
    """How attention is cut.

    Attributes:
        scores: The register tile of the first product.
        values: The register tile of the second; it has the same rows.
        lanes: Scores that the softmax takes at once.
        parallel: Whether batches are shared out among threads.
    """

    scores: Tile
    values: Tile
    lanes: int
    parallel: bool

    def pitch(self, t: int) -> int:
        """Return the scores from one line to the next: ``t``, up to whole vectors."""
        return -(-t // self.lanes) * self.lanes


def config(site: AttentionSite, target: CpuTarget) -> AttentionConfig:
    """Return the analytic choice for ``site``."""
    scores = choose_tile(site.s, site.t, target)
    lanes = min(target.lanes(32), site.e)
    widths = {min(v * lanes, site.e) for v in range(1, target.vector_registers)}
    options = [Tile(scores.rows, width, lanes) for width in sorted(widths)]
    values = min(
        (tile for tile in options if tile.fits(target)),
        key=lambda tile: len(panels(site.e, tile)) * tile.cycles(site.t, target),
    )
    return AttentionConfig(
        scores=scores,
        values=values,
        lanes=target.lanes(32),
        parallel=worth_threads(site.macs),
    )


def cycles(site: AttentionSite, how: AttentionConfig, target: CpuTarget) -> float:
    """Return the predicted cycles of one core: both products, the keys' copy and the softmax."""
    rows = site.batches * -(-site.s // how.scores.rows)
    first = rows * len(panels(site.t, how.scores))
    second = rows * len(panels(site.e, how.values))
    weights = site.batches * site.s * how.pitch(site.t) // how.lanes * EXP_CYCLES
    return (
        cost.CALL_CYCLES
        + cost.tile_cycles(how.scores, first, site.d, site.epilogue, target)
        + cost.tile_cycles(how.values, second, site.t, STORE, target)
        + weights
        + site.batches * site.d * site.t
    )


def attention(site: AttentionSite, how: AttentionConfig, name: str) -> tirx.PrimFunc:
    """Return ``name(q, k, v, *operands, y)``, flat float32 tensors of the sizes of the views."""
    rows, pitch = how.scores.rows, how.pitch(site.t)
    tiles = -(-site.s // rows)

    def body() -> None:
        q, k, v, *operands, y = parameters(
            ("q", (site.q.size,)),
            ("k", (site.k.size,)),
            ("v", (site.v.size,)),
            *site.epilogue.operand_parameters((site.batches * site.s * site.t,), (site.s, site.t)),
            ("y", (site.output.size,)),
        )
        with loop(site.batches, parallel=how.parallel) as batch:
            starts = [
                bind(view.offset(site.batch, batch))
                for view in (site.q, site.k, site.v, site.output)
            ]
            keys = gather(site.k, site.d, site.t, k, starts[1])
            line = T.alloc_buffer((rows * pitch,), "float32")
            with T.serial(tiles) as g:
                row = bind(tirx.min(g * rows, site.s - rows))
                _score(site, how, q, keys, operands, line, starts[0], row)
                totals = registers(rows)
                with T.serial(rows) as i:
                    _softmax(site, how, line, totals, i)
                _weigh(site, how, line, totals, v, y, (starts[2], starts[3]), row)

    scratch = (site.d * site.t + rows * pitch) * 4
    return prim_func(name, body, {"tvmopt.macs": site.macs, "tvmopt.scratch_bytes": scratch})


def _score(
    site: AttentionSite,
    how: AttentionConfig,
    q: tirx.Buffer,
    keys: tirx.Buffer,
    operands: list[tirx.Buffer],
    line: tirx.Buffer,
    start: Expr,
    row: Expr,
) -> None:
    """Emit the scores of one tile's rows; what fills a line up to whole vectors weighs nothing."""
    tile, pitch = how.scores, how.pitch(site.t)
    with T.serial(tile.rows) as i, T.serial(pitch - site.t) as j:
        T.buffer_store(line, NOTHING, [i * pitch + site.t + j])
    with T.serial(len(panels(site.t, tile))) as panel:
        column = bind(tirx.min(panel * tile.columns, site.t - tile.columns))
        sums = Accumulators(tile)
        sums.accumulate(
            site.d,
            lambda i, step: q[start + (row + i) * site.q.row + step * site.q.column],
            lambda step, v: sums.vector.load(keys, step * site.t + column + tile.starts[v]),
        )
        sums.write(
            line,
            operands,
            site.epilogue,
            column,
            lambda i: tirx.const(i * pitch, "int32"),
            lambda i: (row + i) * site.t,
        )


def _softmax(
    site: AttentionSite, how: AttentionConfig, line: tirx.Buffer, totals: tirx.Buffer, i: Expr
) -> None:
    """Emit ``line = exp(line - max)`` and the line's sum."""
    vector, pitch = Vector(how.lanes), how.pitch(site.t)
    start, count = bind(i * pitch), pitch // how.lanes
    held = registers(how.lanes)
    vector.store(held, vector.splat(NOTHING), 0)
    with T.serial(count) as j:
        value = vector.load(line, start + j * how.lanes)
        vector.store(held, tirx.max(vector.load(held, 0), value), 0)
    most = bind(_fold(held, how.lanes, tirx.max))
    vector.store(held, vector.splat(0.0), 0)
    with T.serial(count) as j:
        at = bind(start + j * how.lanes)
        weight = bind(math.exp(bind(vector.load(line, at) - vector.splat(most))))
        vector.store(line, weight, at)
        vector.store(held, vector.load(held, 0) + weight, 0)
    T.buffer_store(totals, _fold(held, how.lanes, lambda a, b: a + b), [i])


def _fold(held: tirx.Buffer, lanes: int, combine: Callable[[Expr, Expr], Expr]) -> Expr:
    """Return all elements of a small buffer combined, by halves."""
    values = [held[lane] for lane in range(lanes)]
    while len(values) > 1:
        half = -(-len(values) // 2)
        pairs = [combine(a, b) for a, b in zip(values, values[half:], strict=False)]
        values = [*pairs, *values[len(pairs) : half]]
    return values[0]


def _weigh(
    site: AttentionSite,
    how: AttentionConfig,
    line: tirx.Buffer,
    totals: tirx.Buffer,
    v: tirx.Buffer,
    y: tirx.Buffer,
    starts: tuple[Expr, Expr],
    row: Expr,
) -> None:
    """Emit ``y = line @ v / totals`` for one tile's rows."""
    tile, pitch = how.values, how.pitch(site.t)
    source, out = starts
    with T.serial(len(panels(site.e, tile))) as panel:
        column = bind(tirx.min(panel * tile.columns, site.e - tile.columns))
        sums = Accumulators(tile)
        sums.accumulate(
            site.t,
            lambda i, step: line[i * pitch + step],
            lambda step, w: sums.vector.load(
                v, source + step * site.v.row + column + tile.starts[w]
            ),
        )
        for i in range(tile.rows):
            total = bind(sums.vector.splat(totals[i]))
            at = out + (row + i) * site.output.row + column
            for w, first in enumerate(tile.starts):
                sums.vector.store(y, sums.value(i, w) / total, at + first)
