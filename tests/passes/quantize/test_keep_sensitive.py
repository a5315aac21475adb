"""Layers that stay in floats because the outputs would suffer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt import forms, ir
from tvmopt.calibration import Samples, Tap
from tvmopt.errors import DataError, OptionError
from tvmopt.frontend.onnx import TensorSpec
from tvmopt.passes.quantize.keep_sensitive import KeepSensitive, KeepSensitiveOptions, doubling
from tvmopt.passes.quantize.quantize_dynamic import QuantizeDynamic, QuantizeDynamicOptions
from tvmopt.passes.quantize.sensitivity import output_distance
from tvmopt.passes.quantize.weight_layers import Reader
from tvmopt.report import Report

QuantizeNet = Callable[..., tvm.IRModule]
_PRODUCTS = ("relax.nn.conv2d", "relax.matmul")


@pytest.fixture(scope="module")
def keep(
    small_net: tvm.IRModule, net_samples: Samples, net_tap: Tap
) -> Callable[..., tuple[tvm.IRModule, Report]]:
    def run(mod: tvm.IRModule, **options: float) -> tuple[tvm.IRModule, Report]:
        report, how = Report(), KeepSensitiveOptions(**options)
        return KeepSensitive(how, small_net, net_samples, net_tap, report)(mod), report

    return run


def _chain(count: int) -> tvm.IRModule:
    """Return a net of so many matmuls one behind the other."""
    x = relax.Var("x", relax.TensorType((1, 4), "float32"))
    builder, rng = relax.BlockBuilder(), np.random.default_rng(5)
    with builder.function("main", [x]):
        with builder.dataflow():
            rows = x
            for i in range(count):
                weight = relax.const(rng.standard_normal((4, 4)).astype("f4"))
                rows = builder.emit(relax.op.matmul(rows, weight), f"matmul_{i}")
            result = builder.emit_output(relax.op.nn.relu(rows), "result")
        builder.emit_func_output(result)
    return builder.finalize()


def _in_integers(mod: tvm.IRModule) -> set[str]:
    graph = Reader(mod)
    return {
        var.name
        for var, value in graph.values.items()
        if forms.match_product(value, graph.define) is not None
    }


def _distance(mod: tvm.IRModule, wanted: tvm.IRModule, samples: Samples, tap: Tap) -> float:
    got, want = (
        [run(feed)[name] for feed in samples]
        for run, name in (
            (tap(net, [name]), name)
            for net, name in ((net, net["main"].body.body.name) for net in (mod, wanted))
        )
    )
    return output_distance(got, want)


def test_a_net_that_loses_little_comes_back(
    keep: Callable[..., tuple[tvm.IRModule, Report]], quantize_net: QuantizeNet
) -> None:
    mod = quantize_net()
    new, report = keep(mod, most_error=0.05)
    tvm.ir.assert_structural_equal(new, mod)
    (decision,) = report.decisions
    assert decision.site == "main"
    assert decision.reason.endswith("no layer has to stay in floats")


def test_the_fewest_layers_stay_for_which_the_loss_holds(
    keep: Callable[..., tuple[tvm.IRModule, Report]],
    quantize_net: QuantizeNet,
    small_net: tvm.IRModule,
    net_samples: Samples,
    net_tap: Tap,
) -> None:
    mod = quantize_net(weight_bits=3, sensitive_bits=3)
    whole = _distance(mod, small_net, net_samples, net_tap)
    new, report = keep(mod, most_error=whole / 4)
    stay = _in_integers(mod) - _in_integers(new)
    assert stay == {decision.site for decision in report.decisions}
    assert 0 < len(stay) < len(_in_integers(mod))
    assert _distance(new, small_net, net_samples, net_tap) <= whole / 4
    assert all(
        decision.reason.startswith("it stays in floats, for it is sensitive: 400% of what may be")
        for decision in report.decisions
    )


def test_a_net_in_floats_again_is_the_net_of_floats_bit_for_bit(
    keep: Callable[..., tuple[tvm.IRModule, Report]],
    quantize_net: QuantizeNet,
    small_net: tvm.IRModule,
    net_samples: Samples,
    net_tap: Tap,
) -> None:
    new, _ = keep(quantize_net(weight_bits=2, sensitive_bits=2), most_error=1e-12)
    assert not _in_integers(new)
    assert not any(ir.is_call_to(v, "relax.quantize") for _, v in ir.bindings(new["main"]))
    assert _distance(new, small_net, net_samples, net_tap) == 0.0


def test_the_module_given_is_left_as_it_was(
    keep: Callable[..., tuple[tvm.IRModule, Report]], quantize_net: QuantizeNet
) -> None:
    mod = quantize_net(weight_bits=2)
    before = tvm.ir.save_json(mod)
    keep(mod, most_error=1e-3)
    assert tvm.ir.save_json(mod) == before


def _with_outputs(integers: float, floats: float) -> Tap:
    """Return a tap for which all outputs are these numbers."""

    def tap(mod: tvm.IRModule, names: Sequence[str]) -> Callable[..., dict[str, np.ndarray]]:
        value = integers if _in_integers(mod) else floats
        return lambda _feed: {name: np.array([value], np.float32) for name in names}

    return tap


def test_integers_that_are_not_finite_where_floats_are_get_refused(
    quantize_net: QuantizeNet, small_net: tvm.IRModule, net_samples: Samples
) -> None:
    tap = _with_outputs(np.nan, 1.0)
    keep = KeepSensitive(KeepSensitiveOptions(), small_net, net_samples, tap, Report())
    with pytest.raises(DataError, match="output 0 must be finite for every calibration sample"):
        keep(quantize_net())


@pytest.mark.parametrize("value", [-np.inf, np.nan])
def test_a_net_whose_floats_are_not_finite_is_left_as_it_is(
    quantize_net: QuantizeNet, small_net: tvm.IRModule, net_samples: Samples, value: float
) -> None:
    mod, report = quantize_net(weight_bits=2), Report()
    tap, options = _with_outputs(value, value), KeepSensitiveOptions(widen=True)
    new = KeepSensitive(options, small_net, net_samples, tap, report)(mod)
    tvm.ir.assert_structural_equal(new, mod)
    (decision,) = report.decisions
    assert (decision.site, decision.applied) == ("main", False)
    assert decision.reason == "what is lost cannot be told: not finite in floats: output 0"


def test_words_undo_no_layer_that_is_quantized_at_run_time(
    keep: Callable[..., tuple[tvm.IRModule, Report]],
    quantize_net: QuantizeNet,
    small_net: tvm.IRModule,
    net_samples: Samples,
    net_tap: Tap,
) -> None:
    static = quantize_net(layers=("*conv2d",), weight_bits=3, sensitive_bits=3)
    dynamic = QuantizeDynamicOptions(layers=("left_matmul",))
    mod = ir.unique_names(QuantizeDynamic(dynamic, Report())(static))
    new, report = keep(
        mod, most_error=0.6 * _distance(mod, small_net, net_samples, net_tap), widen=True
    )
    graph = Reader(new)
    (left,) = (value for var, value in graph.values.items() if var.name == "left_matmul")
    assert forms.match_stored(left.args[1], graph.define) is not None
    # Layers were let go for the loss to hold, and not in favour of words.
    assert _in_integers(new) < _in_integers(mod)
    notes = [decision.reason for decision in report.decisions if decision.site == "main"]
    assert notes == [
        "no layer gets 16-bit activations, for that would undo what is compressed without "
        "fixed scales: left_matmul"
    ]
    assert "left_matmul" not in {decision.site for decision in report.decisions}


def test_what_saves_most_is_weighed_in_groups() -> None:
    names = [f"layer{i}" for i in range(17)]
    groups = doubling(names, 8)
    assert [len(group) for group in groups] == [1] * 8 + [2, 4, 3]
    assert [name for group in groups for name in group] == names
    assert doubling(names[:3], 8) == [["layer0"], ["layer1"], ["layer2"]]
    assert doubling([], 8) == []


@pytest.mark.parametrize("name", ["most_changed", "most_error"])
def test_impossible_limits_are_refused(name: str) -> None:
    with pytest.raises(OptionError, match=rf"{name} must be in \(0, 1\], got 0.0"):
        replace(KeepSensitiveOptions(), **{name: 0.0})
    with pytest.raises(OptionError, match="batches must be at least 1, got 0"):
        KeepSensitiveOptions(batches=0)


def test_words_come_before_floats(
    keep: Callable[..., tuple[tvm.IRModule, Report]],
    quantize_net: QuantizeNet,
    small_net: tvm.IRModule,
    net_samples: Samples,
    net_tap: Tap,
) -> None:
    mod = quantize_net(weight_bits=3, sensitive_bits=3)
    whole = _distance(mod, small_net, net_samples, net_tap)
    # 8 bits instead of 3: steps 127 / 3 times finer, errors some 1800 times smaller.
    new, report = keep(mod, most_error=whole / 100, widen=True)
    assert _in_integers(new) == _in_integers(mod)
    assert _distance(new, small_net, net_samples, net_tap) <= whole / 100
    assert {decision.site for decision in report.decisions} == _in_integers(mod)
    for decision in report.decisions:
        assert decision.applied
        assert decision.reason.startswith("16-bit activations and 8-bit weights: ")


def test_what_no_longer_pays_is_let_go(
    quantize_net: QuantizeNet, small_net: tvm.IRModule, net_samples: Samples, net_tap: Tap
) -> None:
    def predict(mod: tvm.IRModule) -> dict[str, float]:
        """Let integers save one layer 5 cycles of 9 and others 1, and each conversion cost 2."""
        integers, values = _in_integers(mod), dict(ir.bindings(mod["main"]))
        layers = [v.name for v, e in values.items() if ir.is_call_to(e, *_PRODUCTS)]
        costs = dict.fromkeys(layers, 9.0)
        costs |= {name: 4.0 if name == "deep_conv2d" else 8.0 for name in integers}
        made = [v.name for v, e in values.items() if ir.is_call_to(e, "relax.quantize")]
        return costs | dict.fromkeys(made, 2.0)

    mod = quantize_net(weight_bits=3, sensitive_bits=3)
    whole = _distance(mod, small_net, net_samples, net_tap)
    keep = KeepSensitive(
        KeepSensitiveOptions(most_error=whole / 4),
        small_net,
        net_samples,
        net_tap,
        Report(),
        predict=predict,
        must_pay=_in_integers(mod),
    )
    new = keep(mod)
    stay = _in_integers(new)
    assert sum(predict(new).values()) <= min(
        sum(predict(net).values()) for net in (mod, ir.unique_names(small_net))
    )
    # Alone, a layer that saves 1 cycle does not pay for what quantizes its input.
    assert stay <= {"deep_conv2d"}


def test_weighing_many_layers_takes_few_predictions() -> None:
    floats = _chain(40)
    mod = QuantizeDynamic(QuantizeDynamicOptions(), Report())(floats)
    port = TensorSpec(name="x", dtype="float32", shape=(1, 4))
    samples, asked = Samples([port], {"x": np.ones((16, 4), np.float32)}), list[int]()

    def quantized(mod: tvm.IRModule) -> int:
        graph = Reader(mod)
        calls = [value for value in graph.values.values() if ir.is_call_to(value, "relax.matmul")]
        return sum(forms.match_stored(one.args[1], graph.define) is not None for one in calls)

    def tap(mod: tvm.IRModule, names: Sequence[str]) -> Callable[..., dict[str, np.ndarray]]:
        """Let each layer of integers move the output, of 1, by a hundredth."""
        switched = len(mod["main"].params) > 1

        def run(feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            switches = sum(float(value[0]) for name, value in feed.items() if name != "x")
            value = 1.0 + 0.01 * (switches if switched else quantized(mod))
            return {name: np.array([value], np.float64) for name in names}

        return run

    def predict(mod: tvm.IRModule) -> dict[str, float]:
        asked.append(quantized(mod))
        return {"all": 100.0 - quantized(mod)}

    names = [var.name for var, _ in ir.bindings(floats["main"])]
    # (0.01 * layers)^2 below 0.093: 30 of 40 layers stay in integers.
    options = KeepSensitiveOptions(most_error=0.093)
    keep = KeepSensitive(options, floats, samples, tap, Report(), predict=predict, must_pay=names)
    assert quantized(keep(mod)) == 30
    # Both nets to rank and both to weigh; then 8 layers alone and groups of 2, 4, 8 and what is
    # left, 8: each is tried, and none taken, for all of them pay.
    assert asked == [0, 40, 30, 0, *[29] * 8, 28, 26, 22, 22]
