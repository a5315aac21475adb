"""Mirror of passes/quantize/quantize_dynamic.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt import forms, ir
from tvmopt.errors import OptionError
from tvmopt.passes.quantize.grid import Grid
from tvmopt.passes.quantize.layer_bits import LayerBits
from tvmopt.passes.quantize.quantize_dynamic import QuantizeDynamic, QuantizeDynamicOptions
from tvmopt.report import Report

Build = Callable[..., tvm.IRModule]
Run = Callable[..., list[np.ndarray]]
Counts = Callable[[tvm.IRModule], Counter[str]]
Net = Callable[[], tvm.IRModule]

SHAPE = (2, 3, 16)
op = relax.op


def _weight(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


@pytest.fixture
def net(build: Build) -> Net:
    """Two matmuls of one tensor, a third behind them."""

    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        q = bb.emit(op.matmul(x, relax.const(_weight(0, 16, 8))), "q_matmul")
        q = bb.emit(op.add(q, relax.const(_weight(1, 8))), "q")
        k = bb.emit(op.matmul(x, relax.const(_weight(2, 16, 8))), "k_matmul")
        both = bb.emit(op.multiply(q, k), "both")
        return bb.emit(op.matmul(both, relax.const(_weight(3, 8, 4))), "out_matmul")

    return lambda: build(body, SHAPE)


def _quantize(mod: tvm.IRModule, **options: object) -> tuple[tvm.IRModule, Report]:
    report = Report()
    return QuantizeDynamic(QuantizeDynamicOptions(**options), report)(mod), report


def _rows(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quantize row by row, as tvmopt/forms/rows.py says, in float32."""
    peak = np.maximum(np.abs(x).max(-1, keepdims=True), np.float32(2.0**-100))
    scale = peak * np.float32(1 / 127)
    return np.clip(np.rint(x / scale), -127, 127), scale


def test_result_is_that_of_integers(build: Build, run: Run) -> None:
    before = build(lambda bb, x: bb.emit(op.matmul(x, relax.const(_weight(0, 16, 8))), "y"), SHAPE)
    after, _ = _quantize(before)
    values = dict(ir.bindings(after["main"]))
    weight = forms.match_stored(
        next(v for v in values if v.name == "y_weight"), lambda e: values.get(e, e)
    )
    x = _weight(7, *SHAPE)
    codes, scale = _rows(x)
    expected = (codes @ weight.codes.astype(np.float64)) * scale * weight.how.scale
    # The graph multiplies dequantized floats: 16 products and sums, each rounded to 2^-24 of
    # at most 16 * 127 * 127 * scales; and one more rounding for each scale.
    bound = 18 * 2.0**-24 * (np.abs(codes) @ np.abs(weight.codes)) * scale * weight.how.scale
    assert (np.abs(run(after, x)[0] - expected) <= bound).all()


def test_matmuls_of_one_tensor_share_its_integers(net: Net, counts: Counts) -> None:
    mod, report = _quantize(net())
    found = counts(mod)
    assert found["matmul"] == 3
    assert found["dequantize"] == 3
    assert found["round"] == 2  # x once for two matmuls, and both
    assert [(d.site, d.applied, d.reason) for d in report.decisions] == [
        (name, True, "8-bit weights by channel, int8 rows at run time")
        for name in ("q_matmul", "k_matmul", "out_matmul")
    ]


def test_lowering_recognises_the_form(net: Net) -> None:
    values = dict(ir.bindings(_quantize(net())[0]["main"]))
    define = lambda e: values.get(e, e)  # noqa: E731
    for var, call in values.items():
        if ir.is_call_to(call, "relax.matmul"):
            rows, weight = forms.match_rows(call.args[0], define), define(call.args[1])
            assert rows is not None, var.name
            assert forms.match_dequantize(weight)[1].axis == 1


def test_near_the_floats(net: Net, run: Run) -> None:
    x = _weight(8, *SHAPE)
    before, after = run(net(), x)[0], run(_quantize(net())[0], x)[0]
    # Half of 1/127 for each operand of each product, three products deep.
    assert np.abs(after - before).max() < 0.03 * np.ptp(before)


