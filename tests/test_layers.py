"""Which layers a graph has, and the parts they play."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tvm
from tvm import relax

from tvmopt.layers import layers_of, origin

LAYOUTS = {"data_layout": "NHWC", "kernel_layout": "OHWI", "out_layout": "NHWC"}
Build = Callable[[relax.BlockBuilder, relax.Var], relax.Expr]


def _module(build: Build) -> tvm.IRModule:
    x = relax.Var("x", relax.TensorType((1, 4, 4, 8), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            out = builder.emit_output(build(builder, x))
        builder.emit_func_output(out)
    return builder.get()


def _conv(builder: relax.BlockBuilder, x: relax.Expr, name: str, groups: int = 1) -> relax.Var:
    weight = relax.const(np.ones((8, 1, 1, 8 // groups), "f4"))
    return builder.emit(relax.op.nn.conv2d(x, weight, groups=groups, **LAYOUTS), name)


def test_roles_follow_from_the_graph_and_not_from_the_order() -> None:
    def build(builder: relax.BlockBuilder, x: relax.Var) -> relax.Expr:
        stem = _conv(builder, x, "stem")
        left = _conv(builder, builder.emit(relax.op.nn.relu(stem)), "left", groups=8)
        right = _conv(builder, x, "right", groups=2)
        joined = builder.emit(relax.op.add(left, right))
        head = builder.emit(relax.op.matmul(joined, relax.const(np.ones((8, 3), "f4"))), "head")
        return relax.op.nn.softmax(head)

    found = {layer.name: (layer.roles, layer.weights) for layer in layers_of(_module(build))}
    assert found == {
        "stem": ({"conv", "first"}, 64),
        "left": ({"depthwise"}, 8),
        "right": ({"conv", "first"}, 32),
        "head": ({"linear", "last"}, 24),
    }


def test_several_outputs_may_end_in_several_layers() -> None:
    def build(builder: relax.BlockBuilder, x: relax.Var) -> relax.Expr:
        body = _conv(builder, x, "body")
        return relax.Tuple([_conv(builder, body, "one"), _conv(builder, body, "two"), body])

    found = {layer.name: layer.roles for layer in layers_of(_module(build))}
    assert found == {
        "body": {"conv", "first"},
        "one": {"conv", "last"},
        "two": {"conv", "last"},
    }


def test_a_product_of_two_activations_is_no_layer() -> None:
    def build(builder: relax.BlockBuilder, x: relax.Var) -> relax.Expr:
        turned = builder.emit(relax.op.permute_dims(x, [0, 1, 3, 2]))
        scores = builder.emit(relax.op.matmul(x, turned), "scores")
        weight = builder.emit(relax.op.astype(relax.const(np.ones((4, 2), "i1")), "float32"))
        return relax.op.matmul(scores, weight)

    (only,) = layers_of(_module(build))
    assert only.roles == {"linear", "first", "last"}
    assert only.weights == 8


def test_parts_come_from_the_layer_that_they_are_named_after() -> None:
    before = {"conv", "deep__conv"}
    assert origin("conv", before) == "conv"
    assert origin("conv__first", before) == "conv"
    assert origin("conv__first__core", before) == "conv"
    assert origin("deep__conv", before) == "deep__conv"
    assert origin("deep__conv__first", before) == "deep__conv"
    assert origin("other__first", before) == "other__first"
