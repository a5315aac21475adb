"""Mirror of tvmopt/kernels/vector.py."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from tvmopt.kernels.vector import Vector, bind, isa, loop, parameters, prim_func, registers
from tvmopt.targets import get


@pytest.mark.parametrize("lanes", [1, 3, 8, 16])
def test_loads_stores_and_splats_of_any_lanes(kit: SimpleNamespace, lanes: int) -> None:
    vector, size = Vector(lanes), 2 * lanes + 1

    def body() -> None:
        x, y = parameters(("x", (size,)), ("y", (2, lanes)))
        for row in range(2):
            value = vector.load(x, row * lanes + 1) * vector.splat(2.0)
            vector.store(y, value + vector.splat(x[0]), row * lanes)

    x = np.arange(size, dtype=np.float32) + 1
    got = kit.run(prim_func("both", body, {}), x)
    np.testing.assert_array_equal(got, (2 * x[1:] + x[0]).reshape(2, lanes))


@pytest.mark.parametrize("lanes", [3, 8])
def test_the_first_lanes_of_a_vector(kit: SimpleNamespace, lanes: int) -> None:
    def body() -> None:
        x, y = parameters(("x", (8,)), ("y", (lanes,)))
        whole = Vector(8)
        Vector(lanes).store(y, whole.first(whole.load(x, 0), lanes), 0)

    x = np.arange(8, dtype=np.float32)
    np.testing.assert_array_equal(kit.run(prim_func("first", body, {}), x), x[:lanes])


@pytest.mark.parametrize("parallel", [False, True])
def test_a_loop_takes_every_step_once(kit: SimpleNamespace, parallel: bool) -> None:
    def body() -> None:
        x, y = parameters(("x", (6, 4)), ("y", (6, 4)))
        vector = Vector(4)
        with loop(6, parallel=parallel) as i:
            held = registers(4)
            vector.store(held, vector.load(x, i * 4), 0)
            value = bind(vector.load(held, 0))
            vector.store(y, value + value, i * 4)

    x = np.arange(24, dtype=np.float32).reshape(6, 4)
    func = prim_func("twice", body, {})
    np.testing.assert_array_equal(kit.run(func, x), 2 * x)
    assert ("T.parallel" in func.script()) == parallel


def test_one_step_needs_no_threads() -> None:
    def body() -> None:
        (y,) = parameters(("y", (1,)))
        with loop(1, parallel=True):
            Vector(1).store(y, Vector(1).splat(1.0), 0)

    assert "T.parallel" not in prim_func("one", body, {}).script()


def test_a_kernel_carries_its_name_and_attributes() -> None:
    def body() -> None:
        (y,) = parameters(("y", (1,)))
        Vector(1).store(y, Vector(1).splat(1.0), 0)

    func = prim_func("f32_one__avx2", body, {"tvmopt.macs": 7})
    assert func.attrs["global_symbol"] == func.attrs["tvmopt.kernel"] == "f32_one__avx2"
    assert func.attrs["tvmopt.macs"] == 7
    assert func.attrs["tirx.noalias"]


def test_the_instruction_set_follows_from_the_target(kit: SimpleNamespace) -> None:
    names = [isa(target) for target in (kit.AVX512, kit.AVX2, get("x86-64-v2"), kit.NEON)]
    assert names == ["avx512f", "avx2", "sse", "neon"]
