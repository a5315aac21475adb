"""Mirror of tvmopt/lowering/row_views.py: the same bits as with copies, and the steps left."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tvm import relax

from tvmopt.lowering import sites
from tvmopt.report import Report

op = relax.op
SHAPE = (1, 9, 7, 24)  # an odd image: tiles overlap at its ends


@pytest.fixture
def steps(
    kit: SimpleNamespace, execute: Callable, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[str]]:
    """Run a body with views and with copies, compare the bits, and return the views' kernels."""

    def steps_(body: Callable, *shapes: tuple[int, ...], **options: Any) -> list[str]:
        mod = kit.module(body, *(shapes or (SHAPE,)))
        inputs = [kit.array(*shape, seed=i) for i, shape in enumerate(shapes or (SHAPE,))]
        got, names = execute(mod, *inputs, **options)
        with monkeypatch.context() as patch:
            patch.setattr(sites, "view_rows", lambda _graph, found, *_: found)
            wanted, _ = execute(mod, *inputs, **options)
        for a, b in zip(got, wanted, strict=True):
            np.testing.assert_array_equal(a, b)
        return names

    return steps_


def pool(x: relax.Expr) -> relax.Call:
    return op.nn.max_pool2d(x, (3, 3), (1, 1), (1, 1, 1, 1), layout="NHWC")


def relu(emit: Callable, x: relax.Expr) -> relax.Expr:
    return emit(op.nn.relu(emit(x)))


def copies(names: list[str]) -> list[str]:
    """Return the kernels that only move elements, but for views that planning removes."""
    return [name for name in names if "concat" in name or "split" in name or "slice" in name]


def test_every_kind_of_kernel_writes_its_part_in_place(
    kit: SimpleNamespace, steps: Callable
) -> None:
    def body(emit: Callable, x: relax.Expr) -> relax.Expr:
        parts = [
            relu(emit, kit.conv(x, 12, 1)),  # a product
            relu(emit, kit.conv(x, 20, 3)),  # Winograd
            emit(kit.conv(x, 10, (1, 5))),  # Winograd along a line
            emit(kit.conv(x, 9, 3, dilation=(2, 2), padding=(2, 2))),  # the implicit product
            emit(pool(x)),
            emit(kit.conv(x, 24, 3, groups=24)),  # depthwise
        ]
        return relu(emit, kit.conv(emit(op.concat(parts, axis=3)), 16, 3))

    names = steps(body)
    assert not copies(names)
    assert sum("join_rows" in name for name in names) == 1


@pytest.mark.parametrize("bound", [False, True], ids=["parts", "a tuple of them"])
def test_a_split_that_goes_into_a_concatenation_again_is_read_in_it(
    kit: SimpleNamespace, steps: Callable, bound: bool
) -> None:
    def body(emit: Callable, x: relax.Expr) -> relax.Expr:
        fields = emit(op.split(relu(emit, kit.conv(x, 20, 1)), 2, axis=3))
        first, second = (emit(relax.TupleGetItem(fields, i)) for i in range(2))
        inner = relu(emit, kit.conv(second, 10, 3))
        added = emit(op.add(second, emit(kit.conv(inner, 10, 1))))
        parts = relax.Tuple([first, second, added])
        return kit.conv(emit(op.concat(emit(parts) if bound else parts, axis=3)), 16, 1)

    names = steps(body)
    assert not copies(names)
    assert sum("cut_rows" in name for name in names) == 1


@pytest.mark.parametrize("source", ["made by a kernel", "an input"])
def test_a_field_is_copied_where_the_concatenation_stays(
    kit: SimpleNamespace, steps: Callable, source: str
) -> None:
    def body(emit: Callable, x: relax.Expr) -> tuple[relax.Expr, ...]:
        x = relu(emit, kit.conv(x, 24, 1)) if source == "made by a kernel" else x
        fields = emit(op.split(x, 2, axis=3))
        first, second = (emit(relax.TupleGetItem(fields, i)) for i in range(2))
        read = emit(kit.conv(second, 10, 3))
        joined = emit(op.concat([first, second, read], axis=3))
        return emit(op.exp(joined)), read  # the schedule fuses the two: no view

    assert not any("join_rows" in name or "cut_rows" in name for name in steps(body))


def test_a_part_of_no_channels_goes_through_a_concatenation(
    kit: SimpleNamespace, steps: Callable
) -> None:
    def body(emit: Callable, x: relax.Expr, none: relax.Expr) -> relax.Expr:
        parts = [relu(emit, kit.conv(x, 16, 1)), none, relu(emit, kit.conv(x, 8, 3))]
        return kit.conv(emit(op.concat(parts, axis=3)), 8, 1, seed=1)

    assert not any("join_rows" in name for name in steps(body, SHAPE, (*SHAPE[:3], 0)))


READERS: tuple[Callable, ...] = (
    lambda kit, x: kit.conv(x, 8, 1),  # a product
    lambda kit, x: kit.conv(x, 8, 1, strides=(2, 2)),
    lambda kit, x: kit.conv(x, 8, 3),  # Winograd
    lambda kit, x: kit.conv(x, 8, (1, 7)),  # Winograd along a line
    lambda kit, x: kit.conv(x, 8, 3, strides=(2, 2)),  # the implicit product, padded
    lambda kit, x: kit.conv(x, 8, (3, 2), strides=(2, 1), padding=(0, 0)),  # and not
    lambda kit, x: kit.conv(x, 12, 3, groups=3),
    lambda kit, x: kit.conv(x, 12, 3, groups=12),  # depthwise
    lambda _, x: pool(x),
)


