"""Products whose activations are quantized at run time, row by row."""

from __future__ import annotations

from math import prod
from typing import TypeGuard

import numpy as np
from tvm import relax

from tvmopt import forms, ir
from tvmopt.forms import Dequantized, Rows, Stored
from tvmopt.forms.rows import SMALLEST
from tvmopt.kernels import code_gemm, quantize_rows
from tvmopt.kernels.code_gemm import ROWS as FEW_ROWS
from tvmopt.kernels.conv_site import ConvSite
from tvmopt.kernels.dot import choose_dot
from tvmopt.kernels.epilogue import Operand
from tvmopt.kernels.qconv_site import QConvSite, largest_of
from tvmopt.kernels.quantize_rows import QuantizeRowsSite
from tvmopt.kernels.weight_site import WeightSite
from tvmopt.lowering.elementwise import Tail, match_tail
from tvmopt.lowering.graph import Graph, KernelCall, Node, Replacement
from tvmopt.lowering.kernel_cache import KernelCache
from tvmopt.lowering.program import SUM, Arg, Input, Program
from tvmopt.lowering.quantized_choice import choose_kernel, weight_bits
from tvmopt.lowering.stored_weight import code_of
from tvmopt.lowering.weight_only import stored_matrix


def match_quantize_rows(
    graph: Graph, node: Node, taken: set[int], kernels: KernelCache
) -> Replacement | None:
    """Return the kernel that gives a tensor's rows as bytes, and their scales, or None.

    ``node`` is the last binding of the form, the float tensor again. It stays: products read the
    bytes, and what nothing reads is dropped.
    """
    rows = forms.match_rows(node.value, graph.definition)
    if rows is None:
        return None
    codes, scale = graph.maker(rows.codes), graph.maker(rows.scale)
    if codes is None or scale is None or not taken.isdisjoint({codes.index, scale.index}):
        return None
    site = QuantizeRowsSite(
        m=_count(rows),
        k=ir.static_shape(rows.x)[-1],
        smallest=float(SMALLEST),
        offset=_offset(graph, node.var, rows, kernels),
    )
    how = quantize_rows.config(site, kernels.target)
    cycles = quantize_rows.cycles(site, how, kernels.target)
    kernel = kernels.get(quantize_rows.quantize_rows, "quantize_rows", site, how, cycles)
    return Replacement(
        site=f"rows {site.m}x{site.k} to bytes",
        call=KernelCall(kernel=kernel, args=(rows.x,)),
        covered=frozenset({codes.index, scale.index}),
        result=codes,
        more=(scale,),
        layer=codes.var.name,
    )


def match_dynamic_product(
    graph: Graph, node: Node, taken: set[int], kernels: KernelCache
) -> Replacement | None:
    """Return the integer kernel for a product of quantized rows and a constant in fewer bits."""
    found = stored_matrix(graph, node)
    rows = None if found is None else forms.match_rows(found[0], graph.definition)
    if found is None or rows is None:
        return None
    x, stored = found
    tail = match_tail(graph, node, taken)
    offset = _offset(graph, x, rows, kernels)
    ways = [_by_channel(rows, offset, stored, tail, kernels)]
    if not offset:
        ways.append(_by_group(rows, stored, tail, kernels))
    possible = [way for way in ways if way is not None]
    if not possible:
        return None
    call, _ = min(possible, key=lambda way: way[1])
    k, n = stored.shape
    return Replacement(
        site=f"dynamic linear {_count(rows)}x{k} @ {k}x{n}",
        call=call,
        covered=tail.covered,
        result=tail.result,
        layer=node.var.name,
    )


def _count(rows: Rows) -> int:
    """Return how many rows there are."""
    return prod(ir.static_shape(rows.x)[:-1])


def _has_columns(stored: Stored) -> TypeGuard[Dequantized]:
    """Say whether a matrix is of integers with zero point 0 and one scale, or one a column."""
    if not isinstance(stored, Dequantized) or np.any(stored.how.zero_point):
        return False
    return not stored.how.scale.ndim or stored.how.axis == 1


