"""Layers of a quantized net that read 16 bits instead of 8."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt import forms, ir
from tvmopt.calibration import Samples, Tap
from tvmopt.passes.quantize.observe import silent
from tvmopt.passes.quantize.quantize_dynamic import QuantizeDynamic, QuantizeDynamicOptions
from tvmopt.passes.quantize.quantize_weights import QuantizeWeights, QuantizeWeightsOptions
from tvmopt.passes.quantize.weight_layers import Reader
from tvmopt.passes.quantize.widen import undone_by_widening, widen
from tvmopt.report import Report

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


def test_what_is_quantized_at_run_time_or_stored_alone_would_be_undone(
    small_net: tvm.IRModule, quantize_net: QuantizeNet
) -> None:
    reference = ir.unique_names(small_net)
    static = quantize_net(layers=("*conv2d",))
    assert undone_by_widening(ir.unique_names(static), reference) == ()
    options = QuantizeDynamicOptions(layers=("left_matmul",))
    dynamic = ir.unique_names(QuantizeDynamic(options, Report())(static))
    assert undone_by_widening(dynamic, reference) == ("left_matmul",)
    # What the reference holds so is quantized from there.
    assert undone_by_widening(dynamic, dynamic) == ()
    alone = QuantizeWeightsOptions(layers=("right_matmul",), group_size=8)
    stored = QuantizeWeights(alone, Report())(dynamic)
    names = undone_by_widening(ir.unique_names(stored), reference)
    assert names == ("left_matmul", "right_matmul")


@pytest.mark.parametrize("storage", ["int", "float16"])
def test_tables_would_be_undone(storage: str) -> None:
    ids = relax.Var("ids", relax.TensorType((4,), "int32"))
    table = np.random.default_rng(3).standard_normal((32, 16)).astype("f4")
    builder = relax.BlockBuilder()
    with builder.function("main", [ids]):
        with builder.dataflow():
            rows = builder.emit(relax.op.take(relax.const(table), ids, axis=0), "rows")
            result = builder.emit_output(relax.op.nn.relu(rows), "result")
        builder.emit_func_output(result)
    mod = builder.finalize()
    stored = QuantizeWeights(QuantizeWeightsOptions(storage=storage), Report())(mod)
    assert undone_by_widening(ir.unique_names(stored), ir.unique_names(mod)) == ("rows_codes",)
