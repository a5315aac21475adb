"""Mirror of passes/canonicalize/views.py."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvmopt.passes.canonicalize.views import (
    Steps,
    View,
    channels_last,
    ordered,
    plain,
    reshape,
    solid,
    steps_between,
    transpose,
)


def _logical(view: View, stored: np.ndarray) -> np.ndarray:
    """Read the logical tensor out of the stored one, by the definition of a view."""
    larger = [i for i, size in enumerate(view.stored) if size != 1]
    dense = stored.reshape([view.stored[i] for i in larger])
    return dense.transpose([larger.index(a) for a in view.order]).reshape(view.logical)


def _follow(steps: list[Steps], stored: np.ndarray) -> np.ndarray:
    for step in steps:
        stored = stored.reshape(step.before)
        stored = stored if step.axes is None else stored.transpose(step.axes)
        stored = stored.reshape(step.after)
    return stored


def _random_shape(elements: int, rng: np.random.Generator) -> tuple[int, ...]:
    shape: list[int] = []
    while elements > 1:
        shape.append(int(rng.choice([d for d in range(2, elements + 1) if elements % d == 0])))
        elements //= shape[-1]
    for _ in range(rng.integers(0, 3)):
        shape.insert(int(rng.integers(0, len(shape) + 1)), 1)
    return tuple(shape)


@st.composite
def _walks(draw: st.DrawFn) -> tuple[View, np.ndarray, np.ndarray]:
    """Transpose and reshape a tensor a few times: its view, the stored and the logical tensor."""
    shape = tuple(draw(st.lists(st.sampled_from([1, 1, 2, 3, 4, 6]), min_size=1, max_size=4)))
    stored = logical = np.arange(math.prod(shape)).reshape(shape)
    view = plain(shape)
    for seed in draw(st.lists(st.integers(0, 2**16), max_size=5)):
        rng = np.random.default_rng(seed)
        if rng.random() < 0.5:
            axes = tuple(int(a) for a in rng.permutation(logical.ndim))
            view, logical = transpose(view, axes), logical.transpose(axes)
            continue
        target = _random_shape(logical.size, rng)
        new = reshape(view, target)
        if new is None:
            stored = _follow(steps_between(view, plain(view.logical)), stored)
            new = reshape(plain(view.logical), target)
            assert new is not None
        view, logical = new, logical.reshape(target)
    return view, stored, logical


@settings(deadline=None, max_examples=300, derandomize=True)
@given(walk=_walks())
def test_views_follow_what_numpy_does(walk: tuple[View, np.ndarray, np.ndarray]) -> None:
    view, stored, logical = walk
    np.testing.assert_array_equal(_logical(view, stored.reshape(view.stored)), logical)


@settings(deadline=None, max_examples=300, derandomize=True)
@given(walk=_walks(), seed=st.integers(0, 2**16))
def test_steps_lead_to_the_target(walk: tuple[View, np.ndarray, np.ndarray], seed: int) -> None:
    view, stored, logical = walk
    order = np.random.default_rng(seed).permutation(len(view.logical))
    target = ordered(view.logical, tuple(int(i) for i in order))

    steps = steps_between(view, target)

    result = _follow(steps, stored.reshape(view.stored))
    assert result.shape == target.stored
    np.testing.assert_array_equal(result, logical.transpose(order))
    assert sum(step.axes is not None for step in steps) <= 2


@settings(deadline=None, max_examples=300, derandomize=True)
@given(walk=_walks())
def test_solid_stores_each_axis_in_one_piece(walk: tuple[View, np.ndarray, np.ndarray]) -> None:
    view, stored, logical = walk
    whole = solid(view)
    assert len(whole.stored) == len(view.logical)
    assert all(len(group) <= 1 for group in whole.axes)
    moved = _follow(steps_between(view, whole), stored.reshape(view.stored))
    np.testing.assert_array_equal(_logical(whole, moved), logical)


@pytest.mark.parametrize(
    ("source", "target", "steps"),
    [
        (plain((2, 3, 4, 5)), plain((2, 3, 4, 5)), []),
        (
            plain((1, 3, 4, 5)),
            channels_last((1, 3, 4, 5)),
            [Steps(before=(1, 3, 4, 5), axes=(0, 2, 3, 1), after=(1, 4, 5, 3))],
        ),
        # Only axes of size 1 change places: nothing moves.
        (
            plain((2, 1, 4, 5)),
            channels_last((2, 1, 4, 5)),
            [Steps(before=(2, 1, 4, 5), axes=None, after=(2, 4, 5, 1))],
        ),
        (
            plain((2, 3, 1, 1)),
            channels_last((2, 3, 1, 1)),
            [Steps(before=(2, 3, 1, 1), axes=None, after=(2, 1, 1, 3))],
        ),
    ],
)
def test_steps_between_simple_views(source: View, target: View, steps: list[Steps]) -> None:
    assert steps_between(source, target) == steps


def test_merging_and_splitting_axes_moves_nothing() -> None:
    stored = channels_last((2, 6, 4, 5))
    merged = reshape(stored, (2, 6, 20))
    assert merged is not None
    split = reshape(merged, (2, 2, 3, 4, 5))
    assert split is not None
    assert split.stored == (2, 4, 5, 2, 3)
    assert steps_between(reshape(split, (2, 6, 4, 5)) or stored, stored) == [
        Steps(before=(2, 4, 5, 2, 3), axes=None, after=(2, 4, 5, 6))
    ]


def test_cutting_across_stored_axes_needs_a_move() -> None:
    assert reshape(channels_last((1, 2, 3, 5)), (5, 6)) is None
    assert reshape(plain((2, 3)), (3, 2)) is not None
