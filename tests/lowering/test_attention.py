"""Mirror of tvmopt/lowering/attention.py."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
from tvm import relax

op = relax.op
Check = Callable[..., list[str]]
Emit = Callable[..., relax.Var]


def attend(emit: Emit, q: relax.Var, k: relax.Var, v: relax.Var, *, axis: int = -1) -> relax.Var:
    """Return attention over (batch, position, head, depth), back in that order."""
    left, value = (emit(op.permute_dims(x, [0, 2, 1, 3])) for x in (q, v))
    scores = emit(op.matmul(left, emit(op.permute_dims(k, [0, 2, 3, 1]))))
    scores = emit(op.multiply(scores, relax.const(np.float32(0.3))))
    weights = emit(op.nn.softmax(scores, axis))
    return emit(op.permute_dims(emit(op.matmul(weights, value)), [0, 2, 1, 3]))


SHAPES = (2, 5, 3, 8), (2, 9, 3, 8), (2, 9, 3, 6)


def test_scores_softmax_and_values_are_one_kernel(kit: SimpleNamespace, check: Check) -> None:
    (kernel,) = check(kit.module(attend, *SHAPES))
    assert kernel.startswith("f32_attention_mul")


def test_a_mask_belongs_to_the_kernel(kit: SimpleNamespace, check: Check) -> None:
    def body(emit: Emit, q: relax.Var, k: relax.Var, v: relax.Var, mask: relax.Var) -> relax.Expr:
        scores = emit(op.add(emit(op.matmul(q, emit(op.permute_dims(k, [0, 2, 1])))), mask))
        return emit(op.matmul(emit(op.nn.softmax(scores)), v))

    (kernel,) = check(kit.module(body, (3, 4, 8), (3, 7, 8), (3, 7, 5), (1, 1, 7)))
    assert kernel.startswith("f32_attention_add")


def test_a_bias_for_each_head_is_added_by_the_product(kit: SimpleNamespace, check: Check) -> None:
    # The kernel holds a tile of scores in lines of its own, and read such a bias by those lines.
    def body(emit: Emit, q: relax.Var, k: relax.Var, v: relax.Var, bias: relax.Var) -> relax.Expr:
        scores = emit(op.add(emit(op.matmul(q, k)), bias))
        return emit(op.matmul(emit(op.nn.softmax(scores)), v))

    kernels = check(kit.module(body, (3, 9, 8), (3, 8, 7), (3, 7, 5), (3, 9, 7)))
    assert not any("attention" in name for name in kernels)


def test_a_softmax_along_the_queries_is_no_attention(kit: SimpleNamespace, check: Check) -> None:
    kernels = check(kit.module(lambda emit, *x: attend(emit, *x, axis=2), *SHAPES))
    assert not any("attention" in name for name in kernels)


def test_weights_that_others_read_are_stored(kit: SimpleNamespace, check: Check) -> None:
    def body(emit: Emit, q: relax.Var, k: relax.Var, v: relax.Var) -> tuple[relax.Expr, relax.Expr]:
        weights = emit(op.nn.softmax(emit(op.matmul(q, k))))
        return emit(op.matmul(weights, v)), weights

    kernels = check(kit.module(body, (2, 4, 8), (2, 8, 7), (2, 7, 5)))
    assert not any("attention" in name for name in kernels)
    assert len(kernels) == 3


def test_values_may_be_the_transposed_product_of_a_later_kernel(
    kit: SimpleNamespace, check: Check
) -> None:
    # v is made after the scores: attention reads through its transpose, and leaves the product be.
    def body(emit: Emit, q: relax.Var, k: relax.Var, x: relax.Var, y: relax.Var) -> relax.Expr:
        scores = emit(op.matmul(q, k))
        v = emit(op.permute_dims(emit(op.matmul(x, y)), [0, 2, 1, 3]))
        return op.matmul(emit(op.nn.softmax(scores)), v)

    kernels = check(kit.module(body, (1, 3, 5, 4), (1, 3, 4, 2), (1, 2, 3, 4), (1, 2, 4, 6)))
    assert sum("attention" in kernel for kernel in kernels) == 1
