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


def test_weights_too_large_to_share_level_3_come_from_memory_once(kit: SimpleNamespace) -> None:
    target = kit.AVX2
    kept = target.l3_bytes // 8
    assert cost.weight_cycles(kept, 1, target) == kept / cost.L3_BYTES_PER_CYCLE
    first = cost.weight_cycles(2 * kept, 1, target)
    assert first == 2 * kept / cost.MEMORY_BYTES_PER_CYCLE
    again = cost.weight_cycles(2 * kept, 3, target) - first
    assert again == 2 * cost.stream_cycles(2 * kept, target)


def test_images_cost_where_no_cache_holds_them(kit: SimpleNamespace) -> None:
    target = kit.AVX2
    most = target.l3_bytes * 3 // 4
    assert cost.image_cycles(most // 2, most // 2, target) == 0
    # What is written is fetched, too.
    assert cost.image_cycles(most, 100, target) == (most + 200) / cost.MEMORY_BYTES_PER_CYCLE
