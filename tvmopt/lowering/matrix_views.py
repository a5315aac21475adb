"""How matrices of activations lie in tensors: transposes around a product become strides."""

from __future__ import annotations

from math import prod

from tvm import relax

from tvmopt import ir
from tvmopt.kernels.batch_matmul import View
from tvmopt.kernels.epilogue import Epilogue, Operand
from tvmopt.lowering.graph import Graph, Node


def operand_view(
    graph: Graph, expr: relax.Expr, batch: tuple[int, ...], taken: set[int]
) -> tuple[relax.Expr, View, frozenset[int]]:
    """Return what to read an operand from, how, and which transposes that makes needless.

    A transpose that is taken is the result of another kernel, and what it reads is no more.
    """
    maker = graph.maker(expr)
    free = maker is not None and maker.index not in taken
    if maker is not None and free and ir.is_call_to(maker.value, "relax.permute_dims"):
        source = maker.value.args[0]
        shape = ir.static_shape(source)
        axes = ir.permutation(maker.value)
        gone = frozenset({maker.index}) if graph.only_user(maker.var) else frozenset()
        return source, _view(shape, axes, batch), gone
    shape = ir.static_shape(expr)
    return expr, _view(shape, range(len(shape)), batch), frozenset()


def output_view(
    graph: Graph, result: Node, epilogue: Epilogue, taken: set[int]
) -> tuple[Node, View]:
    """Return the binding that the product gives, and how it lies in that tensor.

    Where a transpose of rows and batches alone takes the result, the product is written through it.
    """
    shape = ir.static_shape(result.var)
    rank = len(shape)
    user = graph.only_user(result.var)
    dense = View(prod(shape), tuple(_strides(shape)[:-2]), shape[-1], 1)
    if user is None or user.index in taken:
        return result, dense
    if not ir.is_call_to(user.value, "relax.permute_dims"):
        return result, dense
    axes = ir.permutation(user.value)
    if axes[-1] != rank - 1 or Operand.TENSOR in epilogue.operands:
        return result, dense
    there = _strides(ir.static_shape(user.var))
    strides = [there[axes.index(axis)] for axis in range(rank)]
    return user, View(prod(shape), tuple(strides[:-2]), strides[-2], 1)


def _strides(shape: tuple[int, ...]) -> list[int]:
    """Return the strides of a dense tensor, elements."""
    return [prod(shape[i + 1 :]) for i in range(len(shape))]


def _view(shape: tuple[int, ...], axes: list[int] | range, batch: tuple[int, ...]) -> View:
    """Return the view of a dense tensor of ``shape`` whose axes are permuted by ``axes``.

    Batch axes that the operand lacks, or has with extent 1, get stride 0: they are broadcast.
    """
    dense = _strides(shape)
    strides, extents = [dense[a] for a in axes], [shape[a] for a in axes]
    missing = len(batch) - (len(shape) - 2)
    outer = [0] * missing + [
        0 if extent == 1 else stride for stride, extent in zip(strides, extents, strict=True)
    ][:-2]
    return View(prod(shape), tuple(outer), strides[-2], strides[-1])
