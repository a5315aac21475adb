"""Mirror of tvmopt/kernels/attention.py."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.special
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tvmopt.kernels import attention
from tvmopt.kernels.attention import AttentionSite
from tvmopt.kernels.batch_matmul import View
from tvmopt.kernels.epilogue import STORE, Epilogue, Operand, Step

SCALE_MASK = Epilogue((Operand.PLANE,), (Step("mul", (0, 0.25)), Step("add", (2, 1))))


def heads(array: np.ndarray) -> View:
    """Return the view of (batch, position, head, depth) as matrices of a batch and a head."""
    _, positions, count, depth = array.shape
    return View(array.size, (positions * count * depth, depth), count * depth, 1)


def turned(view: View) -> View:
    return View(view.size, view.batch, view.column, view.row)


def site_of(
    batch: tuple[int, int], s: int, t: int, d: int, e: int, epilogue: Epilogue
) -> tuple[AttentionSite, list[np.ndarray]]:
    rng = np.random.default_rng(s + 10 * t)
    count, number = batch
    shapes = [(count, s, number, d), (count, t, number, d), (count, t, number, e)]
    q, k, v = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    output = View(prod(batch) * s * e, (s * number * e, e), number * e, 1)
    views = {"q": heads(q), "k": turned(heads(k)), "v": heads(v), "output": output}
    site = AttentionSite(batch=batch, s=s, t=t, d=d, e=e, epilogue=epilogue, **views)
    return site, [q, k, v]


def check(kit: SimpleNamespace, site: AttentionSite, inputs: list[np.ndarray], **how: bool) -> None:
    masked = bool(site.epilogue.operands)
    mask = np.random.default_rng(5).standard_normal((site.s, site.t)).astype(np.float32)
    q, k, v = (x.astype(np.float64).transpose(0, 2, 1, 3) for x in inputs)
    scores = kit.Bounded.dot(np.matmul, q, k.swapaxes(2, 3), site.d)
    scores = kit.after(site.epilogue, scores, [mask] if masked else [])
    weights = scipy.special.softmax(scores.value, -1)
    exact = weights @ v
    # A score that is off by at most r, and the difference to the maximum rounded once more, make
    # each exponential off by a factor exp(2 r + u |s - max|) and 2 ulp; numerator and denominator
    # are sums of t of them, and one division ends it.
    spread = scores.value.max(-1, keepdims=True) - scores.value
    off = 2 * scores.error.max() + kit.U * spread.max()
    factor = 2 * (np.expm1(off) + 4 * kit.U) + kit.gamma(2 * site.t + 2)
    error = factor * (1 + factor) * (weights @ np.abs(v))
    config = replace(attention.config(site, kit.HERE), **how)
    func = attention.attention(site, config, "f32_attention")
    got = kit.run(func, *inputs, *([mask] if masked else []))
    got = got.reshape(site.batch[0], site.s, site.batch[1], site.e).transpose(0, 2, 1, 3)
    kit.Bounded(exact, error).check(got)


sizes = st.integers(1, 20)


@settings(derandomize=True, max_examples=6, deadline=None)
@given(
    batch=st.tuples(st.integers(1, 2), st.integers(1, 3)),
    size=st.tuples(sizes, st.integers(1, 40), sizes, sizes),
    epilogue=st.sampled_from([STORE, SCALE_MASK]),
    parallel=st.booleans(),
)
@example(batch=(1, 1), size=(1, 1, 1, 1), epilogue=STORE, parallel=False)
@example(batch=(2, 3), size=(7, 17, 16, 16), epilogue=SCALE_MASK, parallel=True)
def test_any_attention_is_within_its_rounding(
    kit: SimpleNamespace,
    batch: tuple[int, int],
    size: tuple[int, int, int, int],
    epilogue: Epilogue,
    parallel: bool,
) -> None:
    site, inputs = site_of(batch, *size, epilogue)
    check(kit, site, inputs, parallel=parallel)


def test_large_scores_do_not_overflow(kit: SimpleNamespace) -> None:
    # exp(200) is no float32; the maximum is taken off first.
    site, (q, k, v) = site_of((1, 1), 4, 9, 8, 8, STORE)
    q = 20 * q
    func = attention.attention(site, attention.config(site, kit.AVX2), "f32_attention")
    got = kit.run(func, q, k, v).reshape(4, 8)
    assert np.isfinite(got).all()
    assert (np.abs(got) <= np.abs(v).max() * (1 + kit.gamma(20))).all()  # a mean of values


@pytest.mark.parametrize("machine", ["AVX2", "AVX512", "NEON"])
def test_both_tiles_fit_the_registers(kit: SimpleNamespace, machine: str) -> None:
    target = getattr(kit, machine)
    for s, t, d, e in ((128, 128, 32, 32), (1, 500, 64, 64), (7, 3, 5, 9)):
        site, _ = site_of((1, 12), s, t, d, e, SCALE_MASK)
        how = attention.config(site, target)
        assert how.scores.fits(target)
        assert how.values.fits(target)
        assert how.scores.rows == how.values.rows <= s
        assert how.scores.columns <= t
        assert how.values.columns <= e
