"""Mirror of tvmopt/kernels/pool.py."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tvmopt.kernels import cost
from tvmopt.kernels.blocks import THREAD_MACS
from tvmopt.kernels.pool import PoolSite, cycles, pool


def case(kind: str, height: int, width: int, channels: int, **other: object) -> PoolSite:
    """Return a site; ``ceil`` rounds its output up, as ONNX's ceil_mode does."""
    ceil = other.pop("ceil", False)
    given_ = {"batch": 1, "kernel": (2, 2), "strides": (2, 2), "pads": (0, 0, 0, 0), **other}
    out = []
    for axis, size in enumerate((height, width)):
        space = size + given_["pads"][axis] + given_["pads"][axis + 2] - given_["kernel"][axis]
        steps = -(-space // given_["strides"][axis]) if ceil else space // given_["strides"][axis]
        # ONNX drops a last window that would start behind the image and its first padding.
        last = size + given_["pads"][axis] - 1
        out.append(min(steps, last // given_["strides"][axis]) + 1)
    return PoolSite(
        kind=kind, height=height, width=width, channels=channels, out_size=tuple(out), **given_
    )


@st.composite
def sites(draw: st.DrawFn) -> PoolSite:
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    pads = [draw(st.integers(0, k - 1)) for k in (*kernel, *kernel)]  # as ONNX asks for
    kind = draw(st.sampled_from(["max", "mean"]))
    ceil = draw(st.booleans())
    return case(
        kind,
        draw(st.integers(max(1, kernel[0] - pads[0] - pads[2]), 9)),
        draw(st.integers(max(1, kernel[1] - pads[1] - pads[3]), 9)),
        draw(st.integers(1, 45)),
        batch=draw(st.integers(1, 2)),
        kernel=kernel,
        strides=draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        pads=tuple(pads),
        ceil=ceil,
        # Lowering leaves this form to others: a mean over padding that is not there.
        count_pad=kind == "mean" and not ceil and draw(st.booleans()),
    )


def reference(kit: SimpleNamespace, site: PoolSite, x: np.ndarray) -> object:
    """Return the pooling: the maximum is exact, a mean is a sum and a division."""
    (top, left, _, _), (kh, kw) = site.pads, site.kernel
    shape = site.output_shape
    value, error = np.empty(shape), np.zeros(shape)
    for oh in range(shape[1]):
        for ow in range(shape[2]):
            y, z = oh * site.strides[0] - top, ow * site.strides[1] - left
            seen = x[:, max(y, 0) : max(y + kh, 0), max(z, 0) : max(z + kw, 0)].astype(np.float64)
            if site.kind == "max":
                value[:, oh, ow] = seen.max((1, 2))
                continue
            taps = seen.shape[1] * seen.shape[2]
            count = kh * kw if site.count_pad else taps
            value[:, oh, ow] = seen.sum((1, 2)) / count
            error[:, oh, ow] = kit.gamma(taps + 1) * np.abs(seen).sum((1, 2)) / count
    return kit.Bounded(value, error)


@settings(derandomize=True, max_examples=14, deadline=None)
@given(site=sites())
@example(site=case("max", 1, 1, 5, kernel=(3, 3), pads=(1, 1, 1, 1)))
@example(site=case("mean", 1, 1, 3, kernel=(2, 2), pads=(1, 1, 0, 0), count_pad=True))
@example(site=case("max", 9, 9, 40, kernel=(3, 3), pads=(1, 1, 1, 1), batch=2))
@example(site=case("mean", 7, 5, 33, kernel=(3, 2), strides=(3, 3), ceil=True))
@example(site=case("max", 64, 64, 16, kernel=(2, 2)))
def test_any_pooling_is_within_its_rounding(kit: SimpleNamespace, site: PoolSite) -> None:
    # All negative: a maximum that saw the padding as zeros would show.
    x = np.random.default_rng(site.channels).uniform(-2, -1, site.input_shape).astype(np.float32)
    reference(kit, site, x).check(kit.run(pool(site, kit.HERE, "f32_pool"), x))


@settings(derandomize=True, max_examples=6, deadline=None)
@given(site=sites(), dtype=st.sampled_from(["uint8", "int8"]), seed=st.integers(0))
@example(site=case("max", 9, 9, 70, kernel=(3, 3), pads=(1, 1, 1, 1)), dtype="uint8", seed=0)
@example(site=case("max", 1, 1, 5, kernel=(3, 3), pads=(1, 1, 1, 1)), dtype="int8", seed=0)
def test_the_maximum_of_integers_is_exact(
    kit: SimpleNamespace, site: PoolSite, dtype: str, seed: int
) -> None:
    site = replace(site, kind="max", count_pad=False, dtype=dtype)
    # Few different values, the least and the greatest among them.
    info = np.iinfo(dtype)
    values = np.array([info.min, info.min + 1, info.max], dtype)
    x = np.random.default_rng(seed).choice(values, site.input_shape)
    got = kit.run(pool(site, kit.HERE, "u8_maxpool"), x)
    assert np.array_equal(got, reference(kit, site, x).value)


def test_large_poolings_share_their_lines_among_threads(kit: SimpleNamespace) -> None:
    small, large = case("max", 8, 8, 8), case("max", 8, 2 * 10**3, THREAD_MACS // 8000)
    assert "T.parallel" not in pool(small, kit.AVX2, "f32_pool").script()
    assert "T.parallel" in pool(large, kit.AVX2, "f32_pool").script()


def test_a_pooling_costs_its_loads_or_its_memory(kit: SimpleNamespace) -> None:
    small = PoolSite(
        kind="max",
        batch=1,
        height=8,
        width=8,
        channels=32,
        kernel=(2, 2),
        strides=(2, 2),
        pads=(0, 0, 0, 0),
        out_size=(4, 4),
    )
    loads = 4 * 4 * 32 // kit.AVX2.lanes(32) * 4
    assert cycles(small, kit.AVX2) > cost.CALL_CYCLES + loads / 2
    large = replace(small, height=1024, width=1024, out_size=(512, 512))
    moved = 4 * 32 * (1024 * 1024 + 512 * 512)
    assert cycles(large, kit.AVX2) == cost.CALL_CYCLES + cost.stream_cycles(moved, kit.AVX2)
