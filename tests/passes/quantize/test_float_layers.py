"""Layers of a quantized graph that compute in floats again."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
import tvm

from tvmopt import forms, ir
from tvmopt.calibration import Feed, Samples
from tvmopt.passes.canonicalize.rebuild import variables
from tvmopt.passes.quantize.float_layers import in_floats
from tvmopt.passes.quantize.quantize_dynamic import QuantizeDynamic, QuantizeDynamicOptions
from tvmopt.passes.quantize.quantize_static import QuantizeStatic, QuantizeStaticOptions
from tvmopt.passes.quantize.weight_layers import Reader, find_layers
from tvmopt.report import Report

LAYERS = ("stem_conv2d", "deep_conv2d", "point_conv2d", "left_matmul", "right_matmul")


def _ranges(_mod: tvm.IRModule, names: list[str]) -> Callable[[Feed], dict[str, np.ndarray]]:
    """Let every tensor range from -1 to 1: which are quantized does not depend on it."""
    return lambda _feed: {name: np.array([-1.0, 1.0], np.float32) for name in names}


@pytest.fixture(scope="module")
def quantize(small_net: tvm.IRModule) -> Callable[..., tvm.IRModule]:
    def run(*floats: str) -> tvm.IRModule:
        options = QuantizeStaticOptions(weight_method="max", skip=dict.fromkeys(floats, "asked"))
        nothing = Samples((), {}, "no samples", least=1)
        return QuantizeStatic(options, nothing, _ranges, Report())(small_net)

    return run


def _back(mod: tvm.IRModule, reference: tvm.IRModule, names: tuple[str, ...]) -> tvm.IRModule:
    mod, reference = ir.unique_names(mod), ir.unique_names(reference)
    layers = list(find_layers(mod, reference, lambda _name, _reason: None))
    assert {layer.name for layer in layers} >= set(names)
    return in_floats(mod, reference, [layer for layer in layers if layer.name in names])


def _reads(mod: tvm.IRModule) -> dict[str, list[str]]:
    """Return what is read by each operator that computes, and by each quantize, by name.

    Rows of ``total``, be they floats or integers, count as ``rows``, for both may be there.
    """
    graph = Reader(mod)
    return {
        var.name: ["rows" if read.name == "moved" else read.name for read in variables(value)]
        for var, value in graph.values.items()
        if forms.match_dequantize(value) is None and var.name not in ("rows", "moved")
    }


@pytest.mark.parametrize("count", range(len(LAYERS) + 1))
def test_it_is_the_graph_in_which_these_layers_were_never_quantized(
    small_net: tvm.IRModule, quantize: Callable[..., tvm.IRModule], count: int
) -> None:
    whole = quantize()
    for names in combinations(LAYERS, count):
        expected = _reads(quantize(*names))
        for name in names:  # but that they read floats where others read integers
            expected[name][0] = expected[name][0].removesuffix("_dequantized")
        assert _reads(_back(whole, small_net, names)) == expected, names


def test_a_sum_that_feeds_no_layer_of_integers_is_not_rounded(
    small_net: tvm.IRModule, quantize: Callable[..., tvm.IRModule]
) -> None:
    whole = quantize()
    assert "total_quantized" in _reads(whole)
    new = _reads(_back(whole, small_net, ("left_matmul", "right_matmul")))
    assert "total_quantized" not in new
    assert "act_quantized" in new  # the depthwise layer reads it


def test_rows_are_not_rounded_at_run_time_either(small_net: tvm.IRModule) -> None:
    mod = QuantizeDynamic(QuantizeDynamicOptions(), Report())(small_net)
    new = _back(mod, small_net, ("left_matmul", "right_matmul"))
    tvm.ir.assert_structural_equal(new["main"], ir.unique_names(small_net)["main"])
