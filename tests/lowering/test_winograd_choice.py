"""Mirror of tvmopt/lowering/winograd_choice.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from tvm import relax

from tvmopt.kernels import conv, winograd
from tvmopt.kernels.conv import ConvSite
from tvmopt.lowering.winograd_choice import MAX_ERROR, choose_winograd, winograd_error
from tvmopt.report import Report

op = relax.op
SITE = ConvSite(
    batch=1, height=28, width=28, channels=64, out_channels=64, kernel=(3, 3), pads=(1, 1, 1, 1)
)


def test_a_large_convolution_is_winograd_s(
    kit: SimpleNamespace, check: Callable[..., list[str]]
) -> None:
    mod = kit.module(
        lambda emit, x: op.nn.relu(emit(op.add(emit(kit.conv(x, 64)), kit.bias(64)))),
        (1, 28, 28, 64),
    )
    # The form was taken because it errs by less than this share of the peak.
    (kernel,) = check(mod, of_peak=MAX_ERROR)
    assert kernel.startswith("f32_winograd_add_max_f4_")


def test_a_user_can_refuse_it(kit: SimpleNamespace) -> None:
    mod, report = kit.module(lambda _, x: kit.conv(x, 64), (1, 28, 28, 64)), Report()
    _, (kernel,) = kit.lowered(mod, report, winograd=False)
    assert kernel.startswith("f32_conv_")
    assert report.decisions[0].reason == kernel


def test_the_report_says_why(kit: SimpleNamespace) -> None:
    for size, words in ((28, "of the peak on its own weights"), (1, "predicted faster")):
        report = Report()
        kit.lowered(kit.module(lambda _, x: kit.conv(x, 64), (1, size, size, 64)), report)
        assert words in report.decisions[0].reason


@pytest.mark.parametrize(
    "change",
    [{"height": 1, "width": 1}, {"channels": 1, "out_channels": 2}],
    ids=["pixel", "plane"],
)
def test_small_convolutions_stay_direct(kit: SimpleNamespace, change: dict[str, int]) -> None:
    # A tile is mostly outside one pixel; the transforms of one channel cost more than they save.
    site = replace(SITE, **change)
    how, reason = choose_winograd(site, kit.array(site.out_channels, 3, 3, site.channels), kit.AVX2)
    assert how is None
    assert reason == "the direct form is predicted faster"


def test_the_choice_is_the_fastest_prediction(kit: SimpleNamespace) -> None:
    weight = kit.array(64, 3, 3, 64, scale=0.05)
    for size in (7, 8, 14, 28, 56):
        site = replace(SITE, height=size, width=size)
        how, _ = choose_winograd(site, weight, kit.AVX2)
        forms = [
            winograd.cycles(site, winograd.config(site, m, kit.AVX2), kit.AVX2) for m in (2, 4)
        ]
        direct = conv.cycles(site, conv.config(site, kit.AVX2), kit.AVX2)
        best = min(*forms, direct)
        got = direct if how is None else winograd.cycles(site, how, kit.AVX2)
        assert got == best, size


@pytest.mark.parametrize("m", [2, 4])
def test_the_error_is_measured_on_the_weights_themselves(kit: SimpleNamespace, m: int) -> None:
    usual = winograd_error(kit.array(64, 3, 3, 64, scale=0.05), m)
    assert 1e-8 < usual < MAX_ERROR
    # It is a share of the peak, so their scale does not count: a power of two is exact.
    assert winograd_error(kit.array(64, 3, 3, 64, scale=0.05) * 1024, m) == usual


def test_f4_errs_more_than_f2(kit: SimpleNamespace) -> None:
    weight = kit.array(64, 3, 3, 64, scale=0.05)
    assert winograd_error(weight, 2) < winograd_error(weight, 4)


@pytest.mark.parametrize(
    ("power", "words"),
    [
        # Weights so small that they are subnormal have few bits; F(4, 3) loses some of them.
        (-134, ""),
        # Weights so large that what F(4, 3) adds up overflows, though the sums themselves do not.
        (121, ""),
        # Here F(2, 3) overflows too.
        (124, "F(2, 3) errs by nan of the peak, more than 1e-04"),
    ],
    ids=["subnormal", "large", "huge"],
)
def test_weights_that_a_form_cannot_hold_are_refused_it(
    kit: SimpleNamespace, power: int, words: str
) -> None:
    weight = np.ldexp(kit.array(64, 3, 3, 64), power).astype(np.float32)
    assert np.isfinite(weight).all()
    how, reason = choose_winograd(SITE, weight, kit.AVX2)
    if words:
        assert how is None
        assert reason == words
    else:
        assert how is not None
        assert how.m == 2


def test_weights_of_zero_have_no_error(kit: SimpleNamespace) -> None:
    how, _ = choose_winograd(SITE, np.zeros((64, 3, 3, 64), np.float32), kit.AVX2)
    assert how is not None


@pytest.mark.parametrize(
    "change", [{"strides": (2, 2)}, {"groups": 2}, {"kernel": (5, 5)}], ids=lambda c: next(iter(c))
)
def test_other_convolutions_are_not_considered(
    kit: SimpleNamespace, change: dict[str, object]
) -> None:
    site = replace(SITE, **change)
    weight = kit.array(64, *site.kernel, site.group_channels)
    how, reason = choose_winograd(site, weight, kit.AVX2)
    assert how is None
    assert reason == "not a dense 3x3 convolution of stride 1"
