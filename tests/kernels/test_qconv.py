"""Mirror of tvmopt/kernels/qconv.py: every result equals exact integer arithmetic, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from tvmopt.kernels import dot, qconv
from tvmopt.kernels.conv_site import ConvSite
from tvmopt.kernels.epilogue import Epilogue, Operand, Requantize, Step
from tvmopt.kernels.qconv_site import QConvSite
from tvmopt.targets import get
from tvmopt.targets.description import CpuTarget

OUTPUT = Requantize(dtype="uint8", zero_point=9, low=3, high=250)
SCALED = Epilogue((Operand.CHANNEL,), (Step("scale", (0, 1)),), ("float32",), OUTPUT)


def exact(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, site: QConvSite) -> np.ndarray:
    """Return the sums in 64 bits: no float is involved."""
    conv = site.conv
    top, left, bottom, right = conv.pads
    real = x.astype(np.int64) - site.zero_point
    real = np.pad(real, ((0, 0), (top, bottom), (left, right), (0, 0)))
    (out_h, out_w), (sh, sw), (dh, dw) = conv.out_size, conv.strides, conv.dilation
    sums = np.zeros(conv.output_shape, np.int64) + bias
    size, columns = conv.group_channels, conv.out_channels // conv.groups
    for i in range(conv.kernel[0]):
        for j in range(conv.kernel[1]):
            seen = real[:, i * dh :: sh, j * dw :: sw][:, :out_h, :out_w]
            for g in range(conv.groups):
                outs = slice(g * columns, (g + 1) * columns)
                taps = weight[outs, i, j].T
                sums[..., outs] += seen[..., g * size : (g + 1) * size] @ taps
    return sums


def check(
    kit: SimpleNamespace, site: QConvSite, target: CpuTarget | None = None, *, extreme: bool = False
) -> None:
    target = target or kit.HERE
    conv = site.conv
    rng = np.random.default_rng(conv.macs)
    info = np.iinfo(site.dtype)
    values = [info.min, info.max] if extreme else range(info.min, info.max + 1)
    x = rng.choice(values, conv.input_shape).astype(site.dtype)
    weights = [-site.largest, site.largest] if extreme else range(-site.largest, site.largest + 1)
    weight = rng.choice(weights, (conv.out_channels, *conv.kernel, conv.group_channels))
    weight = np.minimum(weight, 127) if site.largest == 128 else weight
    bias = rng.integers(-(2**20), 2**20, conv.out_channels)
    scale = (rng.random(conv.out_channels) * 1e-3 + 1e-5).astype(np.float32)
    how = qconv.config(site, target)
    packed = qconv.pack(weight, site, how), qconv.pack_bias(bias, weight, site, how)
    run = kit.run.func
    got = run(target, qconv.qconv(site, how, "k"), x, *packed, *_operands(conv.epilogue, scale))
    sums = exact(x, weight, bias, site).astype(np.float32)
    if conv.epilogue == SCALED:
        sums = np.clip(np.rint(sums * scale) + OUTPUT.zero_point, OUTPUT.low, OUTPUT.high)
    assert got.dtype == conv.epilogue.dtype
    assert np.array_equal(got, sums.astype(got.dtype)), f"{(got != sums).mean():.1%} differ"


def _operands(epilogue: Epilogue, scale: np.ndarray) -> list[np.ndarray]:
    return [scale] if epilogue.operands else []


def product(m: int, k: int, n: int, largest: int = 64, **options: object) -> QConvSite:
    """Return a matrix product."""
    conv = ConvSite(
        batch=1, height=1, width=m, channels=k, out_channels=n, kernel=(1, 1), epilogue=SCALED
    )
    return replace(QConvSite(conv=conv, dtype="uint8", zero_point=117, largest=largest), **options)


pairs = st.tuples(st.integers(1, 2), st.integers(1, 2))


@st.composite
def sites(draw: st.DrawFn) -> QConvSite:
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    conv = ConvSite(
        batch=draw(st.integers(1, 2)),
        height=draw(st.integers(1, 9)),
        width=draw(st.integers(1, 9)),
        channels=groups * draw(st.integers(1, 9)),
        out_channels=groups * draw(st.integers(1, 35)),
        kernel=draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        strides=draw(pairs),
        pads=draw(st.tuples(*[st.integers(0, 2)] * 4)),
        dilation=draw(pairs),
        groups=groups,
        epilogue=draw(st.sampled_from([Epilogue(), SCALED])),
    )
    assume(min(conv.out_size) >= 1)
    return QConvSite(
        conv=conv,
        dtype=draw(st.sampled_from(["uint8", "int8"])),
        zero_point=draw(st.integers(0, 127)),
        largest=draw(st.sampled_from([1, 7, 8, 15, 31, 64, 127, 255])),
    )


@settings(max_examples=25, derandomize=True, deadline=None)
@example(product(1, 4, 8))
@example(product(5, 3, 1))
@given(sites())
def test_any_shape_is_exact(kit: SimpleNamespace, site: QConvSite) -> None:
    check(kit, site)


@pytest.mark.parametrize("largest", [1, 3, 7, 8, 15, 16, 31, 32, 64, 127, 128, 255])
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_extreme_values_do_not_overflow(kit: SimpleNamespace, largest: int, dtype: str) -> None:
    # Every product has the largest magnitude: 16-bit sums are as full as they can be.
    check(kit, product(7, 260, 24, largest, dtype=dtype), extreme=True)


def test_sums_are_right_up_to_31_bits(kit: SimpleNamespace) -> None:
    # 16384 * 255 * 255 is 1.07e9, and the correction by the zero point as large again.
    check(kit, product(2, 16384, 16, 255, zero_point=255), extreme=True)


@pytest.mark.parametrize("largest", [7, 64, 128])
def test_the_baseline_of_x86_is_exact_too(kit: SimpleNamespace, largest: int) -> None:
    if not kit.HERE.triple.startswith("x86_64"):
        pytest.skip("needs an x86-64 CPU")
    check(kit, product(13, 36, 40, largest), get("x86-64-v2"))


@pytest.mark.parametrize(
    ("target", "largest", "instruction"),
    [
        ("x86-64-v3", 64, "vpmaddubsw"),
        ("x86-64-v3", 65, "vpmaddwd"),
        ("x86-64-v4", 64, "vpmaddubsw"),
        ("x86-64-v4", 128, "vpmaddwd"),
        ("zen4", 128, "vpdpbusd"),
        ("alder-lake", 128, "vpdpbusd"),
        ("cortex-a76-pi5", 128, "sdot"),
        ("neoverse-v1", 128, "usdot"),
        ("cortex-a72-pi4", 128, "mlal"),
    ],
)
def test_the_inner_loop_multiplies_by_the_best_instruction(
    kit: SimpleNamespace, target: str, largest: int, instruction: str
) -> None:
    machine = get(target)
    site = product(64, 256, 64, largest)
    func = qconv.qconv(site, qconv.config(site, machine), "k")
    loops = kit.inner_loops(kit.build(func, machine).inspect_source("asm"))
    hot = [loop for loop in loops if any(instruction in line for line in loop.code)]
    assert hot, f"no loop of {target} holds {instruction}"
    assert not any(loop.calls for loop in hot)


def test_a_pair_limit_is_the_greatest_that_16_bits_hold() -> None:
    assert 2 * 255 * dot.PAIR_LIMIT <= 2**15 - 1 < 2 * 255 * (dot.PAIR_LIMIT + 1)


@pytest.mark.parametrize(("largest", "depth"), [(64, 1), (32, 2), (31, 2), (16, 4), (8, 8), (7, 9)])
def test_fewer_bits_add_more_steps_in_16_bits(largest: int, depth: int) -> None:
    how = dot.choose_dot(get("x86-64-v3"), largest)
    assert (how.name, how.depth) == ("pmaddubsw", depth)
    assert depth * 2 * 255 * largest <= 2**15 - 1


@pytest.mark.parametrize(("steps", "depth"), [(16, 8), (18, 9), (7, 7), (13, 9), (384, 8)])
def test_a_depth_that_divides_the_steps_is_taken_where_it_is_nearly_as_great(
    steps: int, depth: int
) -> None:
    how = dot.evenly(dot.choose_dot(get("x86-64-v3"), 7), steps)
    assert (how.narrow, how.depth) == (True, depth)


@pytest.mark.parametrize("largest", [7, 64, 127])
def test_a_cache_line_of_the_next_panel_is_fetched_once_a_step(
    kit: SimpleNamespace, largest: int
) -> None:
    site = product(49, 2048, 512, largest)
    how = qconv.config(site, kit.AVX2)
    assert how.prefetch
    assembly = kit.build(qconv.qconv(site, how, "k"), kit.AVX2).inspect_source("asm")
    multiply = "vpmaddwd" if largest > dot.PAIR_LIMIT else "vpmaddubsw"
    fetching = [loop for loop in kit.inner_loops(assembly) if loop.count("prefetch")]
    assert fetching
    for loop in fetching:
        steps = loop.count(multiply) / (how.tile.rows * how.tile.vectors)
        assert loop.count("prefetch") == steps
        # Where to fetch needs no division.
        assert not loop.count("imul")


def test_weights_of_more_than_eight_bits_are_multiplied_in_16() -> None:
    for target in ("x86-64-v3", "zen4", "neoverse-v1"):
        assert dot.choose_dot(get(target), 255).activation == "int16"
