"""Mirror of tvmopt/pipeline.py: what a recipe asks of lowering."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import tvmopt
import tvmopt.runtime
from tvmopt.passes.quantize.quantize_static import QuantizeStaticOptions
from tvmopt.recipe import Recipe

SHAPE = (1, 32, 10, 10)


def save(folder: Path) -> Path:
    """Write a 3x3 convolution of 32 channels."""
    weight = np.random.default_rng(1).standard_normal((32, 32, 3, 3)).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE) for name in "xy")
    graph = helper.make_graph([node], "net", [x], [y], [numpy_helper.from_array(weight, "w")])
    path = folder / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


def test_what_keeps_the_smaller_has_two_weights_a_byte_and_gives_the_same(tmp_path: Path) -> None:
    model = tvmopt.load(save(tmp_path))
    samples = np.random.default_rng(2).standard_normal((16, *SHAPE[1:])).astype(np.float32)
    four_bits = QuantizeStaticOptions(weight_bits=4, sensitive_bits=4)

    def compiled(keep: Literal["smaller", "all"]) -> tuple[int, np.ndarray]:
        recipe = Recipe(passes=(four_bits,), keep=keep)
        artifact = tvmopt.compile(model.apply(recipe, calibration={"x": samples}))
        run = tvmopt.runtime.Model(artifact.save(tmp_path / f"{keep}.so"))
        return len(artifact.shared_object), np.asarray(run(samples[:1]))

    (small, packed), (large, plain) = compiled("smaller"), compiled("all")
    assert large - small >= 32 * 32 * 9 // 2 - 4096  # sections end at whole pages
    assert np.array_equal(packed, plain)
