"""Mirror of tvmopt/lowering/matmul.py."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
from tvm import relax

from tvmopt.report import Report

op = relax.op
Check = Callable[..., list[str]]
Emit = Callable[..., relax.Var]


@pytest.mark.parametrize("shape", [(1, 12), (5, 12), (2, 3, 12)], ids=["vector", "rows", "batch"])
def test_a_linear_layer_with_bias_and_relu_is_one_kernel(
    kit: SimpleNamespace, check: Check, shape: tuple[int, ...]
) -> None:
    weight, bias = kit.const(12, 21, scale=0.3), kit.const(21, seed=4)

    def body(emit: Emit, x: relax.Var) -> relax.Expr:
        return op.nn.relu(emit(op.add(emit(op.matmul(x, weight)), bias)))

    (kernel,) = check(kit.module(body, shape))
    assert kernel.startswith("f32_gemm_add_max_")


def test_a_constant_with_a_batch_axis_of_one_is_a_linear_layer(
    kit: SimpleNamespace, check: Check
) -> None:
    weight = kit.const(1, 6, 9)
    (kernel,) = check(kit.module(lambda _, x: op.matmul(x, weight), (4, 6)))
    assert kernel.startswith("f32_gemm_")


def test_a_constant_vector_is_left_to_the_rest(kit: SimpleNamespace, check: Check) -> None:
    vector = kit.const(6)
    assert len(check(kit.module(lambda _, x: op.matmul(x, vector), (4, 6)))) == 1


def test_the_report_gives_the_sizes(kit: SimpleNamespace) -> None:
    report = Report()
    weight = kit.const(6, 9)
    mod = kit.module(lambda _, x, y: (op.matmul(x, weight), op.matmul(x, y)), (4, 6), (6, 3))
    kit.lowered(mod, report)
    assert [d.site for d in report.decisions] == ["linear 4x6 @ 6x9", "matmul (4, 6) @ (6, 3)"]


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((4, 6), (6, 5)),
        ((2, 3, 4, 6), (2, 3, 6, 5)),
        ((2, 3, 4, 6), (3, 6, 5)),
        ((2, 1, 4, 6), (1, 3, 6, 5)),
        ((4, 6), (2, 6, 5)),
    ],
    ids=str,
)
def test_products_of_activations_broadcast_their_batches(
    kit: SimpleNamespace, check: Check, left: tuple[int, ...], right: tuple[int, ...]
) -> None:
    kernels = check(kit.module(lambda _, x, y: op.matmul(x, y), left, right))
    assert [name[:16] for name in kernels] == ["f32_batch_matmul"]


def test_transposes_into_a_product_are_no_kernels_of_their_own(
    kit: SimpleNamespace, check: Check
) -> None:
    # Attention's scores: (batch, position, head, depth) of both, scaled.
    def body(emit: Emit, q: relax.Var, k: relax.Var) -> relax.Expr:
        left = emit(op.permute_dims(q, [0, 2, 1, 3]))
        right = emit(op.permute_dims(k, [0, 2, 3, 1]))
        return op.multiply(emit(op.matmul(left, right)), relax.const(0.25))

    (kernel,) = check(kit.module(body, (2, 5, 3, 8), (2, 7, 3, 8)))
    assert kernel.startswith("f32_batch_matmul_mul_")


def test_a_transpose_that_others_read_stays(kit: SimpleNamespace, check: Check) -> None:
    def body(emit: Emit, x: relax.Var, y: relax.Var) -> tuple[relax.Expr, relax.Expr]:
        turned = emit(op.permute_dims(y, [1, 0]))
        return emit(op.matmul(x, turned)), turned

    kernels = check(kit.module(body, (4, 6), (5, 6)))
    assert len(kernels) == 2


def test_a_product_with_itself_turned(kit: SimpleNamespace, check: Check) -> None:
    def body(emit: Emit, x: relax.Var) -> relax.Expr:
        turned = emit(op.permute_dims(x, [1, 0]))
        return op.matmul(turned, emit(op.permute_dims(turned, [1, 0])))

    assert check(kit.module(body, (4, 6)))


def test_a_transpose_between_two_products_belongs_to_one_of_them(
    kit: SimpleNamespace, check: Check
) -> None:
    # The first product is written through it; the second must not read what is no more.
    def body(emit: Emit, x: relax.Var, y: relax.Var, z: relax.Var) -> relax.Expr:
        moved = emit(op.permute_dims(emit(op.matmul(x, y)), [0, 2, 1, 3]))
        return op.matmul(moved, z)

    kernels = check(kit.module(body, (1, 2, 3, 4), (1, 2, 4, 5), (1, 3, 5, 6)))
    assert len(kernels) == 2


def test_axes_of_a_transpose_may_count_from_the_end(kit: SimpleNamespace, check: Check) -> None:
    def body(emit: Emit, x: relax.Var, y: relax.Var) -> relax.Expr:
        return op.matmul(x, emit(op.permute_dims(y, [0, -1, -2])))

    assert len(check(kit.module(body, (2, 3, 4), (2, 5, 4)))) == 1
