"""Mirror of tvmopt/kernels/transpose_tile.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tvmopt.kernels.transpose_tile import transposed
from tvmopt.kernels.vector import Vector, bind, parameters, prim_func


@pytest.mark.parametrize("lanes", [1, 2, 4, 8, 16])
def test_every_word_lands_where_rows_become_columns(kit: Any, lanes: int) -> None:
    vector = Vector(lanes)

    def body() -> None:
        x, y = parameters(("x", (lanes, lanes)), ("y", (lanes, lanes)))
        rows = [bind(vector.load(x, i * lanes)) for i in range(lanes)]
        for i, column in enumerate(transposed(rows)):
            vector.store(y, column, i * lanes)

    x = np.arange(lanes * lanes, dtype=np.float32).reshape(lanes, lanes)
    got = kit.run(prim_func("transpose", body, {}), x)
    np.testing.assert_array_equal(got, x.T)


def test_a_tile_of_8_takes_three_instructions_a_row(kit: Any) -> None:
    vector = Vector(8)

    def body() -> None:
        x, y = parameters(("x", (8, 8)), ("y", (8, 8)))
        rows = [bind(vector.load(x, i * 8)) for i in range(8)]
        for i, column in enumerate(transposed(rows)):
            vector.store(y, column, i * 8)

    assembly = kit.build(prim_func("transpose", body, {}), kit.AVX2).inspect_source("asm")
    moved = [line for line in assembly.splitlines() if "vperm" in line or "vunpck" in line]
    moved += [line for line in assembly.splitlines() if "vshuf" in line or "vinsertf" in line]
    assert 16 <= len(moved) <= 24, "\n".join(moved)
