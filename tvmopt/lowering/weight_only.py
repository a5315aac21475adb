"""Products of floats with a constant in fewer bits: only the weights are small."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
from tvm import relax, tirx

from tvmopt import forms, ir
from tvmopt.forms import Cast, Codebook, Dequantized, Grouped, Stored
from tvmopt.kernels import gemm, weight_gemm, weight_gemv
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
from tvmopt.lowering.elementwise import match_tail
from tvmopt.lowering.graph import Graph, KernelCall, Node, Replacement
from tvmopt.lowering.kernel_cache import KernelCache
from tvmopt.targets.description import CpuTarget


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


def match_weight_only(
    graph: Graph, node: Node, taken: set[int], kernels: KernelCache
) -> Replacement | None:
    """Return the kernel for a float product with a constant matrix in fewer bits, or None."""
    found = stored_matrix(graph, node)
    if found is None:
        return None
    x, stored = found
    k, n = stored.shape
    tail = match_tail(graph, node, taken)
    coded = code_of(stored, kernels.target)
    m = prod(ir.static_shape(x)[:-1])
    note = ""
    if coded is None:
        plain = gemm.GemmSite(m=m, k=k, n=n, epilogue=tail.epilogue)
        how = gemm.config(plain, kernels.target)
        cycles = gemm.cycles(plain, how, kernels.target)
        kernel = kernels.get(gemm.gemm, "gemm", plain, how, cycles)
        packed: tuple[np.ndarray, ...] = (gemm.pack(stored.value(), how.tile),)
        note = "no kernel reads such codes; the weights are stored as float32"
    else:
        site = WeightSite(m=m, k=k, n=n, code=coded.code, epilogue=tail.epilogue)
        kernel, tile = _kernel(site, kernels)
        packed = coded.pack(site, tile)
    return Replacement(
        site=f"linear {m}x{k} @ {k}x{n}",
        call=KernelCall(kernel=kernel, args=(x, *packed, *tail.operands)),
        covered=tail.covered,
        result=tail.result,
        layer=node.var.name,
        note=note,
    )


def stored_matrix(graph: Graph, node: Node) -> tuple[relax.Expr, Stored] | None:
    """Return both sides of a float product with a constant matrix in fewer bits, (k, n), or None.

    A constant of more axes counts where all but the last two are 1.
    """
    call = node.value
    if not ir.is_call_to(call, "relax.matmul") or ir.dtype(node.var) != "float32":
        return None
    x, weight = call.args
    stored = forms.match_stored(weight, graph.definition)
    if stored is None or min(len(stored.shape), len(ir.static_shape(x))) < 2:
        return None
    if prod(stored.shape[:-2]) != 1:
        return None
    if len(stored.shape) > 2:
        stored = stored.reshaped(stored.shape[-2:])
    return None if stored is None else (x, stored)


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


def _kernel(site: WeightSite, kernels: KernelCache) -> tuple[tirx.PrimFunc, Tile]:
    """Return the kernel of a product with coded weights, and its tile."""
    target, name = kernels.target, site.code.name
    if weight_gemv.applies(site):
        few = weight_gemv.config(site, target)
        cycles = weight_gemv.cycles(site, few, target)
        kernel = kernels.get(weight_gemv.weight_gemv, f"{name}_gemv", site, few, cycles)
        return kernel, few.tile
    many = weight_gemm.config(site, target)
    cycles = weight_gemm.cycles(site, many, target)
    kernel = kernels.get(weight_gemm.weight_gemm, f"{name}_gemm", site, many, cycles)
    return kernel, many.tile
