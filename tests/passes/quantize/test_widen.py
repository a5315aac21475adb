"""Layers of a quantized net that read 16 bits instead of 8."""

from __future__ import annotations

from collections.abc import Callable

import tvm

from tvmopt import forms, ir
from tvmopt.calibration import Samples, Tap
from tvmopt.passes.quantize.observe import silent
from tvmopt.passes.quantize.weight_layers import Reader
from tvmopt.passes.quantize.widen import widen

QuantizeNet = Callable[..., tvm.IRModule]


def _data(mod: tvm.IRModule) -> dict[str, str]:
    """Return the dtype of what each product of integers reads."""
    graph = Reader(mod)
    found = {
        var.name: forms.match_product(value, graph.define) for var, value in graph.values.items()
    }
    return {name: product.data_how.dtype for name, product in found.items() if product is not None}


def test_the_same_layers_read_words(
    small_net: tvm.IRModule, quantize_net: QuantizeNet, net_samples: Samples, net_tap: Tap
) -> None:
    mod = ir.unique_names(quantize_net(layers=("*conv2d",)))
    before = _data(mod)
    assert set(before.values()) == {"uint8"}
    wide = widen(mod, ir.unique_names(small_net), net_samples, net_tap, silent)
    assert _data(wide) == dict.fromkeys(before, "int16")


def test_a_net_of_floats_stays_as_it_is(
    small_net: tvm.IRModule, net_samples: Samples, net_tap: Tap
) -> None:
    mod = ir.unique_names(small_net)
    assert widen(mod, mod, net_samples, net_tap, silent) is mod
