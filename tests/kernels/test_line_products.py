"""Mirror of tvmopt/kernels/line_products.py."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from tvmopt.kernels.line_products import Products
from tvmopt.kernels.tile import Tile, panel_columns
from tvmopt.kernels.vector import parameters, prim_func


@pytest.mark.parametrize("rows", [8, 9, 11])  # of which the tile divides none, or the first
@pytest.mark.parametrize("chunk", [12, 6, 2])
@pytest.mark.parametrize(
    "tile", [Tile(4, 16, 8), Tile(2, 20, 8), Tile(4, 8, 4)], ids=lambda t: f"{t.rows}x{t.columns}"
)
def test_chunks_rows_and_columns_that_overlap_are_added_once(
    kit: SimpleNamespace, rows: int, chunk: int, tile: Tile
) -> None:
    k, pitch, columns, places = 12, 4, 20, 3
    products = Products(
        places=places,
        rows=rows,
        pitch=pitch,
        k=k,
        chunk=chunk,
        columns=columns,
        tile=tile,
        prefetch=True,
        parallel=True,
    )

    def body() -> None:
        moved, w, summed = parameters(
            ("moved", (places, products.input_pitch)),
            ("w", (places, products.panels, k, tile.width)),
            ("summed", (places, products.output_pitch)),
        )
        products.emit(moved, w, summed)

    rng = np.random.default_rng(rows)
    moved = rng.standard_normal((places, products.input_pitch)).astype(np.float32)
    weight = rng.standard_normal((places, k, columns)).astype(np.float32)
    packed = weight[:, :, panel_columns(columns, tile)].transpose(0, 2, 1, 3)
    got = kit.run(prim_func("products", body, {}), moved, np.ascontiguousarray(packed))
    seen = np.lib.stride_tricks.sliding_window_view(moved, k, 1)[:, : rows * pitch : pitch]
    exact = kit.Bounded.dot(np.matmul, seen, weight, k)
    exact.check(got[:, : rows * columns].reshape(places, rows, columns))
