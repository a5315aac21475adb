"""Mirror of tvmopt/schedule/expressions.py."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import tirx
from tvm.ir import Expr

from tvmopt.schedule import expressions
from tvmopt.schedule.expressions import Axis, linear

I, J = tirx.Var("i", "int64"), tirx.Var("j", "int64")  # noqa: E741
X = tirx.decl_buffer((4, 5), "float32", "x")


def _leaves() -> st.SearchStrategy[Expr]:
    return st.one_of(
        st.sampled_from([I, J]), st.integers(-9, 9).map(lambda n: tirx.IntImm("int64", n))
    )


def _affine(inner: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    number = st.integers(-5, 5)
    return st.one_of(
        st.builds(tirx.Add, inner, inner),
        st.builds(tirx.Sub, inner, inner),
        st.builds(lambda e, n: tirx.Mul(e, tirx.IntImm("int64", n)), inner, number),
        st.builds(lambda e, n: tirx.Mul(tirx.IntImm("int64", n), e), inner, number),
    )


def _value(node: Expr, i: int, j: int) -> int:
    numbers = {I: tirx.IntImm("int64", i), J: tirx.IntImm("int64", j)}
    return int(expressions.analyzer([]).simplify(expressions.substitute(node, numbers)))


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.recursive(_leaves(), _affine, max_leaves=8), st.integers(-7, 7), st.integers(-7, 7))
def test_a_linear_form_has_the_value_of_its_expression(node: Expr, i: int, j: int) -> None:
    form = linear(node)
    assert not form.opaque
    by_form = form.coefficients.get(I, 0) * i + form.coefficients.get(J, 0) * j + form.constant
    assert by_form == _value(node, i, j)


@pytest.mark.parametrize(
    "node", [I // 3, I % 3, I * J, tirx.max(I, J), I + X[I, 0].astype("int64")]
)
def test_what_is_not_linear_is_opaque_in_its_variables(node: Expr) -> None:
    assert linear(node + 2 * J).stride(I) is None


def test_a_name_is_opaque_in_what_it_stands_for() -> None:
    name = tirx.Var("n", "int64")
    form = linear(name + J, {name: frozenset({I})})
    assert (form.stride(I), form.stride(J), form.stride(name)) == (None, 1, 0)


def test_variables_leave_buffers_out() -> None:
    assert expressions.variables(X[I, J * 2]) == {I, J}


def test_flat_offsets_are_row_major_and_skip_unit_dimensions() -> None:
    zero = tirx.const(0, "int64")
    form = linear(expressions.flat([I, zero, J], [4, 1, 5]))
    assert (dict(form.coefficients), form.constant) == ({I: 5, J: 1}, 0)
    assert int(expressions.flat([], [])) == 0


def test_the_analyzer_knows_where_an_axis_ends() -> None:
    known = expressions.analyzer([Axis(var=I, extent=4), Axis(var=J, extent=5)])
    assert known.simplify((I * 5 + J) // 5).same_as(I)


def test_what_vectorizes() -> None:
    lane, x = frozenset({I}), tirx.Var("x", "float32")
    assert expressions.vectorizes(tirx.exp(x) + tirx.floor(x), lane)
    assert expressions.vectorizes(tirx.if_then_else(J < 3, x, x * 2), lane)
    assert not expressions.vectorizes(tirx.if_then_else(I < 3, x, x * 2), lane)
    assert not expressions.vectorizes(tirx.nearbyint(x), lane)
