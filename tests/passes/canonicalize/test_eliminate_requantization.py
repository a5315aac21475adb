"""Mirror of passes/canonicalize/eliminate_requantization.py."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt import forms, ir
from tvmopt.forms import Affine
from tvmopt.passes.canonicalize.eliminate_requantization import EliminateRequantization
from tvmopt.report import Report

Build = Callable[..., tvm.IRModule]
Run = Callable[..., list[np.ndarray]]

OP = relax.op


def _how(scale: float, zero: int, dtype: str) -> Affine:
    return Affine(scale=np.array(scale, "f4"), zero_point=np.array(zero, "i4"), dtype=dtype)


def _eliminate(mod: tvm.IRModule) -> tvm.IRModule:
    return EliminateRequantization(Report())(mod)


def _names(mod: tvm.IRModule) -> list[str]:
    return [call.op.name.removeprefix("relax.") for call in ir.calls(mod)]


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16"])
@pytest.mark.parametrize("scale", [1e-30, 0.0123456, 1 / 3, 3e7])
def test_a_pair_of_one_meaning_vanishes(build: Build, run: Run, dtype: str, scale: float) -> None:
    how = _how(scale, 100, dtype)

    def body(bb: relax.BlockBuilder, q: relax.Expr) -> relax.Expr:
        return forms.quantize(bb.emit(forms.dequantize(q, how)), how)

    count = how.high - how.low + 1
    before = build(body, (count,), dtype=dtype)
    after = _eliminate(before)
    assert _names(after) == []
    every = np.arange(how.low, how.high + 1).astype(dtype)
    np.testing.assert_array_equal(run(before, every)[0], every)


def test_a_pair_of_two_meanings_stays(build: Build) -> None:
    def body(bb: relax.BlockBuilder, q: relax.Expr) -> relax.Expr:
        x = bb.emit(forms.dequantize(q, _how(0.5, 100, "uint8")))
        return forms.quantize(x, _how(0.5, 101, "uint8"))

    before = build(body, (4,), dtype="uint8")
    tvm.ir.assert_structural_equal(_eliminate(before), before)


@pytest.mark.parametrize(
    ("how", "bound", "implied"),
    [
        (_how(0.1, 0, "uint8"), "relu", True),
        (_how(0.1, -128, "int8"), "relu", True),
        (_how(0.1, 1, "uint8"), "relu", False),
        # 6 / 0.0235 = 255.3 rounds to 255; 6 / 0.0236 = 254.2 does not reach it.
        (_how(0.0235, 0, "uint8"), "relu6", True),
        (_how(0.0236, 0, "uint8"), "relu6", False),
        (_how(0.01, 10, "uint8"), "relu6", False),
    ],
)
def test_bounds_that_the_range_implies_vanish(
    build: Build, run: Run, how: Affine, bound: str, implied: bool
) -> None:
    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        y = OP.nn.relu(x) if bound == "relu" else OP.clip(x, 0.0, 6.0)
        return forms.quantize(bb.emit(y), how)

    before = build(body, (2001,))
    after = _eliminate(before)
    assert _names(after) == (["quantize"] if implied else _names(before))
    x = np.linspace(-10, 40, 2001, dtype=np.float32)
    np.testing.assert_array_equal(run(after, x)[0], run(before, x)[0])


def test_bounds_that_others_read_stay(build: Build) -> None:
    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        y = bb.emit(OP.nn.relu(x))
        return relax.Tuple([bb.emit(forms.quantize(y, _how(0.1, 0, "uint8"))), y])

    before = build(body, (4,))
    tvm.ir.assert_structural_equal(_eliminate(before), before)


@pytest.mark.parametrize(
    ("how", "within"), [(_how(0.02, 0, "uint8"), True), (_how(0.03, 0, "uint8"), False)]
)
def test_bounds_of_what_stands_for_less_vanish(
    build: Build, run: Run, how: Affine, within: bool
) -> None:
    def body(bb: relax.BlockBuilder, q: relax.Expr) -> relax.Expr:
        x = bb.emit(OP.nn.relu(bb.emit(forms.dequantize(q, how))))
        return OP.clip(x, 0.0, 6.0)

    before = build(body, (256,), dtype="uint8")
    after = _eliminate(before)
    # 255 * 0.02 = 5.1 lies within (0, 6), 255 * 0.03 = 7.65 does not.
    assert _names(after) == (["dequantize"] if within else ["dequantize", "clip"])
    every = np.arange(256).astype("uint8")
    np.testing.assert_array_equal(run(after, every)[0], run(before, every)[0])
