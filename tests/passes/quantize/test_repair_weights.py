"""A whole net's weights, rounded anew."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import tvm

from tvmopt import ir
from tvmopt.calibration import Feed, Samples, Tap
from tvmopt.errors import DataError, OptionError
from tvmopt.passes.quantize.repair_weights import (
    RepairWeights,
    RepairWeightsOptions,
)
from tvmopt.report import Report

QuantizeNet = Callable[..., tvm.IRModule]
Counts = Callable[[tvm.IRModule], Counter[str]]
NAMES = ["stem_conv2d", "deep_conv2d", "point_conv2d", "left_matmul", "right_matmul"]


def _outputs(mod: tvm.IRModule, samples: Samples, tap: Tap) -> np.ndarray:
    run = tap(mod, ["result"])
    return np.stack([run(feed)["result"] for feed in samples])


@pytest.fixture(scope="module")
def repaired(
    small_net: tvm.IRModule, quantize_net: QuantizeNet, net_samples: Samples, net_tap: Tap
) -> tuple[tvm.IRModule, Report]:
    report = Report()
    how = RepairWeightsOptions()
    repair = RepairWeights(how, small_net, net_samples, net_tap, report)
    return repair(quantize_net(weight_bits=4)), report


def test_the_nets_outputs_come_nearer_to_those_of_the_floats(
    repaired: tuple[tvm.IRModule, Report],
    small_net: tvm.IRModule,
    quantize_net: QuantizeNet,
    net_samples: Samples,
    net_tap: Tap,
) -> None:
    want, before, after = (
        _outputs(mod, net_samples, net_tap)
        for mod in (small_net, quantize_net(weight_bits=4), repaired[0])
    )
    error_before, error_after = (np.mean((got - want) ** 2) for got in (before, after))
    assert error_after < error_before


def test_the_graph_keeps_its_operators_and_names(
    repaired: tuple[tvm.IRModule, Report], quantize_net: QuantizeNet, counts: Counts
) -> None:
    before = quantize_net(weight_bits=4)
    assert counts(repaired[0]) == counts(before)
    old, new = ([var.name for var, _ in ir.bindings(mod["main"])] for mod in (before, repaired[0]))
    assert new == old


def test_the_report_says_of_each_layer_what_it_brought(
    repaired: tuple[tvm.IRModule, Report],
) -> None:
    decisions = repaired[1].decisions
    assert [decision.site for decision in decisions] == NAMES
    for decision in decisions:
        assert decision.applied
        start, end = decision.reason.removeprefix("gptq: output error ").split(" -> ")
        assert float(end.split()[0]) <= float(start)


def test_what_the_report_says_is_so(
    repaired: tuple[tvm.IRModule, Report],
    small_net: tvm.IRModule,
    net_samples: Samples,
    net_tap: Tap,
) -> None:
    """The last layer's error, measured on the repaired net, is the one that was promised."""
    names = ["left_matmul", "left"]
    want, got = (
        np.stack([run(feed)["left"] for feed in net_samples])
        for run in (net_tap(mod, names) for mod in (small_net, repaired[0]))
    )
    share = np.sum((got - want) ** 2) / np.sum(want**2)
    said = float(repaired[1].decisions[3].reason.split("-> ")[1].split()[0])
    # Three digits were printed; all 32 * 16 rows were looked at; an int32 bias rounds by 2^-31.
    np.testing.assert_allclose(share, said, rtol=6e-3)


def test_the_module_given_is_left_as_it_was(
    quantize_net: QuantizeNet, small_net: tvm.IRModule, net_samples: Samples, net_tap: Tap
) -> None:
    mod = quantize_net(weight_bits=4)
    before = mod.script(show_meta=True)
    how = RepairWeightsOptions(method="nearest")
    after = RepairWeights(how, small_net, net_samples.spread(4), net_tap, Report())(mod)
    assert mod.script(show_meta=True) == before
    assert after.script(show_meta=True) != before


def test_layers_of_too_many_inputs_are_left_and_those_behind_them_repaired(
    small_net: tvm.IRModule, quantize_net: QuantizeNet, net_samples: Samples, net_tap: Tap
) -> None:
    report = Report()
    how = RepairWeightsOptions(method="nearest", most_inputs=9)
    repair = RepairWeights(how, small_net, net_samples.spread(4), net_tap, report)
    repair(quantize_net(weight_bits=4))
    left = {d.site: d.reason for d in report.decisions if not d.applied}
    assert left.pop("stem_conv2d") == "it has 27 weights an output, 'most_inputs' allows 9"
    assert list(left) == ["point_conv2d", "left_matmul", "right_matmul"]
    assert [d.site for d in report.decisions if d.applied] == ["deep_conv2d"]


def test_values_that_are_not_finite_are_told_with_their_layer(
    small_net: tvm.IRModule, quantize_net: QuantizeNet, net_samples: Samples
) -> None:
    def broken(mod: tvm.IRModule, names: list[str]) -> Callable[[Feed], dict[str, np.ndarray]]:
        types = {var.name: var for var, _ in ir.bindings(mod["main"])}
        shapes = {name: ir.static_shape(types[name]) for name in names}
        return lambda _: {n: np.full(s, np.nan, "f4") for n, s in shapes.items()}

    repair = RepairWeights(RepairWeightsOptions(), small_net, net_samples, broken, Report())
    with pytest.raises(DataError, match="layer 'stem_conv2d': values must be finite"):
        repair(quantize_net(activation_range="minmax"))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"rows": 0}, "rows must be at least 1, got 0"),
        ({"ridge": 2.0}, r"ridge must be in \(0, 1\], got 2.0"),
        ({"most_inputs": 0}, "most_inputs must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_impossible_options_are_refused(option: dict[str, int], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        RepairWeightsOptions(**option)
