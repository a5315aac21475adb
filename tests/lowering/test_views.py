"""Mirror of tvmopt/lowering/views.py; exact, for no number is computed."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import tvm
from tvm import relax

import tvmopt.runtime
from tvmopt import codegen
from tvmopt.targets import CpuTarget

op = relax.op
Shape = tuple[int, ...]


@pytest.fixture
def run(
    tmp_path_factory: pytest.TempPathFactory, kit: SimpleNamespace, here: CpuTarget
) -> Callable:
    """Lower, build and run; return the outputs and the kernels of the steps that ran."""

    def run_(mod: tvm.IRModule, *inputs: np.ndarray) -> tuple[list[np.ndarray], list[str]]:
        lowered, _ = kit.lowered(mod, target=here)
        path = tmp_path_factory.mktemp("views") / "model.so"
        codegen.build(lowered, here, codegen.BuildMeta()).save(path)
        with tvmopt.runtime.open(path) as net:
            got = net({spec.name: x for spec, x in zip(net.inputs, inputs, strict=True)})
            steps = [step.kernel for step in net.steps]
        return list(got.values()) if isinstance(got, dict) else [got], steps

    return run_


def double(emit: Callable, x: relax.Expr) -> relax.Expr:
    return emit(op.add(x, x))


def test_kernels_write_into_a_concatenation(kit: SimpleNamespace, run: Callable) -> None:
    def body(emit: Callable, x: relax.Expr, y: relax.Expr) -> relax.Expr:
        parts = [double(emit, x), emit(op.multiply(y, y))]
        return op.nn.relu(emit(op.concat(parts, axis=1)))

    x, y = kit.array(1, 2, 16), kit.array(1, 3, 16, seed=1)
    (got,), steps = run(kit.module(body, x.shape, y.shape), x, y)
    np.testing.assert_array_equal(got, np.maximum(np.concatenate([x + x, y * y], 1), 0))
    assert steps == ["f32_add", "f32_multiply", "f32_relu"]


def test_a_piece_that_is_an_input_or_comes_twice_is_copied(
    kit: SimpleNamespace, run: Callable
) -> None:
    def body(emit: Callable, x: relax.Expr) -> relax.Expr:
        twice = double(emit, x)
        return op.concat([twice, x, twice], axis=0)

    x = kit.array(2, 16)
    (got,), steps = run(kit.module(body, x.shape), x)
    np.testing.assert_array_equal(got, np.concatenate([x + x, x, x + x]))
    assert steps == ["f32_add", "copy", "copy"]


@pytest.mark.parametrize("sections", [2, [1, 3]])
def test_fields_of_a_split_are_read_where_they_lie(
    kit: SimpleNamespace, run: Callable, sections: int | list[int]
) -> None:
    def body(emit: Callable, x: relax.Expr) -> relax.Expr:
        fields = emit(op.split(double(emit, x), sections, axis=1))
        count = len(fields.ty.fields)
        parts = [emit(relax.TupleGetItem(fields, i)) for i in range(count)]
        return tuple(emit(op.exp(part)) for part in parts)

    x = kit.array(1, 4, 32)
    got, steps = run(kit.module(body, x.shape), x)
    wanted = np.split(x + x, sections, axis=1)
    assert [out.shape for out in got] == [part.shape for part in wanted]
    for out, part in zip(got, wanted, strict=True):
        np.testing.assert_allclose(out, np.exp(part), rtol=1e-6)
    assert steps == ["f32_add", *["f32_exp"] * len(wanted)]


@pytest.mark.parametrize(
    ("axes", "begins", "ends"),
    [([0], [2], [5]), ([0], [-3], [2**31 - 1]), ([0, 1], [3, 2], [4, 4]), ([0, 1], [1, 0], [2, 6])],
    ids=["rows", "from the end", "part of one row", "one row"],
)
def test_a_slice_that_is_one_run_is_read_where_it_lies(
    kit: SimpleNamespace, run: Callable, axes: list[int], begins: list[int], ends: list[int]
) -> None:
    def body(emit: Callable, x: relax.Expr) -> relax.Expr:
        return double(emit, emit(op.strided_slice(x, axes, begins, ends)))

    x = kit.array(6, 6, 16)
    (got,), steps = run(kit.module(body, x.shape), x)
    cut = [slice(None)] * 3
    for axis, begin, end in zip(axes, begins, ends, strict=True):
        cut[axis] = slice(begin, end)
    np.testing.assert_array_equal(got, 2 * x[tuple(cut)])
    assert steps == ["f32_add"]


def test_a_part_that_is_returned_is_copied(kit: SimpleNamespace, run: Callable) -> None:
    x = kit.array(4, 16)
    mod = kit.module(lambda emit, x: emit(op.strided_slice(x, [0], [1], [3])), x.shape)
    (got,), steps = run(mod, x)
    np.testing.assert_array_equal(got, x[1:3])
    assert steps == ["copy"]


@pytest.mark.parametrize(
    "body",
    [
        lambda emit, x: op.concat([double(emit, x), x], axis=1),
        lambda emit, x: op.concat([emit(op.strided_slice(x, [1], [0], [3])), x], axis=1),
        lambda emit, x: op.strided_slice(double(emit, x), [1], [0], [8]),
        lambda emit, x: op.strided_slice(double(emit, x), [0], [0], [4], [2]),
        lambda _, x: op.concat([x, x], axis=0),
    ],
    ids=["an inner axis", "off a line", "an inner slice", "every second row", "inputs alone"],
)
def test_what_is_no_run_stays_with_the_schedule(kit: SimpleNamespace, body: Callable) -> None:
    _, names = kit.lowered(kit.module(body, (4, 16)))
    assert not {"join", "part"} & set(names)
