"""Mirror of tvmopt/lowering/legalize.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tvm import relax

from tvmopt import codegen, runtime
from tvmopt.codegen import BuildMeta
from tvmopt.lowering import lower
from tvmopt.report import Report
from tvmopt.targets import resolve

U = 2.0**-24  # unit roundoff of float32


@pytest.mark.parametrize("offset", [0.0, 3000.0])
@pytest.mark.parametrize(("shape", "axes"), [((5, 7, 33), [-1]), ((2, 3, 4, 5), [2, 3])])
def test_layer_norm_survives_a_mean_far_from_zero(
    shape: tuple[int, ...], axes: list[int], offset: float, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    x = (rng.standard_normal(shape) + offset).astype(np.float32)
    size = shape[axes[0] :]
    gamma, beta = (rng.standard_normal(size).astype(np.float32) for _ in range(2))
    builder = relax.BlockBuilder()
    var = relax.Var("x", relax.TensorType(shape, "float32"))
    with builder.function("main", [var]):
        with builder.dataflow():
            call = relax.op.nn.layer_norm(var, relax.const(gamma), relax.const(beta), axes=axes)
            out = builder.emit_output(call)
        builder.emit_func_output(out)
    target = resolve("native")
    artifact = codegen.build(lower(builder.get(), target, Report()), target, BuildMeta(name="ln"))
    artifact.save(tmp_path / "ln.so")
    with runtime.open(tmp_path / "ln.so") as net:
        got = net(x)
    inner = tuple(range(len(shape) + axes[0], len(shape))) if axes[0] < 0 else tuple(axes)
    wide = x.astype(np.float64)
    mean = wide.mean(inner, keepdims=True)
    distance = wide - mean
    spread = np.sqrt((distance**2).mean(inner, keepdims=True) + 1e-5)
    wanted = distance / spread * gamma + beta
    # n roundings of the mean move every distance by n u |mean|; n more each for the squares and
    # the spread are relative. Two roundings for gamma and beta.
    n = np.prod(size) + 4
    moved = n * U * np.abs(wide).max() / spread
    bound = (moved + (2 * n + 4) * U * np.abs(distance) / spread) * np.abs(gamma)
    bound += 2 * U * (np.abs(wanted) + np.abs(beta))
    assert (np.abs(got - wanted) <= bound).all()
    # TVM's own form, E[x^2] - E[x]^2, is off by u mean^2 / spread^2: half the result and more here.
    assert offset == 0 or np.abs(got - wanted).max() < 0.01
