"""Mirror of tvmopt/lowering/predict.py."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from tvm import relax

from tvmopt.lowering import predict_layers
from tvmopt.targets import get


def test_every_layer_has_its_kernels_prediction(kit: SimpleNamespace) -> None:
    weight = np.ones((32, 16), np.float32)

    def body(emit: object, x: relax.Var) -> relax.Expr:
        first = emit(relax.op.matmul(x, relax.const(weight)), "first")
        return emit(relax.op.nn.softmax(first, -1), "second")

    layers = predict_layers(kit.module(body, (64, 32)), get("x86-64-v3"))
    assert next(iter(layers)) == "first"
    assert len(layers) >= 2
    assert all(cycles > 0 for cycles in layers.values())


def test_a_larger_product_is_predicted_to_take_longer(kit: SimpleNamespace) -> None:
    def layers(n: int) -> float:
        weight = relax.const(np.ones((64, n), np.float32))
        mod = kit.module(lambda emit, x: emit(relax.op.matmul(x, weight), "only"), (64, 64))
        return sum(predict_layers(mod, get("x86-64-v3")).values())

    assert layers(32) < layers(128) < layers(512)
