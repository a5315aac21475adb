"""Two nets, gone through side by side."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tvm
from tvm import relax

from tvmopt.calibration import Samples, Tap
from tvmopt.passes.quantize.net_pair import stages
from tvmopt.passes.quantize.repair_weights import RepairWeights, RepairWeightsOptions
from tvmopt.passes.quantize.weight_layers import find_layers
from tvmopt.report import Report

QuantizeNet = Callable[..., tvm.IRModule]
NAMES = ["stem_conv2d", "deep_conv2d", "point_conv2d", "left_matmul", "right_matmul"]


def test_a_layer_that_is_to_be_left_is_left_for_the_reason_given(
    small_net: tvm.IRModule, quantize_net: QuantizeNet, net_samples: Samples, net_tap: Tap
) -> None:
    report, told = Report(), []
    repair = RepairWeights(
        RepairWeightsOptions(method="nearest"),
        small_net,
        net_samples.spread(4),
        net_tap,
        report,
        leave=lambda name: None if name == "stem_conv2d" else "it is fine",
        progress=lambda what, done, total: told.append((what, done, total)),
    )
    mod = quantize_net(weight_bits=4)
    after = repair(mod)
    left = {d.site: d.reason for d in report.decisions if not d.applied}
    assert left == dict.fromkeys(NAMES[1:], "it is fine")
    assert told == [("repair weights", 0, 1), ("repair weights", 1, 1)]
    old, new = (list(find_layers(m, small_net, lambda *_: None)) for m in (mod, after))
    same = [
        np.array_equal(a.stored.value(), b.stored.value()) for a, b in zip(old, new, strict=True)
    ]
    assert same[1:] == [True] * 4


def test_floats_and_control_flow_are_left_alone(
    small_net: tvm.IRModule, net_samples: Samples, net_tap: Tap
) -> None:
    report = Report()
    repair = RepairWeights(RepairWeightsOptions(), small_net, net_samples, net_tap, report)
    assert repair(small_net).same_as(small_net)
    assert report.decisions == []
    flag = relax.Var("flag", relax.TensorType((), "bool"))
    func = relax.Function([flag], relax.If(flag, flag, flag), flag.ty)
    branch = relax.transform.Normalize()(tvm.IRModule({"main": func}))
    assert repair(branch).same_as(branch)
    assert report.decisions[0].reason == "it has control flow or side effects"


def test_layers_that_read_one_tensor_share_a_stage(
    small_net: tvm.IRModule, quantize_net: QuantizeNet
) -> None:
    layers = list(find_layers(quantize_net(), small_net, lambda *_: None))
    names = [[layer.name for layer in stage] for stage in stages(layers)]
    assert names == [*([name] for name in NAMES[:3]), NAMES[3:]]
