"""Mirror of tvmopt/lowering/matrix_views.py: a view addresses what the transposed tensor holds."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided
from tvm import relax

from tvmopt.kernels.batch_matmul import View
from tvmopt.kernels.epilogue import STORE, Epilogue, Operand, Step
from tvmopt.lowering.graph import Graph
from tvmopt.lowering.matrix_views import operand_view, output_view

op = relax.op


def addressed(data: np.ndarray, view: View, shape: tuple[int, ...]) -> np.ndarray:
    """Return the matrices, (batch..., rows, columns), that ``view`` finds in dense ``data``."""
    assert view.size == data.size
    strides = (*view.batch, view.row, view.column)
    last = sum((extent - 1) * stride for extent, stride in zip(shape, strides, strict=True))
    assert last < data.size, "the view ends outside the tensor"
    return as_strided(data.reshape(-1), shape, [stride * data.itemsize for stride in strides])


def numbered(shape: tuple[int, ...]) -> np.ndarray:
    """Return a dense array whose elements all differ."""
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def turned(
    kit: SimpleNamespace, shape: tuple[int, ...], axes: tuple[int, ...] | None, twice: bool = False
) -> tuple[Graph, relax.Var]:
    """Return a function that transposes its input, and the transposed variable."""

    def body(emit: object, x: relax.Var) -> relax.Expr | tuple[relax.Expr, ...]:
        y = emit(op.permute_dims(x, axes))
        z = emit(op.exp(y))
        return (z, emit(op.sin(y))) if twice else z

    graph = Graph.of(kit.module(body, shape)["main"])
    return graph, graph.nodes[0].var


extents = st.lists(st.integers(1, 4), min_size=2, max_size=4).map(tuple)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(shape=extents, data=st.data())
def test_a_transposed_operand_is_read_where_it_lies(
    kit: SimpleNamespace, shape: tuple[int, ...], data: st.DataObject
) -> None:
    axes = tuple(data.draw(st.permutations(range(len(shape)))))
    graph, y = turned(kit, shape, axes)
    x = numbered(shape)
    wanted = x.transpose(axes)
    source, view, gone = operand_view(graph, y, wanted.shape[:-2], set())
    assert source.same_as(graph.nodes[0].value.args[0])
    assert gone == {0}
    np.testing.assert_array_equal(addressed(x, view, wanted.shape), wanted)


def test_without_axes_a_transpose_reverses_them(kit: SimpleNamespace) -> None:
    graph, y = turned(kit, (2, 3, 4), None)
    _, view, _ = operand_view(graph, y, (4,), set())
    x = numbered((2, 3, 4))
    np.testing.assert_array_equal(addressed(x, view, (4, 3, 2)), x.transpose())


def test_a_transpose_that_others_read_is_not_needless(kit: SimpleNamespace) -> None:
    graph, y = turned(kit, (2, 3), (1, 0), twice=True)
    source, _, gone = operand_view(graph, y, (), set())
    assert source.same_as(graph.nodes[0].value.args[0])
    assert gone == frozenset()


@pytest.mark.parametrize(
    ("shape", "batch"),
    [
        ((3, 4), ()),
        ((3, 4), (2, 5)),
        ((5, 3, 4), (2, 5)),
        ((1, 3, 4), (5,)),
        ((2, 1, 3, 4), (2, 5)),
    ],
    ids=str,
)
def test_missing_and_single_batches_are_broadcast(
    kit: SimpleNamespace, shape: tuple[int, ...], batch: tuple[int, ...]
) -> None:
    graph = Graph.of(kit.module(lambda _, x: op.exp(x), shape)["main"])
    x = graph.nodes[0].value.args[0]
    source, view, gone = operand_view(graph, x, batch, set())
    data = numbered(shape)
    wanted = np.broadcast_to(data, (*batch, *shape[-2:]))
    assert source.same_as(x)
    assert gone == frozenset()
    np.testing.assert_array_equal(addressed(data, view, wanted.shape), wanted)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(shape=extents, data=st.data())
def test_a_result_is_written_through_a_transpose_that_keeps_columns(
    kit: SimpleNamespace, shape: tuple[int, ...], data: st.DataObject
) -> None:
    axes = tuple(data.draw(st.permutations(range(len(shape)))))

    def body(emit: object, x: relax.Var) -> relax.Expr:
        return op.permute_dims(emit(op.exp(x)), axes)

    graph = Graph.of(kit.module(body, shape)["main"])
    product, transpose = graph.nodes[0], graph.nodes[1]
    result, view = output_view(graph, product, STORE, set())
    assert view.column == 1
    through = axes[-1] == len(shape) - 1
    assert result.index == (transpose.index if through else product.index)
    # Writing matrix by matrix through the view leaves the (transposed) tensor.
    x = numbered(shape)
    written = np.full(x.size, np.nan, np.float32)
    addressed(written, view, shape)[...] = x
    np.testing.assert_array_equal(written, (x.transpose(axes) if through else x).ravel())


def test_a_residual_keeps_the_result_where_it_is(kit: SimpleNamespace) -> None:
    # Its elements lie as the output's do, and it is not transposed.
    def body(emit: object, x: relax.Var) -> relax.Expr:
        return op.permute_dims(emit(op.exp(x)), [1, 0, 2])

    graph = Graph.of(kit.module(body, (2, 3, 4))["main"])
    residual = Epilogue((Operand.TENSOR,), (Step("add", (0, 1)),))
    plane = Epilogue((Operand.PLANE,), (Step("add", (0, 1)),))
    assert output_view(graph, graph.nodes[0], residual, set())[0].index == 0
    assert output_view(graph, graph.nodes[0], plane, set())[0].index == 1
