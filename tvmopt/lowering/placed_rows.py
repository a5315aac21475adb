"""Which kernels read and write rows within wider ones, and the same kernels made so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tvm import tirx

from tvmopt.kernels import (
    conv,
    conv_transpose,
    depthwise,
    gemm,
    pool,
    qconv,
    sparse_conv,
    winograd,
    winograd_line,
)
from tvmopt.kernels.conv_site import ConvSite
from tvmopt.kernels.epilogue import Epilogue, Operand
from tvmopt.kernels.gemm import GemmSite
from tvmopt.kernels.pool import PoolSite
from tvmopt.kernels.rows import Rows
from tvmopt.lowering.graph import KernelCall
from tvmopt.lowering.kernel_cache import KernelCache

READERS = (
    conv.conv,
    depthwise.depthwise,
    gemm.gemm,
    pool.pool,
    winograd.winograd,
    winograd_line.winograd_line,
)
WRITERS = (*READERS, conv_transpose.conv_transpose, qconv.qconv, sparse_conv.sparse_conv)


def can_write(call: KernelCall, kernels: KernelCache) -> bool:
    """Say whether a kernel can write rows within wider ones."""
    order = kernels.order(call.kernel)
    return order is not None and order.generator in WRITERS


def can_read(call: KernelCall, number: int, kernels: KernelCache) -> bool:
    """Say whether a kernel can read such rows as its argument of that number."""
    order = kernels.order(call.kernel)
    if order is None:
        return False
    if number == 0:
        return order.generator in READERS and not getattr(order.site, "planar", False)
    epilogue = _epilogue(order.site)
    operand = number - len(call.args) + len(epilogue.operands)
    whole = operand >= 0 and epilogue.operands[operand] is Operand.TENSOR
    return whole and order.generator in WRITERS


def placed(
    call: KernelCall, reads: Sequence[Rows | None], result: Rows | None, kernels: KernelCache
) -> tirx.PrimFunc:
    """Return a call's kernel, made for rows that lie elsewhere.

    Args:
        call: A call whose kernel can.
        reads: Where the rows of each argument lie; None where they follow one another.
        result: The same of the result.
        kernels: The model's kernels.
    """
    order = kernels.order(call.kernel)
    assert order is not None, "only generated kernels can be placed"
    site = _placed(order.site, reads, result)
    return kernels.get(order.generator, order.kind, site, order.how, order.cycles, order.types)


def _epilogue(site: Any) -> Epilogue:
    return getattr(site, "epilogue", Epilogue())


def _placed(site: Any, reads: Sequence[Rows | None], result: Rows | None) -> Any:
    """Return a site with its rows in other places."""
    if isinstance(site, PoolSite):
        return replace(site, input_rows=reads[0], output_rows=result)
    if hasattr(site, "conv"):
        return replace(site, conv=_placed(site.conv, reads, result))
    count = len(site.epilogue.operands)
    own = tuple(reads[len(reads) - count :])
    epilogue = replace(
        site.epilogue, rows=result, operand_rows=own if any(rows for rows in own) else ()
    )
    if isinstance(site, ConvSite | GemmSite):
        return replace(site, epilogue=epilogue, input_rows=reads[0])
    return replace(site, epilogue=epilogue)
