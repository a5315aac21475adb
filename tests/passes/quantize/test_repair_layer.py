"""One layer's constants, found anew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st

from tvmopt import forms
from tvmopt.errors import OptionError
from tvmopt.passes.quantize.hessian import Moments, MomentSum, pooled
from tvmopt.passes.quantize.repair_layer import (
    Repaired,
    RoundingOptions,
    code_range,
    grids,
    repair_layer,
)
from tvmopt.passes.quantize.weight_layers import WeightLayer, find_layers

QuantizeNet = Callable[..., tvm.IRModule]


def _layers(mod: tvm.IRModule, reference: tvm.IRModule) -> list[WeightLayer]:
    return list(find_layers(mod, reference, lambda *_: None))


def _moments(layer: WeightLayer, seed: int, noise: float) -> tuple[Moments, Moments]:
    """Return moments of correlated inputs, and of outputs that the floats would miss by noise."""
    rng = np.random.default_rng(seed)
    groups, _, size = layer.rows(layer.weight).shape
    exact = layer.with_bias(layer.rows(layer.weight), layer.reference_bias)
    mix = rng.standard_normal((groups, size, size))
    x = np.matmul(rng.standard_normal((groups, 300, size)), mix)
    ones = np.ones((groups, 300, exact.shape[-1] - size))
    y = np.matmul(np.concatenate([x, ones], -1), exact.swapaxes(1, 2))
    y += noise * rng.standard_normal(y.shape)
    halves = []
    for half in range(2):
        total = MomentSum(exact, has_bias=layer.bias is not None, layer=layer.name)
        total.add(x[:, half::2], y[:, half::2])
        halves.append(total.finish())
    return halves[0], halves[1]


def _value(layer: WeightLayer, result: Repaired) -> np.ndarray:
    return layer.with_bias(layer.rows(result.stored.value()), result.bias)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    method=st.sampled_from(["gptq", "adaround", "nearest"]),
    asymmetric=st.booleans(),
    search=st.booleans(),
    place=st.integers(0, 4),
)
def test_no_method_is_worse_than_the_constants_at_hand(
    seed: int,
    method: str,
    asymmetric: bool,
    search: bool,
    place: int,
    small_net: tvm.IRModule,
    quantize_net: QuantizeNet,
) -> None:
    layer = _layers(quantize_net(weight_bits=4), small_net)[place]
    halves = _moments(layer, seed, noise=0.1)
    moments = pooled(*halves)
    # With next to no ridge the objective is the squared error itself, which then cannot grow.
    how = RoundingOptions(method=method, asymmetric=asymmetric, search_scale=search, ridge=1e-9)
    result = repair_layer(layer, halves, how)
    if asymmetric:
        # The ridge's share of the objective: 1e-9 of squares that are at most a few hundred times
        # the outputs' own (300 rows of 27 inputs at most, all mixed).
        assert result.after <= result.before * (1 + 1e-6) + 1e-6
    exact = layer.with_bias(layer.rows(layer.weight), layer.reference_bias)
    direct = moments.error(_value(layer, result) - exact).sum() / moments.wanted.sum()
    # The stored weights are float32 products of an integer and a scale: 2^-24 of each weight.
    np.testing.assert_allclose(result.after, direct, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("place", range(5))
def test_gptq_is_better_than_nearest(
    place: int, small_net: tvm.IRModule, quantize_net: QuantizeNet
) -> None:
    layer = _layers(quantize_net(weight_bits=4, sensitive_bits=4), small_net)[place]
    moments = _moments(layer, 0, noise=0.0)
    after = {
        method: repair_layer(
            layer, moments, RoundingOptions(method=method, search_scale=False)
        ).after
        for method in ("nearest", "adaround", "gptq")
    }
    assert after["gptq"] < after["nearest"]
    assert after["adaround"] < after["nearest"]


def test_integers_stay_within_the_bits_that_they_had(
    small_net: tvm.IRModule, quantize_net: QuantizeNet
) -> None:
    for layer in _layers(quantize_net(weight_bits=3), small_net):
        before = np.abs(layer.stored.codes.astype(int)).max()
        result = repair_layer(layer, _moments(layer, 1, noise=0.3), RoundingOptions())
        assert np.abs(result.stored.codes.astype(int)).max() <= before
        assert result.stored.codes.dtype == np.int8
        assert result.stored.codes.shape == layer.stored.codes.shape
        assert result.stored.how.scale.shape == layer.stored.how.scale.shape


def test_one_scale_for_all_outputs_stays_as_it_is(
    small_net: tvm.IRModule, quantize_net: QuantizeNet
) -> None:
    layer = _layers(quantize_net(weight_bits=4, weight_granularity="tensor"), small_net)[2]
    result = repair_layer(layer, _moments(layer, 2, noise=0.1), RoundingOptions())
    assert result.stored.how.same(layer.stored.how)
    assert result.after < result.before


def _grouped(layer: WeightLayer, *, zero: bool) -> WeightLayer:
    """Return a matmul's layer with its weight in groups of 4 inputs."""
    parts = layer.weight.reshape(4, 4, -1)
    low, high = parts.min(1, keepdims=True), parts.max(1, keepdims=True)
    scale = ((high - low) / 15 if zero else np.maximum(high, -low) / 7).astype("f4")
    shift = np.rint(-low / scale).astype("f4") if zero else None
    codes = np.rint(parts / scale) + (0 if shift is None else shift)
    codes = np.clip(codes, 0, 15) if zero else np.clip(codes, -7, 7)
    kind = "u1" if zero else "i1"
    stored = forms.Grouped(codes=codes.astype(kind), scale=scale, zero=shift, axis=0)
    return replace(layer, stored=stored)


