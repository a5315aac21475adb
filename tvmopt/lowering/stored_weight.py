"""Constants in fewer bits, as matrices that kernels read; or as the floats that they stand for."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from tvm import relax

from tvmopt import forms, ir
from tvmopt.forms import Cast, Codebook, Dequantized, Grouped, Stored
from tvmopt.kernels.tile import Tile
from tvmopt.kernels.weight_code import (
    BLOCK,
    WORD,
    HalfCode,
    IntCode,
    TableCode,
    WeightCode,
    permuted_entries,
)
from tvmopt.kernels.weight_site import WeightSite
from tvmopt.lowering.graph import Graph
from tvmopt.targets.description import CpuTarget

NO_CODE = "no kernel reads such codes; the weights are stored as float32"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Coded:
    """A matrix as kernels store it.

    Attributes:
        code: How.
        codes: (k, n): unsigned codes, or floats of 16 bits.
        scale: (groups, n) float32, where the code has groups.
        zero: (groups, n) uint8, where each group has its own zero point.
        table: The entries, float32, where codes are their numbers.
    """

    code: WeightCode
    codes: np.ndarray
    scale: np.ndarray | None = None
    zero: np.ndarray | None = None
    table: np.ndarray | None = None

    def pack(self, site: WeightSite, tile: Tile) -> tuple[np.ndarray, ...]:
        """Return the tensors that a kernel takes."""
        return site.pack(self.codes, tile, scale=self.scale, zero=self.zero, table=self.table)


def float_weight(graph: Graph, expr: relax.Expr) -> np.ndarray | None:
    """Return the floats that a constant holds, or those that one in fewer bits stands for."""
    value = ir.float_constant(expr)
    if value is not None:
        return value
    stored = forms.match_stored(expr, graph.definition)
    if stored is None or (isinstance(stored, Cast) and stored.dtype != "float32"):
        return None
    return stored.value()


def taps_by_outputs(stored: Stored) -> Stored | None:
    """Return a convolution's weight, (o, kh, kw, c), as the matrix (kh * kw * c, o) of its product.

    None where scales follow another axis than outputs, or channels in groups.
    """
    o, *taps = stored.shape
    k = int(np.prod(taps))
    if isinstance(stored, Cast):
        return replace(stored, values=_turned(stored.values))
    if isinstance(stored, Codebook):
        return replace(stored, codes=_turned(stored.codes))
    if isinstance(stored, Dequantized):
        if stored.how.scale.ndim and stored.how.axis != 0:
            return None
        return replace(stored, codes=_turned(stored.codes), how=replace(stored.how, axis=1))
    if stored.axis != len(taps):
        return None
    size = stored.codes.shape[-1]

    def matrix(values: np.ndarray, inner: int) -> np.ndarray:
        """Return (o, kh, kw, groups, inner), or what broadcasts to it, as (groups, inner, o)."""
        whole = np.broadcast_to(values, (o, *taps[:-1], taps[-1] // size, inner))
        return np.ascontiguousarray(whole.reshape(o, k // size, inner).transpose(1, 2, 0))

    return Grouped(
        codes=matrix(stored.codes, size),
        scale=matrix(stored.scale, 1),
        zero=None if stored.zero is None else matrix(stored.zero, 1),
        axis=0,
    )


def _turned(values: np.ndarray) -> np.ndarray:
    """Return (o, ...) as (the rest, o)."""
    return np.ascontiguousarray(values.reshape(len(values), -1).T)


def code_of(stored: Stored, target: CpuTarget) -> Coded | None:
    """Return the matrix as kernels of ``target`` store it; None where none reads it."""
    if isinstance(stored, Cast):
        name = str(stored.values.dtype)
        halves = name in ("float16", "bfloat16")
        if halves:
            return Coded(code=HalfCode(name), codes=stored.values)
        ones = np.ones((1, stored.shape[1]), np.float32)
        return _integers(stored.values[None], ones, np.zeros_like(ones))
    if isinstance(stored, Codebook):
        bits = max(2, (len(stored.table) - 1).bit_length())
        code = TableCode(bits, permuted_entries(target))
        return Coded(code=code, codes=stored.codes.view(np.uint8), table=stored.table)
    if isinstance(stored, Dequantized):
        scale, zero = (_spread(a, stored) for a in (stored.how.scale, stored.how.zero_point))
        if scale is None or zero is None:
            return None
        return _integers(stored.codes[None], scale, zero)
    return _grouped(stored)


def _spread(values: np.ndarray, stored: Dequantized) -> np.ndarray | None:
    """Return one value for each column, (1, n); None where they follow the rows."""
    n = stored.shape[1]
    if values.ndim and stored.how.axis != 1:
        return None
    return np.broadcast_to(values, (n,)).reshape(1, n)


def _grouped(stored: Grouped) -> Coded | None:
    if stored.axis != 0:
        return None
    groups, size, n = stored.codes.shape
    fits = groups == 1 or (size % WORD == 0 and (size % BLOCK == 0 or BLOCK % size == 0))
    if not fits:
        return None
    zero = np.zeros((1, 1, 1), np.float32) if stored.zero is None else stored.zero
    scale, zero = (np.broadcast_to(a, (groups, 1, n))[:, 0] for a in (stored.scale, zero))
    return _integers(stored.codes, scale, zero)


def _integers(codes: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> Coded | None:
    """Return integers as unsigned codes of the fewest bits that hold them.

    Args:
        codes: (groups, size, n).
        scale: (groups, n).
        zero: (groups, n), the numbers that stand for 0.
    """
    wide = codes.astype(np.int64)
    low = int(wide.min())
    bits = max(2, (int(wide.max()) - low).bit_length())
    if bits > 8 or not np.array_equal(zero, np.rint(zero)):
        return None
    moved = zero.astype(np.int64) - low
    one = int(moved.flat[0])
    same = bool(np.all(moved == one)) and abs(one) < 2**15
    if not same and (moved.min() < 0 or moved.max() > 255):
        return None
    groups, size, n = codes.shape
    return Coded(
        code=IntCode(bits, size, one if same else None),
        codes=(wide - low).astype(np.uint8).reshape(groups * size, n),
        scale=np.ascontiguousarray(scale, np.float32),
        zero=None if same else moved.astype(np.uint8),
    )
