"""Mirror of passes/canonicalize/raise_quantize.py."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt import forms, ir
from tvmopt.forms import Affine
from tvmopt.passes.canonicalize.raise_quantize import RaiseQuantize
from tvmopt.report import Report

Build = Callable[..., tvm.IRModule]
Run = Callable[..., list[np.ndarray]]

OP = relax.op
HOW = Affine(scale=np.array(0.3, "f4"), zero_point=np.array(7, "i4"), dtype="uint8")


def _raise(mod: tvm.IRModule) -> tvm.IRModule:
    return RaiseQuantize(Report())(mod)


def _names(mod: tvm.IRModule) -> list[str]:
    return [call.op.name.removeprefix("relax.") for call in ir.calls(mod)]


def _data(*shape: int) -> np.ndarray:
    return np.random.default_rng(6).normal(0, 40, shape).astype(np.float32)


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_a_chain_of_movements_is_done_on_integers(build: Build, run: Run, value: float) -> None:
    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        y = bb.emit(OP.permute_dims(x, [0, 2, 3, 1]))
        y = bb.emit(OP.nn.pad(y, [0, 0, 1, 1, 1, 1, 0, 0], pad_value=value))
        y = bb.emit(OP.nn.max_pool2d(y, (2, 2), layout="NHWC"))
        return forms.quantize(y, HOW)

    before = build(body, (1, 3, 4, 4))
    after = _raise(before)
    assert _names(after) == ["quantize", "permute_dims", "nn.pad", "nn.max_pool2d"]
    x = _data(1, 3, 4, 4)
    np.testing.assert_array_equal(run(after, x)[0], run(before, x)[0])


def test_parts_are_quantized_where_they_are_made(build: Build, run: Run) -> None:
    def body(bb: relax.BlockBuilder, x: relax.Expr, q: relax.Expr) -> relax.Expr:
        codes = bb.emit(forms.quantize(q, HOW))
        same = bb.emit(forms.dequantize(codes, HOW))
        parts = [bb.emit(OP.nn.relu(x)), same]
        return forms.quantize(bb.emit(OP.concat(parts, axis=1)), HOW)

    before = build(body, (2, 3), (2, 1))
    after = _raise(before)
    # One part was integers of the same meaning already.
    assert sorted(_names(after)) == ["concat", "nn.relu", "quantize", "quantize"]
    feeds = _data(2, 3), _data(2, 1)
    np.testing.assert_array_equal(run(after, *feeds)[0], run(before, *feeds)[0])


def _sliced(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
    return forms.quantize(bb.emit(OP.strided_slice(x, [0], [0], [1])), HOW)


def _shared(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
    moved = bb.emit(OP.permute_dims(x))
    return relax.Tuple([bb.emit(forms.quantize(moved, HOW)), moved])


def _computed(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
    return forms.quantize(bb.emit(OP.exp(x)), HOW)


@pytest.mark.parametrize("body", [_sliced, _shared, _computed])
def test_what_is_smaller_or_read_by_others_stays(
    build: Build, body: Callable[..., relax.Expr]
) -> None:
    before = build(body, (4, 4))
    tvm.ir.assert_structural_equal(_raise(before), before)
