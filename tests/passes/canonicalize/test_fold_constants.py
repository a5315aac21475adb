"""Mirror of passes/canonicalize/fold_constants.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt.errors import OptionError
from tvmopt.passes.canonicalize.fold_constants import FoldConstants, FoldConstantsOptions
from tvmopt.report import Report

Build = Callable[..., tvm.IRModule]
Run = Callable[..., list[np.ndarray]]
Counts = Callable[[tvm.IRModule], Counter[str]]


def _fold(mod: tvm.IRModule, report: Report | None = None, **options: int) -> tvm.IRModule:
    return FoldConstants(FoldConstantsOptions(**options), report or Report())(mod)


def _const(values: object, dtype: str = "float32") -> relax.Expr:
    return relax.const(np.asarray(values, dtype))


def _mixed(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
    w = bb.emit(relax.op.permute_dims(_const([[1, 2, 3], [4, 5, 6]])))
    w = bb.emit(relax.op.exp(bb.emit(relax.op.negative(w))))
    w = bb.emit(
        relax.op.add(w, bb.emit(relax.op.astype(_const([[1], [2], [3]], "int8"), "float32")))
    )
    b = bb.emit(relax.op.broadcast_to(bb.emit(relax.op.reshape(_const(2.0), (1,))), (2,)))
    return relax.op.add(bb.emit(relax.op.matmul(x, w), "y"), b)


def test_folded_module_computes_the_same(
    build: Build, run: Run, counts: Counts, integers: Callable[..., np.ndarray]
) -> None:
    before, report = build(_mixed, (4, 3)), Report()

    after = _fold(before, report)

    # The int8 column is a vector, which folds; nothing but the data's own operators is left.
    assert counts(after) == {"matmul": 1, "add": 1}
    assert all(d.applied for d in report.decisions)
    x = integers(0, 4, 3)
    # The same operators ran on the same operands, at compile time.
    np.testing.assert_array_equal(run(after, x)[0], run(before, x)[0])


def test_scalars_keep_their_rank(build: Build) -> None:
    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        return relax.op.add(x, bb.emit(relax.op.reshape(_const([2.0]), ())))

    expected = build(lambda _bb, x: relax.op.add(x, _const(2.0)), ())
    tvm.ir.assert_structural_equal(_fold(build(body, ())), expected)


def _protected(kind: str) -> Callable[[relax.BlockBuilder, relax.Expr], relax.Expr]:
    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        scale, zero = _const(0.5), _const(0, "int8")
        if kind == "dequantize":
            w = relax.op.dequantize(_const([[1, 2]], "int8"), scale, zero, out_dtype="float32")
        elif kind == "halves":
            w = relax.op.astype(_const([[1, 2], [3, 4]], "float16"), "float32")
        elif kind == "groups":
            w = relax.op.astype(_const([[[1], [2]]], "int8"), "float32")
            w = relax.op.reshape(
                bb.emit(relax.op.multiply(bb.emit(w, "wide"), _const([[[0.5]]]))), (2, 1)
            )
        elif kind == "codebook":
            w = relax.op.take(_const([0.5, 1.5]), _const([[0, 1]], "uint8"), axis=0)
        else:
            w = relax.op.astype(_const([[1, 2], [3, 4]], "int8"), "int32")
        w = bb.emit(w, "weight")
        return relax.op.add(x, bb.emit(relax.op.astype(bb.emit(relax.op.abs(w)), "float32")))

    return body


@pytest.mark.parametrize("kind", ["dequantize", "codebook", "integer weight", "halves", "groups"])
def test_what_a_compression_saved_is_not_unfolded(build: Build, kind: str) -> None:
    before, report = build(_protected(kind), (2, 2)), Report()

    after = _fold(before, report)

    tvm.ir.assert_structural_equal(after, before)
    assert report.decisions == []


def test_quantizing_a_constant_is_done_now(build: Build, run: Run, counts: Counts) -> None:
    values = np.array([[0.25, -0.75], [1e6, -1e6]], np.float32)

    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        w = relax.op.quantize(
            relax.const(values),
            _const([0.5, 0.1]),
            _const([0, 3], "int8"),
            axis=1,
            out_dtype="int8",
        )
        w = relax.op.dequantize(bb.emit(w), _const([0.5, 0.1]), _const([0, 3], "int8"), axis=1)
        return relax.op.matmul(x, bb.emit(w))

    before = build(body, (2, 2))
    after = _fold(before)
    assert counts(after) == {"dequantize": 1, "matmul": 1}
    x = np.array([[1, 2], [3, 4]], np.float32)
    # NumPy rounded, added and clipped as the operator does.
    np.testing.assert_array_equal(run(after, x)[0], run(before, x)[0])


@pytest.mark.parametrize("reader", ["add", "moved", "norm", "matmul", "bias", "matrix"])
def test_small_constants_are_floats_to_elementwise_operators(
    build: Build, counts: Counts, reader: str
) -> None:
    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        shape = (1, 4) if reader == "matrix" else (4,)
        codes = np.arange(8).reshape(2, 4) if reader == "matrix" else np.arange(4).reshape(shape)
        dtype = "int32" if reader == "bias" else "int8"
        c = relax.op.dequantize(_const(codes, dtype), _const(0.5), _const(0, dtype), axis=0)
        c = bb.emit(c, "c")
        if reader == "moved":
            return relax.op.add(bb.emit(relax.op.reshape(c, (1, 4))), x)
        if reader == "norm":
            return relax.op.nn.layer_norm(x, c, _const([0, 0, 0, 0]), axes=[-1])
        if reader == "matmul":
            return relax.op.matmul(x, bb.emit(relax.op.reshape(c, (4, 1))))
        if reader == "bias":
            return relax.op.add(bb.emit(relax.op.matmul(x, _const(np.ones((4, 4))))), c)
        return relax.op.add(x, c)

    after = counts(_fold(build(body, (2, 4))))
    # A weight, a bias that integer kernels start with, and a matrix stay in their few bits.
    assert ("dequantize" in after) == (reader in ("matmul", "bias", "matrix"))


def test_growth_beyond_the_limit_is_left_to_run_time(build: Build, counts: Counts) -> None:
    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        a = bb.emit(relax.op.broadcast_to(_const([1.0]), (8,)), "small")
        b = bb.emit(relax.op.broadcast_to(_const([1.0]), (64,)), "large")
        return relax.Tuple([bb.emit(relax.op.add(x, a)), b])

    report = Report()
    after = _fold(build(body, (8,)), report, max_growth_bytes=64)

    assert counts(after) == {"add": 1, "broadcast_to": 1}
    kept = next(d for d in report.decisions if not d.applied)
    assert (kept.site, kept.reason) == (
        "large",
        "it would grow the constants by 252 bytes, beyond the limit of 64",
    )


def test_a_fold_that_frees_its_operands_is_no_growth(build: Build, counts: Counts) -> None:
    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        return relax.op.matmul(x, bb.emit(relax.op.permute_dims(_const(np.ones((8, 64))))))

    assert counts(_fold(build(body, (8, 64)), max_growth_bytes=0)) == {"matmul": 1}


def test_input_module_is_not_changed(build: Build) -> None:
    before = build(_mixed, (4, 3))
    _fold(before)
    tvm.ir.assert_structural_equal(before, build(_mixed, (4, 3)))


def test_negative_limit() -> None:
    with pytest.raises(OptionError, match=r"max_growth_bytes must be >= 0, got -1"):
        FoldConstantsOptions(max_growth_bytes=-1)
