"""Mirror of tvmopt/schedule/nests.py and groups.py."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax, tirx

from tvmopt.schedule import emit
from tvmopt.schedule.approximate_math import approximate_math
from tvmopt.schedule.expressions import Axis, linear
from tvmopt.schedule.groups import Group, form_groups
from tvmopt.schedule.nests import Nest, Storage, merge
from tvmopt.schedule.stages import read

R = relax.op


def _groups(rest: Any, build: Any, *shapes: tuple[int, ...], local: int = 1 << 16) -> list[Group]:
    mod = rest.fused(build, *(np.zeros(shape, np.float32) for shape in shapes))
    (func,) = (f for _, f in mod.functions_items() if isinstance(f, tirx.PrimFunc))
    return form_groups(emit._bodies(read(approximate_math(func))), local)


def _shared(group: Group) -> list[int]:
    return [axis.extent for axis in group.shared]


def test_softmax_shares_every_axis_but_its_own(rest: Any) -> None:
    (last,) = _groups(rest, lambda x: R.nn.softmax(x), (3, 4, 5))
    assert _shared(last) == [3, 4]
    (middle,) = _groups(rest, lambda x: R.nn.softmax(x, 1), (3, 4, 5))
    assert _shared(middle) == [3, 5]


def test_what_a_round_keeps_is_bounded(rest: Any) -> None:
    assert len(_groups(rest, lambda x: R.nn.softmax(x), (3, 4, 50), local=40)) > 1


def test_a_single_row_is_not_one_group(rest: Any) -> None:
    # Nothing could be shared out among threads, and each stage may want its own loops.
    assert len(_groups(rest, lambda x: R.nn.softmax(x), (1, 1000))) > 1


def test_an_axis_that_is_read_across_is_not_shared(rest: Any) -> None:
    groups = _groups(rest, lambda x: R.nn.max_pool2d(x, (3, 3), (2, 2), (1, 1)), (2, 3, 8, 8))
    assert [_shared(group) for group in groups] == [[2, 3]]


def test_independent_outputs_have_loops_of_their_own(rest: Any) -> None:
    groups = _groups(rest, lambda x: R.split(x, 2, 1), (3, 8))
    assert [_shared(group) for group in groups] == [[3, 4], [3, 4]]


def test_what_nothing_reads_is_not_computed(rest: Any) -> None:
    assert len(_groups(rest, lambda x: R.split(x, 2, 1)[0], (3, 8))) == 1


OUTER, MIDDLE, INNER = (Axis(var=tirx.Var("v", "int64"), extent=extent) for extent in (4, 5, 6))
X, Y = (tirx.decl_buffer((120,), "float32", name) for name in "xy")


def _nest(read_at: tirx.Expr, *more: tirx.Expr) -> Nest:
    value = X[read_at]
    for other in more:
        value = value + other
    return Nest(
        spatial=(),
        reduce=(),
        bindings=(),
        start=(),
        partials=(),
        values=(value,),
        targets=((Y, OUTER.var * 30 + MIDDLE.var * 6 + INNER.var),),
    )


def _merged(nest: Nest) -> list[int]:
    axes, _ = merge([OUTER, MIDDLE, INNER], [nest])
    return [axis.extent for axis in axes]


def test_contiguous_axes_merge_and_keep_the_offsets() -> None:
    nest = _nest(OUTER.var * 30 + MIDDLE.var * 6 + INNER.var)
    axes, replaced = merge([OUTER, MIDDLE, INNER], [nest])
    assert [axis.extent for axis in axes] == [120]
    form = linear(nest.substitute(replaced).targets[0][1])
    assert dict(form.coefficients) == {INNER.var: 1}


def test_a_broadcast_parts_the_axes_it_does_not_have() -> None:
    assert _merged(_nest(INNER.var)) == [20, 6]
    assert _merged(_nest(OUTER.var)) == [4, 30]
    assert _merged(_nest(MIDDLE.var * 6 + INNER.var)) == [4, 30]


def test_axes_that_a_value_uses_stay_apart() -> None:
    index = tirx.Cast("float32", MIDDLE.var)
    assert _merged(_nest(OUTER.var * 30 + MIDDLE.var * 6 + INNER.var, index)) == [4, 5, 6]


def test_a_lookup_parts_the_axes_of_its_index() -> None:
    table = tirx.decl_buffer((20,), "int64", "table")
    assert _merged(_nest(table[OUTER.var * 5 + MIDDLE.var] * 6 + INNER.var)) == [4, 5, 6]


def test_local_storage_has_only_its_own_dimensions() -> None:
    whole = tirx.decl_buffer((4, 5, 6), "float32")
    place = Storage(flat=tirx.decl_buffer((6,), "float32"), dimensions=(2,))
    form = linear(place.offset(whole, [OUTER.var, MIDDLE.var, INNER.var]))
    assert dict(form.coefficients) == {INNER.var: 1}
