"""Mirror of tvmopt/kernels/cost.py."""

from __future__ import annotations

from types import SimpleNamespace

from hypothesis import given, settings
from hypothesis import strategies as st

from tvmopt.kernels import cost


@settings(derandomize=True, max_examples=100, deadline=None)
@given(sizes=st.tuples(st.integers(0, 1 << 26), st.integers(0, 1 << 26)))
def test_more_bytes_never_cost_less(kit: SimpleNamespace, sizes: tuple[int, int]) -> None:
    less, more = (cost.stream_cycles(size, kit.AVX2) for size in sorted(sizes))
    assert less <= more


def test_a_level_further_out_is_slower(kit: SimpleNamespace) -> None:
    target = kit.AVX2
    sizes = target.l2_bytes // 2, target.l3_bytes // 2, target.l3_bytes
    rates = [size / cost.stream_cycles(size, target) for size in sizes]
    assert rates == [
        cost.L2_BYTES_PER_CYCLE,
        cost.L3_BYTES_PER_CYCLE,
        cost.MEMORY_BYTES_PER_CYCLE,
    ]
