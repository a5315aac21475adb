"""Mirror of passes/quantize/quantize_weights.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt import forms, ir
from tvmopt.errors import OptionError
from tvmopt.passes.canonicalize.rebuild import rebuild_main
from tvmopt.passes.quantize.layer_bits import LayerBits
from tvmopt.passes.quantize.quantize_weights import QuantizeWeights, QuantizeWeightsOptions
from tvmopt.report import Report

Build = Callable[..., tvm.IRModule]
Run = Callable[..., list[np.ndarray]]
Counts = Callable[[tvm.IRModule], Counter[str]]
Net = Callable[[], tvm.IRModule]

op = relax.op
WEIGHT = np.random.default_rng(0).standard_t(5, (64, 12)).astype("float32")


@pytest.fixture
def net(build: Build, convolve: Callable[..., relax.Expr]) -> Net:
    """A convolution and a matmul."""

    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        flat = bb.emit(op.reshape(convolve(bb, x, "conv", 4), (1, 64)), "flat")
        return bb.emit(op.matmul(flat, relax.const(WEIGHT)), "fc")

    return lambda: build(body, (1, 4, 4, 4))


def _store(mod: tvm.IRModule, **options: object) -> tuple[tvm.IRModule, Report]:
    report = Report()
    return QuantizeWeights(QuantizeWeightsOptions(**options), report)(mod), report


def _stored(mod: tvm.IRModule, name: str) -> forms.Stored | None:
    values = dict(ir.bindings(mod["main"]))
    call = next(value for var, value in values.items() if var.name == name)
    return forms.match_stored(call.args[1], lambda e: values.get(e, e))


_CASES: dict[str, tuple[dict[str, object], type, str]] = {
    "by groups": ({}, forms.Grouped, "4-bit weights by groups of 32"),
    "asymmetric groups": ({"symmetric": False}, forms.Grouped, "4-bit weights by groups of 32"),
    "by channel": ({"group_size": None}, forms.Dequantized, "4-bit weights by channel"),
    "asymmetric by channel": (
        {"group_size": None, "symmetric": False, "bits": 2},
        forms.Dequantized,
        "2-bit weights by channel",
    ),
    "8 bits": ({"bits": 8, "group_size": None}, forms.Dequantized, "8-bit weights by channel"),
    "3 bits": ({"bits": 3, "group_size": 16}, forms.Grouped, "3-bit weights by groups of 16"),
    "float16": ({"storage": "float16"}, forms.Cast, "stored as float16"),
    "bfloat16": ({"storage": "bfloat16"}, forms.Cast, "stored as bfloat16"),
    "codebook": ({"storage": "codebook"}, forms.Codebook, "4-bit weights, codebook levels"),
    "powers of two": (
        {"storage": "power_of_two"},
        forms.Codebook,
        "4-bit weights, power of two levels",
    ),
}


@pytest.mark.parametrize("name", _CASES)
def test_weight_gets_its_form_and_the_graph_computes_with_it(net: Net, run: Run, name: str) -> None:
    options, form, reason = _CASES[name]
    mod, report = _store(net(), layers=("fc",), **options)
    stored = _stored(mod, "fc")
    assert isinstance(stored, form)
    assert [(d.site, d.reason) for d in report.decisions if d.applied] == [("fc", reason)]
    x = np.random.default_rng(1).normal(size=(1, 4, 4, 4)).astype("float32")
    with_floats = _with_weight(net(), stored.value())
    # The same float32 weights in the same matmul.
    np.testing.assert_array_equal(run(mod, x)[0], run(with_floats, x)[0])


def _with_weight(mod: tvm.IRModule, weight: np.ndarray) -> tvm.IRModule:
    def rule(var: relax.Var, value: relax.Expr) -> relax.Expr:
        if var.name != "fc":
            return value
        return ir.with_changes(value, [value.args[0], relax.const(weight)])

    return rebuild_main(mod, lambda _graph: rule)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_codes_stay_within_their_bits(net: Net, bits: int, symmetric: bool) -> None:
    mod, _ = _store(net(), layers=("fc",), bits=bits, symmetric=symmetric)
    codes = _stored(mod, "fc").codes
    assert codes.dtype == np.int8
    assert codes.max() <= 2 ** (bits - 1) - 1
    assert codes.min() >= (1 if symmetric else 0) - 2 ** (bits - 1)


def test_the_finer_the_form_the_smaller_the_error(net: Net) -> None:
    def error(**options: object) -> float:
        return float(
            np.square(
                _stored(_store(net(), layers=("fc",), **options)[0], "fc").value() - WEIGHT
            ).sum()
        )

    assert error(bits=8) < error(bits=4) < error(bits=3) < error(bits=2)
    assert error(group_size=16) < error(group_size=None)
    assert error(storage="codebook", bits=5) < error(storage="power_of_two", bits=5)
    assert error(storage="float16") < error(storage="bfloat16") < error(bits=8)


def test_convolutions_are_stored_by_channel(net: Net, run: Run) -> None:
    mod, _ = _store(net(), bits=8, group_size=None)
    stored = _stored(mod, "conv_conv2d")
    assert isinstance(stored, forms.Dequantized)
    assert stored.how.axis == 0
    x = np.random.default_rng(1).normal(size=(1, 4, 4, 4)).astype("float32")
    before, after = run(net(), x)[0], run(mod, x)[0]
    # Half of 1/127 of the largest weight of an output, in two layers.
    assert np.abs(after - before).max() < 0.02 * np.ptp(before)


def test_what_cannot_be_stored_so_is_left_with_a_reason(net: Net) -> None:
    mod, report = _store(net(), rules=(LayerBits(pattern="fc", bits=None),))
    assert [(d.site, d.applied, d.reason) for d in report.decisions] == [
        ("fc", False, "rule 'fc'"),
        ("conv_conv2d", False, "groups of 32 do not divide its 4 inputs"),
    ]
    tvm.ir.assert_structural_equal(mod, net())


def test_weights_beyond_float16_are_left(build: Build) -> None:
    before = build(
        lambda bb, x: bb.emit(op.matmul(x, relax.const(WEIGHT * np.float32(1e6))), "fc"), (2, 64)
    )
    mod, report = _store(before, storage="float16")
    assert [d.applied for d in report.decisions] == [False]
    assert "does not fit float16" in report.decisions[0].reason
    tvm.ir.assert_structural_equal(mod, before)


def test_input_module_is_not_changed(net: Net) -> None:
    before = net()
    _store(before)
    tvm.ir.assert_structural_equal(before, net())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"storage": "fp8"}, "storage must be one of int, float16, .*, got 'fp8'"),
        ({"bits": 1}, "bits must be from 2 to 8, got 1"),
        ({"group_size": 1}, "group_size must be at least 2, got 1"),
        ({"method": "kl"}, "method must be 'max' or 'mse', got 'kl'"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        QuantizeWeightsOptions(**options)


def test_pattern_must_match(net: Net) -> None:
    with pytest.raises(OptionError, match="'nope' must match a layer"):
        _store(net(), layers=("nope",))
