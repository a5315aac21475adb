"""Mirror of tvmopt/kernels/views.py."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvmopt.kernels import views
from tvmopt.kernels.rows import Rows, rows_of

SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_join_holds_its_inputs_one_after_another(kit: SimpleNamespace, dtype: str) -> None:
    inputs = [np.arange(n, dtype=dtype).reshape(1, n, 1) for n in (3, 1, 17)]
    kernel = views.join([x.shape for x in inputs], (1, 21, 1), dtype, "join")
    got = kit.run(kernel, *inputs)
    np.testing.assert_array_equal(got, np.concatenate(inputs, 1))
    assert (kernel.attrs["tvmopt.view"], kernel.attrs["tvmopt.cycles"]) == ("join", 0)


def test_a_part_holds_what_follows_its_offset(kit: SimpleNamespace) -> None:
    x = np.arange(24, dtype=np.float32).reshape(4, 6)
    kernel = views.part((4, 6), 7, (2, 5), "float32", "part")
    np.testing.assert_array_equal(kit.run(kernel, x), np.arange(7, 17).reshape(2, 5))
    assert (kernel.attrs["tvmopt.view"], kernel.attrs["tvmopt.view_offset"]) == ("part", 7)


@settings(derandomize=True, max_examples=300, deadline=None)
@given(data=st.data(), shape=SHAPES)
def test_a_box_is_a_run_exactly_where_its_elements_follow_each_other(
    data: st.DataObject, shape: tuple[int, ...]
) -> None:
    out = tuple(data.draw(st.integers(1, extent)) for extent in shape)
    begins = [data.draw(st.integers(0, n - m)) for n, m in zip(shape, out, strict=True)]
    box = tuple(slice(b, b + m) for b, m in zip(begins, out, strict=True))
    places = np.arange(np.prod(shape)).reshape(shape)[box].ravel()
    offset = views.run_offset(shape, begins, out)
    if np.array_equal(places, places[0] + np.arange(len(places))):
        assert offset == places[0]
    else:
        assert offset is None


def test_joins_and_parts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(AssertionError, match="as many elements"):
        views.join([(2,), (3,)], (6,), "float32", "join")
    with pytest.raises(AssertionError, match="not within"):
        views.part((4,), 2, (3,), "float32", "part")


def within(first: int, pitch: int, itemsize: int) -> Rows:
    return Rows.within(pitch, first, itemsize)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_join_of_rows_copies_what_does_not_lie_in_it(kit: SimpleNamespace, dtype: str) -> None:
    inputs = [np.arange(7 * n, dtype=dtype).reshape(7, n) for n in (3, 19, 1)]
    site = views.JoinSite(count=7, widths=(3, 19, 1), dtype=dtype, places=(None,) * 3)
    kernel = views.join_rows(site, kit.HERE, "join")
    np.testing.assert_array_equal(kit.run(kernel, *inputs), np.concatenate(inputs, 1))
    assert site.copied_bytes == 2 * 7 * 23 * np.dtype(dtype).itemsize
    assert views.join_cycles(site, kit.HERE) > 0


def test_a_join_of_rows_that_lie_in_it_costs_nothing(kit: SimpleNamespace) -> None:
    places = (within(0, 9, 4), within(5, 9, 4))
    site = views.JoinSite(count=7, widths=(5, 4), dtype="float32", places=places)
    kernel = views.join_rows(site, kit.HERE, "join")
    assert [rows_of(param) for param in kernel.params] == [*places, None]
    assert kernel.attrs["tvmopt.view"] == "join rows"
    assert (site.copied_bytes, views.join_cycles(site, kit.HERE)) == (0, 0)


def test_a_cut_of_rows_says_where_they_lie() -> None:
    site = views.CutSite(count=7, width=9, first=5, size=4, dtype="float32")
    kernel = views.cut_rows(site, within(5, 9, 4), "cut")
    assert [rows_of(param) for param in kernel.params] == [None, within(5, 9, 4)]
    assert (kernel.attrs["tvmopt.view"], kernel.attrs["tvmopt.view_offset"]) == ("cut rows", 5)
