"""Offsets: what lives at once never overlaps, and the arena stays within its bounds."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvmopt.codegen.memory import Buffer, place
from tvmopt.codegen.plan import ALIGNMENT, align_up


@st.composite
def buffers(draw: st.DrawFn) -> list[Buffer]:
    count = draw(st.integers(0, 30))
    found = []
    for _ in range(count):
        first = draw(st.integers(0, 40))
        size = draw(st.integers(0, 1000))
        found.append(Buffer(size=size, first=first, last=first + draw(st.integers(0, 12))))
    return found


def live_bytes(given_: list[Buffer]) -> int:
    """Most that lives during one step; no layout can be smaller."""
    return max(
        (sum(align_up(b.size) for b in given_ if b.first <= step <= b.last) for step in range(60)),
        default=0,
    )


@settings(derandomize=True, max_examples=300, deadline=None)
@given(buffers())
def test_buffers_that_meet_do_not_overlap(given_: list[Buffer]) -> None:
    offsets, arena = place(given_)
    spans = list(zip(given_, offsets, strict=True))
    for i, (a, start) in enumerate(spans):
        assert start % ALIGNMENT == 0
        assert start + a.size <= arena
        for b, other in spans[:i]:
            if a.meets(b) and a.size and b.size:
                assert start + a.size <= other or other + b.size <= start


@settings(derandomize=True, max_examples=300, deadline=None)
@given(buffers())
def test_arena_lies_between_what_lives_at_once_and_the_sum(given_: list[Buffer]) -> None:
    _, arena = place(given_)
    assert live_bytes(given_) <= arena <= sum(align_up(b.size) for b in given_)


@pytest.mark.parametrize("length", [2, 3, 50])
def test_a_chain_needs_two_buffers_whatever_its_length(length: int) -> None:
    chain = [Buffer(size=640, first=i, last=i + 1) for i in range(length)]
    assert place(chain)[1] == 2 * 640


def test_smallest_gap_that_fits_is_taken() -> None:
    walls = [  # largest first: they are laid end to end, 1000 aligned to 1024
        Buffer(size=1024, first=0, last=9),
        Buffer(size=960, first=0, last=3),
        Buffer(size=896, first=0, last=9),
        Buffer(size=256, first=0, last=3),
        Buffer(size=192, first=0, last=9),
    ]
    offsets, arena = place([*walls, Buffer(size=128, first=5, last=6)])
    assert offsets == [0, 1024, 1984, 2880, 3136, 2880]
    assert arena == 3136 + 192


def test_result_does_not_depend_on_anything_but_the_buffers() -> None:
    given_ = [Buffer(size=64 * (i % 5), first=i, last=i + 3) for i in range(40)]
    assert place(given_) == place(list(given_))
