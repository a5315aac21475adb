"""The tap: inner tensors of a graph, as this machine computes them."""

from __future__ import annotations

import gc
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.tap import expose, native_tap
from tvmopt.targets import CpuTarget


def _module() -> tvm.IRModule:
    """Convolution, bias, ReLU, global mean and a product; an input that only the last needs."""
    rng = np.random.default_rng(0)
    x = relax.Var("x", relax.TensorType((1, 6, 6, 4), "float32"))
    shift = relax.Var("shift", relax.TensorType((1, 1, 1, 5), "float32"))
    builder = relax.BlockBuilder()
    kernel = relax.const(rng.standard_normal((8, 3, 3, 4)).astype("f4"))
    layouts = {"data_layout": "NHWC", "kernel_layout": "OHWI", "out_layout": "NHWC"}
    with builder.function("main", [x, shift]):
        with builder.dataflow():
            conv = builder.emit(relax.op.nn.conv2d(x, kernel, padding=1, **layouts), "conv")
            bias = builder.emit(
                relax.op.add(conv, relax.const(np.ones((1, 1, 1, 8), "f4"))), "bias"
            )
            act = builder.emit(relax.op.nn.relu(bias), "act")
            mean = builder.emit(relax.op.mean(act, axis=[1, 2], keepdims=True), "mean")
            weight = relax.const(rng.standard_normal((8, 5)).astype("f4"))
            product = builder.emit(relax.op.matmul(mean, weight), "product")
            out = builder.emit_output(relax.op.add(product, shift), "out")
        builder.emit_func_output(out)
    return builder.get()


def _feed() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        "pixels": rng.standard_normal((1, 6, 6, 4)).astype("f4"),
        "more": np.ones((1, 1, 1, 5), "f4"),
    }


def test_named_bindings_are_what_the_graph_computes(here: CpuTarget) -> None:
    mod, feed = _module(), _feed()
    names = ["act", "conv", "product", "x"]
    found = native_tap(["pixels", "more"], here)(mod, names)(feed)
    assert list(found) == names
    assert np.array_equal(found["x"], feed["pixels"])
    # One float32 rounding of the bias's addition is all that lies between them.
    expected = np.maximum(found["conv"] + np.float32(1), 0)
    assert np.allclose(found["act"], expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    weight = next(ir.constant(c.args[1]) for c in ir.calls(mod) if ir.is_call_to(c, "relax.matmul"))
    mean = found["act"].mean(axis=(1, 2), keepdims=True, dtype=np.float64)
    # A sum of n float32 products is off by at most n * 2**-24 of the sum of their sizes.
    bound = (36 + 8) * 2.0**-24 * (np.abs(mean) @ np.abs(weight)).max()
    assert np.abs(found["product"] - mean @ weight).max() <= bound


def test_one_name_will_do_and_results_are_not_overwritten(here: CpuTarget) -> None:
    run = native_tap(["pixels", "more"], here)(_module(), ["bias"])
    first = run(_feed())["bias"]
    kept = first.copy()
    run({name: 2 * array for name, array in _feed().items()})
    assert np.array_equal(first, kept)


def test_the_graph_ends_at_what_is_asked_for() -> None:
    mod = expose(_module(), ["bias"])
    assert [var.name for var, _ in ir.bindings(mod["main"])][:2] == ["conv", "bias"]
    assert not any(ir.is_call_to(call, "relax.matmul", "relax.mean") for call in ir.calls(mod))
    assert [param.name for param in mod["main"].params] == ["x", "shift"]


def test_the_module_stays_as_it_was() -> None:
    mod, before = _module(), _module()
    expose(mod, ["conv", "mean"])
    tvm.ir.assert_structural_equal(mod, before, map_free_vars=True)


def test_nothing_is_left_on_disk(
    here: CpuTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    run = native_tap(["pixels", "more"], here)(_module(), ["conv"])
    assert list(tmp_path.iterdir()) == []
    assert run(_feed())["conv"].shape == (1, 6, 6, 8)
    del run
    gc.collect()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("names", [[], ["conv", "conv"], ["absent"]])
def test_names_are_those_of_bindings(names: list[str]) -> None:
    with pytest.raises(AssertionError):
        expose(_module(), names)


def test_parameters_behind_the_inputs_go_by_their_own_names(here: CpuTarget) -> None:
    feed = _feed()
    run = native_tap(["pixels"], here)(_module(), ["out"])
    whole = native_tap(["pixels", "more"], here)(_module(), ["out"])
    got = run({"pixels": feed["pixels"], "shift": feed["more"]})
    np.testing.assert_array_equal(got["out"], whole(feed)["out"])
