"""Mirror of tvmopt/schedule/inline.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tvm import relax, tirx

from tvmopt.schedule.approximate_math import approximate_math
from tvmopt.schedule.expressions import loads
from tvmopt.schedule.inline import Expander, Scope, stored_stages
from tvmopt.schedule.stages import Program, read

R = relax.op


def _program(rest: Any, build: Any, *shapes: tuple[int, ...]) -> Program:
    mod = rest.fused(build, *(np.zeros(shape, np.float32) for shape in shapes))
    (func,) = (f for _, f in mod.functions_items() if isinstance(f, tirx.PrimFunc))
    return read(approximate_math(func))


STORED = {
    # name: (graph, shapes, how many stages there are, how many are stored)
    "a chain is computed where it is used": (
        lambda x: R.nn.relu(R.add(R.exp(x), x)), [(4, 8)], 3, 1),
    "one exponential for all its users": (lambda x: R.nn.softmax(x), [(4, 8)], 4, 4),
    "what one reduction reads once is not kept": (
        lambda x, y: R.sum(R.exp(R.subtract(x, y)), [1]), [(4, 8), (4, 1)], 3, 1),
    "a costly broadcast is computed once": (
        lambda x, y: R.add(x, R.exp(y)), [(4, 8), (8,)], 2, 2),
    "a cheap broadcast is not kept": (lambda x, y: R.add(x, R.add(y, y)), [(4, 8), (8,)], 2, 1),
    "branches of a concatenation read each element once": (
        lambda x, y: R.concat([R.exp(x), R.tanh(y)], 1), [(4, 8), (4, 3)], 3, 1),
    "windows that overlap read padded elements again": (
        lambda x: R.nn.max_pool2d(x, (3, 3), (2, 2), (1, 1)), [(1, 2, 8, 8)], 2, 2),
}  # fmt: skip


@pytest.mark.parametrize("case", STORED)
def test_what_is_stored(rest: Any, case: str) -> None:
    build, shapes, stages, stored = STORED[case]
    program = _program(rest, build, *shapes)
    assert (len(program.stages), len(stored_stages(program))) == (stages, stored)


def test_expanded_values_read_stored_buffers_only(rest: Any) -> None:
    program = _program(rest, lambda x: R.multiply(R.exp(x), R.tanh(R.exp(x))), (4, 8))
    stored = stored_stages(program)
    expander, scope = Expander(program, stored), Scope()
    value = expander.expand(stored[-1].values[0], scope)
    written = {buffer for stage in stored for buffer in stage.buffers}
    for expr in (value, *(bound for _, bound in scope.bindings)):
        assert all(load.source in written or load.source in program.params for load in loads(expr))


def test_a_value_that_is_used_twice_is_named_once(rest: Any) -> None:
    program = _program(rest, lambda x: (lambda e: R.multiply(e, R.add(e, e)))(R.exp(x)), (4, 8))
    stored = stored_stages(program)
    scope = Scope()
    Expander(program, stored).expand(stored[-1].values[0], scope)
    assert sum("T.floor" in str(bound) for _, bound in scope.bindings) == 1


def test_a_branch_keeps_its_names_to_itself(rest: Any) -> None:
    # Where the condition does not hold, the other input would be read out of bounds.
    program = _program(rest, lambda x, y: R.concat([R.exp(x), R.exp(y)], 0), (4, 8), (3, 8))
    stored = stored_stages(program)
    scope = Scope()
    value = Expander(program, stored).expand(stored[-1].values[0], scope)
    assert scope.bindings == []
    assert str(value).count("if_then_else") == 1