def _largest(stored: Dequantized) -> int:
    return largest_of(stored.codes)


def _offset(graph: Graph, x: relax.Expr, rows: Rows, kernels: KernelCache) -> int:
    """Return what to add to the integers of ``rows`` as they are stored.

    Some instructions read unsigned bytes alone; to add 128 once, in memory, costs less than to do
    it each time a product reads a byte. It is done where nothing but such products reads them. A
    few rows are better left to kernels of coded weights, which read signed bytes.

    Args:
        graph: The function.
        x: The variable of the float rows.
        rows: The form that it ends.
        kernels: Knows the target.
    """
    wide = graph.only_user(rows.codes)
    if _count(rows) <= FEW_ROWS or wide is None or graph.only_user(wide.var) is None:
        return 0
    if x in graph.kept:
        return 0
    for user in graph.users.get(x, []):
        found = stored_matrix(graph, user)
        if found is None or not found[0].same_as(x) or not _has_columns(found[1]):
            return 0
        if choose_dot(kernels.target, _largest(found[1])).activation != "uint8":
            return 0
    return 128


def _by_group(
    rows: Rows, stored: Stored, tail: Tail, kernels: KernelCache
) -> tuple[KernelCall, float] | None:
    """Return the kernel that decodes codes of any width, and its predicted cycles, or None."""
    coded = code_of(stored, kernels.target)
    if coded is None:
        return None
    k, n = stored.shape
    site = WeightSite(m=_count(rows), k=k, n=n, code=coded.code, epilogue=tail.epilogue)
    if not code_gemm.applies(site):
        return None
    how = code_gemm.config(site, kernels.target)
    cycles = code_gemm.cycles(site, how, kernels.target)
    types = f"qd8_{coded.code.name}"
    kernel = kernels.get(code_gemm.code_gemm, "gemm", site, how, cycles, types=types)
    tensors = coded.pack(site, how.tile)
    return KernelCall(
        kernel=kernel, args=(rows.codes, rows.scale, *tensors, *tail.operands)
    ), cycles


def _by_channel(
    rows: Rows, offset: int, stored: Stored, tail: Tail, kernels: KernelCache
) -> tuple[KernelCall, float] | None:
    """Return the kernel of 8-bit integers with one scale a column, and its cycles, or None."""
    if not _has_columns(stored):
        return None
    scale, (k, n) = stored.how.scale, stored.shape
    program = _scaled(tail.program, rows, np.ascontiguousarray(np.broadcast_to(scale, (n,))))
    conv = ConvSite(
        batch=1,
        height=1,
        width=_count(rows),
        channels=k,
        out_channels=n,
        kernel=(1, 1),
        epilogue=program.epilogue(),
    )
    weight = np.ascontiguousarray(stored.codes.T).reshape(n, 1, 1, k)
    site = QConvSite(
        conv=conv,
        dtype="uint8" if offset else "int8",
        zero_point=offset,
        largest=_largest(stored),
    )
    types = f"qd8_qc{weight_bits(site.largest)}w"
    chosen = choose_kernel(site, weight, np.zeros(n, np.int64), kernels, types)
    args = (rows.codes, *chosen.packed, *program.tensors)
    return KernelCall(kernel=chosen.kernel, args=args), chosen.cycles


def _scaled(program: Program, rows: Rows, scale: np.ndarray) -> Program:
    """Return the program for sums of integers: they count in units of row times column."""
    new = Program(output=program.output)
    row = new.operand(Input(kind=Operand.ROW, value=rows.scale))
    column = new.operand(Input(kind=Operand.CHANNEL, value=scale))
    values: dict[Arg, Arg] = {SUM: new.step("mul", new.step("mul", SUM, row), column)}
    for i, read in enumerate(program.inputs):
        values[f"operand {i}"] = new.operand(read)
    for i, (op, args) in enumerate(program.steps):
        values[f"step {i}"] = new.step(op, *(values.get(arg, arg) for arg in args))
    return new