@pytest.mark.parametrize(("bits", "most"), [(8, 127), (4, 7)])
def test_bits(net: Net, bits: int, most: int) -> None:
    mod, _ = _quantize(net(), weight_bits=bits)
    codes = [
        ir.constant(v.args[0])
        for _, v in ir.bindings(mod["main"])
        if ir.is_call_to(v, "relax.dequantize")
    ]
    assert [np.abs(c).max() for c in codes] == [most] * 3


def test_weights_by_groups(net: Net, run: Run) -> None:
    mod, report = _quantize(net(), weight_bits=4, group_size=8)
    values = dict(ir.bindings(mod["main"]))
    matmuls = [v for v in values.values() if ir.is_call_to(v, "relax.matmul")]
    forms_of = [forms.match_stored(m.args[1], lambda e: values.get(e, e)) for m in matmuls]
    assert [f.scale.shape for f in forms_of] == [(2, 1, 8), (2, 1, 8), (1, 1, 4)]
    assert {d.reason for d in report.decisions} == {
        "4-bit weights by groups of 8, int8 rows at run time"
    }
    x = _weight(8, *SHAPE)
    before, after = run(net(), x)[0], run(mod, x)[0]
    # Half of 1/7 of a group's largest for each weight, three products deep.
    assert np.abs(after - before).max() < 0.3 * np.ptp(before)


def test_groups_that_do_not_divide_leave_the_layer(net: Net) -> None:
    _, report = _quantize(net(), group_size=16)
    assert [(d.site, d.applied) for d in report.decisions] == [
        ("out_matmul", False),
        ("q_matmul", True),
        ("k_matmul", True),
    ]
    assert report.decisions[0].reason == "groups of 16 do not divide its 8 inputs"


def test_what_is_left_is_left_with_a_reason(
    build: Build, convolve: Callable[..., relax.Expr], counts: Counts
) -> None:
    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        y = bb.emit(op.reshape(convolve(bb, x, "conv", 4), (4, 16)), "flat")
        for name in ("one", "two", "three"):
            y = bb.emit(op.matmul(y, relax.const(_weight(1, 16, 16))), name)
        return y

    rules = (LayerBits(pattern="three", bits=None),)
    mod, report = _quantize(build(body, (1, 4, 4, 4)), rules=rules, skip={"one": "it is fragile"})
    assert {d.site: (d.applied, d.reason) for d in report.decisions} == {
        "one": (False, "it is fragile"),
        "three": (False, "rule 'three'"),
        "conv_conv2d": (False, "only the rows of a matmul are quantized at run time"),
        "two": (True, "8-bit weights by channel, int8 rows at run time"),
    }
    assert counts(mod)["dequantize"] == 1


def test_nothing_to_do_gives_the_module_back(build: Build) -> None:
    before = build(lambda bb, x: bb.emit(op.nn.relu(x), "y"), SHAPE)
    tvm.ir.assert_structural_equal(_quantize(before)[0], before)


def test_input_module_is_not_changed(net: Net) -> None:
    before = net()
    _quantize(before)
    tvm.ir.assert_structural_equal(before, net())


def test_rounding_can_be_replaced(net: Net) -> None:
    seen = []

    def zeros(name: str, weight: np.ndarray, grid: Grid) -> np.ndarray:
        seen.append(name)
        return np.zeros(weight.shape, grid.levels.dtype)

    QuantizeDynamic(QuantizeDynamicOptions(), Report(), round_weights=zeros)(net())
    assert seen == ["q_matmul", "k_matmul", "out_matmul"]


def test_impossible_options_are_refused(net: Net) -> None:
    with pytest.raises(OptionError, match="weight_bits must be from 2 to 8, got 1"):
        QuantizeDynamicOptions(weight_bits=1)
    with pytest.raises(OptionError, match="group_size must be at least 2, got 1"):
        QuantizeDynamicOptions(group_size=1)
    with pytest.raises(OptionError, match="method must be 'max' or 'mse', got 'kl'"):
        QuantizeDynamicOptions(weight_method="kl")
    with pytest.raises(OptionError, match=r"'v\*' must match a layer, .* q_matmul, k_matmul"):
        _quantize(net(), layers=("v*",))
