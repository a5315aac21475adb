"""Mirror of tvmopt/lowering/winograd_line_choice.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from tvm import relax

from tvmopt.kernels import conv, winograd_line
from tvmopt.kernels.conv_site import ConvSite
from tvmopt.lowering.winograd_choice import MAX_ERROR
from tvmopt.lowering.winograd_line_choice import choose_winograd_line, line_error

op = relax.op
LINE = ConvSite(batch=1, height=256, width=1, channels=64, out_channels=64, kernel=(5, 1))


def test_a_long_line_is_winograd_s(kit: SimpleNamespace, check: Callable[..., list[str]]) -> None:
    weight = kit.array(64, 5, 1, 64, scale=0.05)

    def body(emit: Callable, x: relax.Expr) -> relax.Expr:
        y = op.nn.conv2d(
            x, relax.const(weight), data_layout="NHWC", kernel_layout="OHWI", padding=(2, 0, 2, 0)
        )
        return op.nn.relu(emit(op.add(emit(y), kit.bias(64))))

    (kernel,) = check(kit.module(body, (1, 256, 1, 64)), of_peak=MAX_ERROR)
    assert kernel.startswith("f32_winograd_line_f")


def test_the_choice_along_a_line_is_the_fastest_prediction(kit: SimpleNamespace) -> None:
    weight = kit.array(64, 5, 1, 64, scale=0.05)
    for length in (5, 9, 40, 256):
        site = replace(LINE, height=length)
        how, _ = choose_winograd_line(site, weight, kit.AVX2)
        forms = [
            winograd_line.cycles(site, winograd_line.config(site, m, kit.AVX2), kit.AVX2)
            for m in winograd_line.EDGES
        ]
        direct = conv.cycles(site, conv.config(site, kit.AVX2), kit.AVX2)
        got = direct if how is None else winograd_line.cycles(site, how, kit.AVX2)
        assert got == min(*forms, direct), length


@pytest.mark.parametrize(("m", "taps"), [(2, 5), (4, 5), (6, 5), (4, 4), (6, 6)])
def test_the_error_along_a_line_is_measured_on_the_weights(
    kit: SimpleNamespace, m: int, taps: int
) -> None:
    weight = kit.array(16, 12 if taps == m else 5, 1, 16, scale=0.05)
    usual = line_error(weight, m, taps)
    assert 1e-8 < usual < MAX_ERROR
    assert line_error(weight * 1024, m, taps) == usual  # a share of the peak, a power of two
    assert line_error(np.zeros_like(weight), m, taps) == 0


def test_a_line_whose_transforms_overflow_stays_direct(kit: SimpleNamespace) -> None:
    weight = np.ldexp(kit.array(64, 5, 1, 64), 124).astype(np.float32)
    assert np.isfinite(weight).all()
    how, reason = choose_winograd_line(LINE, weight, kit.AVX2)
    assert how is None
    assert reason == "F(2, 5) errs by nan of the peak, more than 1e-04"


def test_other_shapes_are_not_considered_as_lines(kit: SimpleNamespace) -> None:
    how, reason = choose_winograd_line(
        replace(LINE, kernel=(3, 3), width=9), kit.array(64, 3, 3, 64), kit.AVX2
    )
    assert how is None
    assert reason == "not a dense convolution of stride 1 along one axis"
