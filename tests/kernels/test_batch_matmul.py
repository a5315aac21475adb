"""Mirror of tvmopt/kernels/batch_matmul.py."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from types import SimpleNamespace

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tvmopt.kernels.batch_matmul import BatchMatmulSite, View, batch_matmul
from tvmopt.kernels.epilogue import STORE, Epilogue, Operand, Step

SCALE_BIAS_RESIDUAL = Epilogue(
    (Operand.CHANNEL, Operand.TENSOR),
    (Step("mul", (0, 0.125)), Step("add", (3, 1)), Step("add", (4, 2))),
)

# Attention's scores: a scale, and a mask that all batches and heads share.
SCALE_MASK = Epilogue((Operand.PLANE,), (Step("mul", (0, 0.125)), Step("add", (2, 1))))
ALL_KINDS = Epilogue(
    (Operand.PLANE, Operand.CHANNEL, Operand.TENSOR),
    (Step("add", (0, 1)), Step("mul", (4, 2)), Step("sub", (5, 3))),
)
EPILOGUES = [STORE, SCALE_BIAS_RESIDUAL, SCALE_MASK, ALL_KINDS]


@dataclass(frozen=True)
class Layout:
    """How an operand is stored: its axes (batch..., row, column) in the order of memory."""

    order: tuple[int, ...]
    broadcast: tuple[bool, ...] = (False, False)

    def store(self, batch: tuple[int, ...], rows: int, columns: int, seed: int) -> tuple:
        """Return random data as stored, the matrices in it, and the view of them."""
        own = [1 if one else extent for one, extent in zip(self.broadcast, batch, strict=True)]
        shape = (*own, rows, columns)
        data = np.random.default_rng(seed).standard_normal([shape[a] for a in self.order])
        data = data.astype(np.float32)
        matrices = data.transpose(np.argsort(self.order))
        strides = [s // 4 for s in matrices.strides]
        outer = tuple(0 if one else s for one, s in zip(self.broadcast, strides[:2], strict=True))
        view = View(data.size, outer, strides[2], strides[3])
        return data, np.broadcast_to(matrices, (*batch, rows, columns)), view


DENSE = Layout((0, 1, 2, 3))
TRANSPOSED = Layout((0, 1, 3, 2))
HEADS = Layout((0, 2, 1, 3))  # (batch, row, head, column), as attention's projections leave it
HEADS_TRANSPOSED = Layout((0, 3, 1, 2))
SHARED = Layout((0, 1, 2, 3), (False, True))
LAYOUTS = [DENSE, TRANSPOSED, HEADS, HEADS_TRANSPOSED, SHARED]
sizes = st.integers(1, 20)


@settings(derandomize=True, max_examples=10, deadline=None)
@given(
    batch=st.tuples(st.integers(1, 2), st.integers(1, 3)),
    size=st.tuples(sizes, sizes, sizes),
    left=st.sampled_from(LAYOUTS),
    right=st.sampled_from(LAYOUTS),
    epilogue=st.sampled_from(EPILOGUES),
)
@example(batch=(1, 1), size=(1, 1, 1), left=DENSE, right=TRANSPOSED, epilogue=STORE)
@example(batch=(2, 3), size=(7, 9, 29), left=HEADS, right=HEADS_TRANSPOSED, epilogue=STORE)
@example(batch=(2, 3), size=(5, 8, 11), left=SHARED, right=DENSE, epilogue=SCALE_BIAS_RESIDUAL)
@example(batch=(2, 3), size=(9, 4, 13), left=HEADS, right=TRANSPOSED, epilogue=SCALE_MASK)
@example(batch=(2, 2), size=(7, 3, 18), left=DENSE, right=SHARED, epilogue=ALL_KINDS)
# Enough for threads, with a panel that each of them gathers, and the last one overlaps.
@example(batch=(1, 4), size=(40, 33, 40), left=DENSE, right=TRANSPOSED, epilogue=STORE)
def test_any_product_is_within_its_rounding(
    kit: SimpleNamespace,
    batch: tuple[int, int],
    size: tuple[int, int, int],
    left: Layout,
    right: Layout,
    epilogue: Epilogue,
) -> None:
    m, k, n = size
    x, a, left_view = left.store(batch, m, k, seed=1)
    w, b, right_view = right.store(batch, k, n, seed=2)
    shape = (*batch, m, n)
    output = View(prod(shape), (batch[1] * m * n, m * n), n, 1)
    views = {"left": left_view, "right": right_view, "output": output}
    site = BatchMatmulSite(batch=batch, m=m, k=k, n=n, epilogue=epilogue, **views)
    extra = kit.operands(epilogue, shape, np.random.default_rng(3))
    exact = kit.after(epilogue, kit.Bounded.dot(np.matmul, a, b, k), extra)
    func = batch_matmul(site, kit.HERE, "f32_batch_matmul")
    exact.check(kit.run(func, x, w, *extra).reshape(shape))
    assert ("T.parallel" in func.script()) == (site.macs >= 200_000)


def test_only_columns_that_lie_apart_are_gathered(kit: SimpleNamespace) -> None:
    def scratch(layout: Layout) -> int:
        view = layout.store((1, 1), 6, 16, seed=0)[2]
        output = View(4 * 16, (64, 64), 16, 1)
        left = View(4 * 6, (24, 24), 6, 1)
        site = BatchMatmulSite(batch=(1, 1), m=4, k=6, n=16, left=left, right=view, output=output)
        return int(batch_matmul(site, kit.AVX2, "b").attrs["tvmopt.scratch_bytes"])

    assert scratch(DENSE) == scratch(HEADS) == 0
    assert 0 < scratch(TRANSPOSED) <= 6 * 16 * 4
