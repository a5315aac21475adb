"""Mirror of tvmopt/schedule/stages.py."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax, tirx

from tvmopt.schedule.expressions import loads
from tvmopt.schedule.stages import Program, Stage, read

R = relax.op


def _program(rest: Any, build: Any, *shapes: tuple[int, ...]) -> Program:
    mod = rest.fused(build, *(np.zeros(shape, np.float32) for shape in shapes))
    (func,) = (f for _, f in mod.functions_items() if isinstance(f, tirx.PrimFunc))
    program = read(func)
    assert program is not None
    return program


def _extents(stage: Stage) -> tuple[list[int], list[int]]:
    return [a.extent for a in stage.spatial], [a.extent for a in stage.reduce]


def test_each_nest_becomes_a_stage(rest: Any) -> None:
    program = _program(rest, lambda x: R.nn.softmax(x), (3, 4, 5))
    assert [_extents(stage) for stage in program.stages] == [
        ([3, 4], [5]),
        ([3, 4, 5], []),
        ([3, 4], [5]),
        ([3, 4, 5], []),
    ]
    assert program.outputs == program.params[1:]
    assert [stage.steps for stage in program.stages] == [60] * 4


def test_dimensions_of_one_are_no_axes(rest: Any) -> None:
    program = _program(rest, lambda x: R.sum(x, [1, 2], keepdims=True), (1, 4, 1, 5))
    (stage,) = program.stages
    assert _extents(stage) == ([5], [4])
    assert len(stage.indices) == 4
    (load,) = loads(stage.values[0])
    assert [isinstance(index, tirx.Var) for index in load.indices] == [False, True, False, True]


def test_rank_0(rest: Any) -> None:
    (stage,) = _program(rest, R.exp, ()).stages
    assert (_extents(stage), stage.indices, stage.size) == (([], []), (), 1)


def test_a_reduction_of_several_components_is_one_stage(rest: Any) -> None:
    stage = _program(rest, lambda x: R.argmax(x, 1), (3, 4)).stages[0]
    assert len(stage.buffers) == len(stage.partials) == len(stage.values) == len(stage.start) == 2


def test_reshapes_are_simplified_away(rest: Any) -> None:
    program = _program(rest, lambda x: R.reshape(x, (2, 3, 4, 5)), (2, 3, 20))
    (load,) = loads(program.stages[0].values[0])
    assert [str(index).count("//") for index in load.indices] == [0, 0, 0]


def _unreadable(rest: Any, build: Any, *inputs: np.ndarray) -> bool:
    mod = rest.fused(build, *inputs)
    (func,) = (f for _, f in mod.functions_items() if isinstance(f, tirx.PrimFunc))
    return read(func) is None


def test_other_forms_are_not_read(rest: Any) -> None:
    data, indices = np.zeros((5, 4), np.float32), np.zeros((2, 4), np.int64)
    assert _unreadable(rest, lambda x, i, u: R.scatter_elements(x, i, u), data, indices, data[:2])
    (emitted,) = rest.funcs(R.exp, data)
    assert read(emitted) is None  # loops without blocks
