"""Mirror of tvmopt/kernels/rows.py."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvmopt.kernels.rows import LINE_BYTES, Rows, crossing, pitch_of, rows_of
from tvmopt.kernels.vector import parameters, prim_func

SHAPES = st.lists(st.integers(1, 4), min_size=2, max_size=4).map(tuple)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(shape=SHAPES, more=st.integers(0, 5))
def test_strides_and_span_are_those_of_a_slice(shape: tuple[int, ...], more: int) -> None:
    rows = Rows(pitch=shape[-1] + more, align=4)
    places = np.arange(np.prod(shape[:-1]) * rows.pitch).reshape(*shape[:-1], rows.pitch)
    cut = places[..., : shape[-1]]
    index = np.indices(shape)
    strides = np.array(rows.strides(shape)).reshape(-1, *([1] * len(shape)))
    np.testing.assert_array_equal((index * strides).sum(0), cut)
    assert rows.span(shape) == cut.max() + 1


@pytest.mark.parametrize(
    ("first", "item", "align"), [(0, 4, 64), (16, 4, 64), (8, 4, 32), (12, 4, 16), (3, 1, 1)]
)
def test_alignment_is_that_of_the_first_row(first: int, item: int, align: int) -> None:
    assert Rows.within(99, first, item) == Rows(pitch=99, align=align)


def test_a_parameter_keeps_where_its_rows_lie() -> None:
    rows = Rows(pitch=9, align=16)
    tensors = ("x", (2, 3, 4), "float32", rows), ("y", (2, 3, 4)), ("z", (5,))

    def body() -> None:
        parameters(*tensors)

    func = prim_func("kernel", body, {})
    assert [rows_of(param) for param in func.params] == [rows, None, None]
    assert [pitch_of(rows_of(param), 4) for param in func.params[:2]] == [9, 4]


@pytest.mark.parametrize("vector", [16, 32, 64])
@pytest.mark.parametrize(("pitch", "first"), [(24, 0), (24, 4), (23, 1), (32, 8), (48, 16)])
def test_crossing_is_the_share_of_vectors_in_two_lines(pitch: int, first: int, vector: int) -> None:
    # Over so many rows and vectors each place that occurs does so equally often.
    starts = 4 * (first + np.arange(64)[:, None] * pitch) + vector * np.arange(16)
    share = np.mean(starts % LINE_BYTES + vector > LINE_BYTES)
    assert crossing(4 * pitch, 4 * first, vector) == pytest.approx(share)
