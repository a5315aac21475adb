"""Biases that take back what quantization shifts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm

from tvmopt import ir
from tvmopt.calibration import Samples, Tap
from tvmopt.errors import DataError
from tvmopt.passes.quantize.bias_correction import CorrectBias, CorrectBiasOptions, Shift
from tvmopt.report import Report

QuantizeNet = Callable[..., tvm.IRModule]
NAMES = ["stem_conv2d", "deep_conv2d", "point_conv2d", "left_matmul", "right_matmul"]


@pytest.fixture(scope="module")
def corrected(
    small_net: tvm.IRModule, quantize_net: QuantizeNet, net_samples: Samples, net_tap: Tap
) -> tuple[tvm.IRModule, Report]:
    report = Report()
    correct = CorrectBias(CorrectBiasOptions(), small_net, net_samples, net_tap, report)
    return correct(quantize_net(weight_bits=3)), report


def _values(mod: tvm.IRModule, name: str, samples: Samples, tap: Tap) -> np.ndarray:
    run = tap(mod, [name, "stem_conv2d"])
    return np.stack([run(feed)[name] for feed in samples]).astype("f8")


@pytest.mark.parametrize("name", ["deep", "point", "left"])
def test_the_mean_error_of_every_output_is_gone(
    name: str,
    corrected: tuple[tvm.IRModule, Report],
    small_net: tvm.IRModule,
    quantize_net: QuantizeNet,
    net_samples: Samples,
    net_tap: Tap,
) -> None:
    want, before, after = (
        _values(mod, name, net_samples, net_tap)
        for mod in (small_net, quantize_net(weight_bits=3), corrected[0])
    )
    axes = tuple(range(want.ndim - 1))
    shift_before, shift_after = (np.abs((got - want).mean(axes)) for got in (before, after))
    # An int32 bias is rounded to sx * sw, here below 1e-1 * 1; float32 sums of values below 10 add
    # a few 1e-6. Without the correction the means are off by hundreds of times that.
    units = _bias_units(corrected[0])
    assert np.all(shift_after <= 0.5 * units[name] + 1e-5)
    assert shift_before.max() > 10 * shift_after.max()


def _bias_units(mod: tvm.IRModule) -> dict[str, np.ndarray]:
    """Return the scales of the integer biases, by the name of the sum."""
    values = dict(ir.bindings(mod["main"]))
    sums = {
        var.name: values.get(value.args[1])
        for var, value in values.items()
        if ir.is_call_to(value, "relax.add")
    }
    return {
        name: ir.float_constant(bias.args[1])
        for name, bias in sums.items()
        if ir.is_call_to(bias, "relax.dequantize") and ir.dtype(bias.args[0]) == "int32"
    }


def test_only_biases_change(
    corrected: tuple[tvm.IRModule, Report], quantize_net: QuantizeNet
) -> None:
    old, new = (
        dict(ir.bindings(mod["main"])) for mod in (quantize_net(weight_bits=3), corrected[0])
    )
    assert [v.name for v in old] == [v.name for v in new]
    for before, after in zip(old.values(), new.values(), strict=True):
        if ir.is_call_to(before, "relax.dequantize") and ir.is_constant(before.args[0]):
            same = np.array_equal(ir.constant(before.args[0]), ir.constant(after.args[0]))
            assert same == (ir.dtype(before.args[0]) == "int8")


def test_the_report_says_of_each_layer_what_it_brought(
    corrected: tuple[tvm.IRModule, Report],
) -> None:
    decisions = corrected[1].decisions
    assert [d.site for d in decisions] == NAMES
    assert decisions[-1].reason == "it has no bias to move"
    for decision in decisions[:-1]:
        start, end = decision.reason.removeprefix("output error ").split(" -> ")
        assert float(end.split()[0]) <= float(start)


def test_the_shift_and_its_errors_are_those_of_the_rows() -> None:
    rng = np.random.default_rng(0)
    got, wanted = rng.standard_normal((2, 50, 3)).astype("f4")
    shift = Shift("conv", 3)
    for part in np.split(np.arange(50), 5):
        shift.add(got[part], wanted[part])
    # Sums of 50 float64 terms below 10.
    np.testing.assert_allclose(shift.mean, (wanted.astype("f8") - got).mean(0), atol=1e-13)
    total = np.square(wanted, dtype="f8").sum()
    before, after = (
        np.square(wanted.astype("f8") - got - move).sum() / total for move in (0.0, shift.mean)
    )
    np.testing.assert_allclose(shift.errors(), (before, after), rtol=1e-12)


def test_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(DataError, match="layer 'head': values must be finite"):
        Shift("head", 2).add(np.array([[1.0, np.inf]]), np.ones((1, 2)))
