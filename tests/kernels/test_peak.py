from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import tirx

from tvmopt.kernels import peak
from tvmopt.targets import CpuTarget, get

X86_64_V3 = get("x86-64-v3")
X86_64_V4 = get("x86-64-v4")
NEON = get("cortex-a76-pi5")
AARCH64 = get("aarch64")


def compiled(target: CpuTarget) -> tvm.runtime.Module:
    mod = tvm.IRModule({"peak": peak.peak(target, "peak")})
    return tirx.build(mod, target=target.to_tvm())


@pytest.mark.parametrize(
    ("target", "multiply_add"), [(X86_64_V3, "vfmadd"), (X86_64_V4, "vfmadd"), (NEON, "fmla")]
)
def test_chains_stay_in_registers(target: CpuTarget, multiply_add: str) -> None:
    assembly = compiled(target).inspect_source("asm").splitlines()
    found = [i for i, line in enumerate(assembly) if multiply_add in line]
    assert len(found) % peak.chains(target) == 0
    assert len(found) >= peak.chains(target)
    # LLVM may unroll: between the first and the last there is no load, no store, no move.
    between = assembly[found[0] : found[-1] + 1]
    code = [line.strip() for line in between if not line.lstrip().startswith(".")]
    assert not [line for line in code if "[" in line or "(" in line or line.startswith("mov")]
    assert not any("Workspace" in line for line in assembly)


@pytest.mark.parametrize(
    "target",
    [
        pytest.param(X86_64_V3, marks=pytest.mark.isa("avx2")),
        pytest.param(X86_64_V4, marks=pytest.mark.isa("avx512vl")),
        pytest.param(AARCH64, marks=pytest.mark.isa("asimd")),
    ],
    ids=lambda target: target.name,
)
def test_every_chain_takes_every_step(target: CpuTarget) -> None:
    floats = peak.peak_floats(target)
    x = np.random.default_rng(0).uniform(1e-5, 1e-4, floats).astype(np.float32)
    y = tvm.runtime.tensor(np.zeros(floats, np.float32))
    compiled(target)["peak"](tvm.runtime.tensor(x), y)
    expected = x.reshape(peak.chains(target), -1).astype(np.float64)
    factor = expected[0].copy()
    for _ in range(peak.ROUNDS):
        for i in range(len(expected)):
            expected[i] += factor * expected[(i + 1) % len(expected)]
    # All terms are positive, so errors do not cancel and do not grow relative to the sums: each
    # of ROUNDS steps rounds at most twice, by half a unit.
    bound = peak.ROUNDS * np.finfo(np.float32).eps
    np.testing.assert_allclose(y.numpy(), expected.ravel(), rtol=bound, atol=0)


def test_work_is_two_a_lane_and_step() -> None:
    assert peak.peak_flops(X86_64_V4) == 2 * peak.ROUNDS * peak.chains(X86_64_V4) * 16