@pytest.mark.parametrize("zero", [False, True])
def test_groups_of_inputs_are_repaired_in_their_own_scales(
    zero: bool, small_net: tvm.IRModule, quantize_net: QuantizeNet
) -> None:
    layer = _grouped(_layers(quantize_net(), small_net)[4], zero=zero)
    result = repair_layer(layer, _moments(layer, 3, noise=0.0), RoundingOptions())
    assert isinstance(result.stored, forms.Grouped)
    assert result.stored.scale.shape == layer.stored.scale.shape
    assert result.after < 0.7 * result.before
    if zero:
        np.testing.assert_array_equal(result.stored.zero, layer.stored.zero)
        assert result.stored.codes.max() <= 15


def test_a_searched_scale_leaves_room_for_the_bias(
    small_net: tvm.IRModule, quantize_net: QuantizeNet
) -> None:
    layer = _layers(quantize_net(weight_bits=4), small_net)[2]
    huge = np.full_like(layer.reference_bias, 1e12)
    layer = replace(layer, reference_bias=huge)
    grid = grids(layer, layer.rows(layer.weight), RoundingOptions())[1]
    units = huge / (float(layer.bias.data.scale) * grid.scale.reshape(-1))
    assert np.all(units <= 2.0**30 * (1 + 1e-12))


@pytest.mark.parametrize(
    ("codes", "symmetric", "want"),
    [
        ([-7, 3], True, (-7, 6)),
        ([-7, 7], True, (-7, 7)),
        ([-8, 7], True, (-8, 7)),
        ([-64, 64], True, (-64, 64)),
        ([-2, 100], True, (-100, 100)),
        ([0, 0], True, (-1, 1)),
        ([3, 15], False, (3, 15)),
    ],
)
def test_the_range_is_the_one_that_integers_span(
    codes: list[int], symmetric: bool, want: tuple[int, int]
) -> None:
    assert code_range(np.array(codes, "i2"), symmetric=symmetric) == want


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"method": "best"}, "method must be 'gptq', 'adaround' or 'nearest', got 'best'"),
        ({"ridge": 0.0}, r"ridge must be in \(0, 1\], got 0.0"),
        ({"sweeps": -1}, "sweeps must be at least 0, got -1"),
    ],
)
def test_impossible_options_are_refused(option: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        RoundingOptions(**option)


def test_a_layer_that_is_fed_nothing_but_zeros_keeps_its_weights(
    small_net: tvm.IRModule, quantize_net: QuantizeNet
) -> None:
    layer = _layers(quantize_net(), small_net)[4]
    exact = layer.rows(layer.weight)
    total = MomentSum(exact, has_bias=False, layer=layer.name)
    total.add(np.zeros((1, 50, 16), "f4"), np.zeros((1, 50, 8), "f4"))
    nothing = total.finish()
    result = repair_layer(layer, (nothing, nothing), RoundingOptions(search_scale=False))
    np.testing.assert_array_equal(result.stored.codes, layer.stored.codes)
    assert result.before == result.after == 0.0