@pytest.mark.parametrize("how", ["split", "slice"])
def test_every_kind_of_kernel_reads_a_field_in_place(
    kit: SimpleNamespace, steps: Callable, how: str
) -> None:
    def body(emit: Callable, x: relax.Expr) -> tuple[relax.Expr, ...]:
        if how == "split":
            fields = emit(op.split(x, 2, axis=3))
            field = emit(relax.TupleGetItem(fields, 1))
        else:
            field = emit(op.strided_slice(x, [3], [-12], [2**31 - 1]))
        return tuple(emit(read(kit, field)) for read in READERS)

    names = steps(body)
    assert not copies(names)
    assert len(names) == 1 + len(READERS)


def test_concatenations_that_grow_lie_in_the_last_one(
    kit: SimpleNamespace, steps: Callable
) -> None:
    def body(emit: Callable, x: relax.Expr) -> relax.Expr:
        x = relu(emit, kit.conv(x, 16, 1))
        for i in range(2):
            grown = relu(emit, kit.conv(x, 8, 3, seed=i))
            x = emit(op.concat([x, grown], axis=-1))
        return kit.conv(x, 16, 1, seed=7)

    names = steps(body)
    assert not copies(names)
    assert sum("join_rows" in name for name in names) == 2


def test_what_two_concatenations_share_is_copied_into_one(
    kit: SimpleNamespace, steps: Callable
) -> None:
    def body(emit: Callable, x: relax.Expr) -> relax.Expr:
        a, b = (relu(emit, kit.conv(x, n, 1)) for n in (16, 8))
        first = relu(emit, kit.conv(emit(op.concat([a, b], axis=3)), 16, 1, seed=1))
        both = emit(op.concat([a, b, first], axis=3))
        return kit.conv(both, 8, 1, seed=2)

    assert copies(steps(body))


def test_inputs_doubles_and_results_are_copied_by_the_join(
    kit: SimpleNamespace, steps: Callable
) -> None:
    def body(emit: Callable, x: relax.Expr) -> tuple[relax.Expr, ...]:
        free, wide = relu(emit, kit.conv(x, 40, 1)), relu(emit, kit.conv(x, 96, 1))
        kept = relu(emit, kit.conv(x, 5, 1))
        joined = emit(op.concat([x, free, kept, wide], axis=3))
        return emit(kit.conv(joined, 8, 1, seed=1)), kept

    names = steps(body)
    assert not copies(names)


def test_a_fully_written_concatenation_may_be_the_result(
    kit: SimpleNamespace, steps: Callable
) -> None:
    def body(emit: Callable, x: relax.Expr) -> relax.Expr:
        return op.concat([relu(emit, kit.conv(x, n, 1)) for n in (4, 7)], axis=3)

    assert not copies(steps(body))


def test_images_follow_one_another(kit: SimpleNamespace, steps: Callable) -> None:
    def body(emit: Callable, x: relax.Expr) -> relax.Expr:
        parts = [relu(emit, kit.conv(x, 18, 3)), relu(emit, kit.conv(x, 30, 3, strides=(1, 1)))]
        return kit.conv(emit(op.concat(parts, axis=3)), 8, 3, seed=3)

    assert not copies(steps(body, (3, 8, 8, 16), winograd=False))


@pytest.mark.parametrize(
    "body",
    [
        lambda kit, emit, x: emit(op.exp(emit(op.concat([emit(kit.conv(x, 8, 1)), x], axis=3)))),
        lambda kit, emit, x: kit.conv(
            emit(op.concat([emit(op.exp(x)), emit(op.sqrt(x))], axis=3)), 8, 1
        ),
        lambda _, emit, x: emit(op.exp(emit(relax.TupleGetItem(emit(op.split(x, 2, axis=3)), 1)))),
        lambda kit, emit, x: emit(op.concat([x, emit(kit.conv(x, 24, 1))], axis=2)),
    ],
    ids=["fused with its reader", "of what the schedule makes", "a split it reads", "another axis"],
)
def test_what_gains_nothing_stays(kit: SimpleNamespace, body: Callable) -> None:
    report = Report()
    _, names = kit.lowered(kit.module(lambda emit, x: body(kit, emit, x), SHAPE), report)
    assert not any("join_rows" in name or "cut_rows" in name for name in names)
    assert not [line for line in report.decisions if "channels" in line.site]


def test_the_report_says_what_is_a_view(kit: SimpleNamespace) -> None:
    def body(emit: Callable, x: relax.Expr) -> relax.Expr:
        fields = emit(op.split(x, 2, axis=3))
        field = emit(relax.TupleGetItem(fields, 1))
        parts = [x, emit(kit.conv(field, 48, 1))]
        return kit.conv(emit(op.concat(parts, axis=3)), 8, 1, seed=1)

    report = Report()
    kit.lowered(kit.module(body, SHAPE), report)
    lines = {line.site: line.reason for line in report.decisions if "channels" in line.site}
    assert lines == {
        "join 24 + 48 channels": "f32_join_rows__avx2: 1 of 2 parts written in place",
        "channels 12 to 24 of 24": "f32_cut_rows__avx2: read in place",
    }
