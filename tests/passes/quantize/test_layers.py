"""Mirror of passes/quantize/layers.py, with layer_bits.py."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt.errors import OptionError
from tvmopt.passes.quantize.layer_bits import LayerBits, LayerChoice, choose_layers
from tvmopt.passes.quantize.layers import Layer, check_patterns, find_layers, select

Build = Callable[..., tvm.IRModule]
Convolve = Callable[..., relax.Expr]

op, nn = relax.op, relax.op.nn
SHAPE = (1, 4, 4, 4)
LAYOUTS = {"data_layout": "NHWC", "kernel_layout": "OHWI", "out_layout": "NHWC"}


def _found(mod: tvm.IRModule) -> dict[str, Layer]:
    return {layer.name: layer for layer in find_layers(mod["main"]).values()}


@pytest.fixture(scope="module")
def net(build: Build, convolve: Convolve) -> tvm.IRModule:
    """Two stems, a depthwise layer behind their sum, and two heads."""

    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        both = bb.emit(op.add(convolve(bb, x, "left", 4), convolve(bb, x, "right", 4)), "both")
        deep = convolve(bb, both, "deep", 4, depthwise=True)
        flat = bb.emit(op.reshape(deep, (16, 4)), "flat")
        one = bb.emit(op.matmul(flat, relax.const(np.ones((4, 2), "float32"))), "one")
        two = bb.emit(op.matmul(flat, relax.const(np.ones((4, 2), "float32"))), "two")
        return bb.emit(op.add(one, two))

    return build(body, SHAPE)


def test_layers_and_what_they_are(net: tvm.IRModule) -> None:
    layers = _found(net)
    assert list(layers) == ["left_conv2d", "right_conv2d", "deep_conv2d", "one", "two"]
    assert [n for n, one in layers.items() if one.first] == ["left_conv2d", "right_conv2d"]
    assert [n for n, one in layers.items() if one.last] == ["one", "two"]
    assert [n for n, one in layers.items() if one.depthwise] == ["deep_conv2d"]
    assert [n for n, one in layers.items() if one.is_matmul] == ["one", "two"]
    assert {n: one.outputs for n, one in layers.items()} == {
        "left_conv2d": 4,
        "right_conv2d": 4,
        "deep_conv2d": 4,
        "one": 2,
        "two": 2,
    }


def test_bias_belongs_to_the_layer_where_it_is_one_a_channel(build: Build) -> None:
    weight = relax.const(np.ones((4, 4), "float32"))
    biases = {
        "one a channel": (np.arange(4.0), True),
        "with leading ones": (np.arange(4.0).reshape(1, 4), True),
        "a scalar": (np.array(2.0), False),
        "one a row": (np.ones((3, 1)), False),
        "more dimensions than the result": (np.ones((1, 1, 1, 4)), False),
    }
    for name, (bias, belongs) in biases.items():
        for swap in (False, True):

            def body(
                bb: relax.BlockBuilder,
                x: relax.Expr,
                bias: np.ndarray = bias,
                swap: bool = swap,
            ) -> relax.Expr:
                terms = [bb.emit(op.matmul(x, weight), "fc"), relax.const(bias.astype("float32"))]
                return bb.emit(op.add(*(terms[::-1] if swap else terms)), "sum")

            layer = _found(build(body, (3, 4)))["fc"]
            assert (layer.bias is not None) == belongs, name
            assert (layer.bias_var is not None) == belongs, name


def test_bias_of_a_result_that_others_read_stays_outside(build: Build) -> None:
    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        y = bb.emit(op.matmul(x, relax.const(np.ones((4, 4), "float32"))), "fc")
        total = bb.emit(op.add(y, relax.const(np.ones(4, "float32"))), "sum")
        return bb.emit(op.multiply(y, total))

    assert _found(build(body, (3, 4)))["fc"].bias is None


@pytest.mark.parametrize(
    "make",
    [
        lambda x: op.matmul(x, x),
        lambda x: op.matmul(x, relax.const(np.ones((1, 4, 4, 4), "float32"))),
        lambda x: op.matmul(relax.const(np.ones((1, 4, 4, 4), "float32")), x),
        lambda x: nn.conv2d(x, relax.const(np.ones((2, 4, 1, 1), "float32"))),  # NCHW
        lambda x: nn.conv2d_transpose(x, relax.const(np.ones((4, 2, 2, 2), "float32"))),
    ],
)
def test_what_has_no_weight_in_canonical_form_is_no_layer(
    build: Build, make: Callable[[relax.Expr], relax.Expr]
) -> None:
    assert _found(build(lambda bb, x: bb.emit(make(x), "y"), SHAPE)) == {}


def test_patterns_match_the_operator_or_its_sum(net: tvm.IRModule) -> None:
    layers = _found(net)
    for pattern, names in {
        "left": ["left_conv2d"],
        "left_conv2d": ["left_conv2d"],
        "*_conv2d": ["left_conv2d", "right_conv2d", "deep_conv2d"],
        "LEFT": [],
        "lef": [],
    }.items():
        assert [n for n, one in layers.items() if one.matches(pattern)] == names


def test_selection_gives_reasons(net: tvm.IRModule) -> None:
    taken, left = select(_found(net).values(), ("*_conv2d",), {"deep": "it is fragile"})
    assert [one.name for one in taken] == ["left_conv2d", "right_conv2d"]
    assert [(one.name, reason) for one, reason in left] == [
        ("deep_conv2d", "it is fragile"),
        ("one", "no pattern of 'layers' matches it"),
        ("two", "no pattern of 'layers' matches it"),
    ]


def test_pattern_without_a_match_names_some_layers(net: tvm.IRModule) -> None:
    layers = list(_found(net).values())
    with pytest.raises(
        OptionError, match=r"'x\?' must match a layer, and matches none of the 5: left_conv2d, "
    ):
        check_patterns(layers, ["x?"])
    with pytest.raises(OptionError, match=r"none of the 10: left.*, \.\.\."):
        check_patterns(layers * 2, ["x?"])
    check_patterns([], ["*"])  # all layers of a net without any


def test_sensitive_layers_keep_their_bits_and_rules_go_first(net: tvm.IRModule) -> None:
    def bits(**how: object) -> dict[str, tuple[int, str]]:
        chosen, _ = choose_layers(net["main"], LayerChoice(**how))
        return {one.layer.name: (one.bits, one.why) for one in chosen}

    assert bits(bits=4, sensitive_bits=8) == {
        "left_conv2d": (8, "first layer"),
        "right_conv2d": (8, "first layer"),
        "deep_conv2d": (8, "depthwise layer"),
        "one": (8, "last layer"),
        "two": (8, "last layer"),
    }
    assert set(bits(bits=8, sensitive_bits=4).values()) == {(8, "")}
    rules = (LayerBits(pattern="*", bits=5), LayerBits(pattern="one", bits=2))
    assert set(bits(bits=4, sensitive_bits=8, rules=rules).values()) == {
        (5, "rule '*'"),
        (2, "rule 'one'"),
    }
    rules = (LayerBits(pattern="*conv2d", bits=None),)
    chosen, left = choose_layers(net["main"], LayerChoice(bits=4, sensitive_bits=4, rules=rules))
    assert [one.layer.name for one in chosen] == ["one", "two"]
    assert {reason for _, reason in left} == {"rule '*conv2d'"}


def test_rule_without_a_match_is_refused(net: tvm.IRModule) -> None:
    choice = LayerChoice(bits=4, sensitive_bits=8, rules=(LayerBits(pattern="no", bits=4),))
    with pytest.raises(OptionError, match="'no' must match a layer"):
        choose_layers(net["main"], choice)
