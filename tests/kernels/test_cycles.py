"""What every generator predicts of itself: positive, never less for more work, and no clock."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from tvmopt.kernels import (
    attention,
    batch_matmul,
    code_gemm,
    conv,
    conv_transpose,
    depthwise,
    gemm,
    global_pool,
    lookup,
    pool,
    quantize_rows,
    quantized_elementwise,
    quantized_mean,
    sparse_conv,
    sparse_qconv,
    weight_gemm,
    weight_gemv,
    winograd,
)
from tvmopt.kernels.attention import AttentionSite
from tvmopt.kernels.batch_matmul import BatchMatmulSite, View
from tvmopt.kernels.conv_site import ConvSite
from tvmopt.kernels.conv_transpose import ConvTransposeSite
from tvmopt.kernels.epilogue import Epilogue, Requantize, Step
from tvmopt.kernels.gemm import GemmSite
from tvmopt.kernels.global_pool import GlobalMeanSite
from tvmopt.kernels.lookup import LookupSite
from tvmopt.kernels.pool import PoolSite
from tvmopt.kernels.qconv_site import QConvSite
from tvmopt.kernels.quantize_rows import QuantizeRowsSite
from tvmopt.kernels.quantized_elementwise import QuantizedElementwiseSite
from tvmopt.kernels.quantized_mean import QuantizedMeanSite
from tvmopt.kernels.sparse_conv import SparseConvSite
from tvmopt.kernels.sparse_qconv import SparseQConvSite
from tvmopt.kernels.weight_code import IntCode
from tvmopt.kernels.weight_site import WeightSite
from tvmopt.targets.description import CpuTarget

TO_BYTES = Epilogue(
    steps=(Step("scale", (0, 0.5)),),
    output=Requantize(dtype="uint8", zero_point=0, low=0, high=255),
)
MACHINES = ["AVX2", "AVX512", "NEON"]

# Each takes factors of its dimensions and gives the predicted cycles.
Predict = Callable[..., float]


def _square(image: int, channels: int, out: int, **other: object) -> ConvSite:
    size = {"batch": 1, "height": 14 * image, "width": 14 * image}
    return ConvSite(
        **size, channels=8 * channels, out_channels=16 * out, pads=(1, 1, 1, 1), **other
    )


def _conv(target: CpuTarget, image: int, channels: int, out: int) -> float:
    site = _square(image, channels, out, kernel=(3, 3), strides=(2, 2))
    return conv.cycles(site, conv.config(site, target), target)


def _planar_conv(target: CpuTarget, image: int, channels: int, out: int) -> float:
    site = _square(image, channels, out, kernel=(5, 5), planar=True)
    return conv.cycles(site, conv.config(site, target), target)


def _winograd2(target: CpuTarget, image: int, channels: int, out: int) -> float:
    site = _square(image, channels, out, kernel=(3, 3))
    return winograd.cycles(site, winograd.config(site, 2, target), target)


def _winograd4(target: CpuTarget, image: int, channels: int, out: int) -> float:
    site = _square(image, channels, out, kernel=(3, 3))
    return winograd.cycles(site, winograd.config(site, 4, target), target)


def _depthwise(target: CpuTarget, image: int, channels: int, edge: int) -> float:
    count = 16 * channels
    site = ConvSite(
        batch=1,
        height=14 * image,
        width=14 * image,
        channels=count,
        out_channels=count,
        groups=count,
        kernel=(2 * edge + 1, 2 * edge + 1),
        pads=(edge, edge, edge, edge),
    )
    return depthwise.cycles(site, depthwise.config(site, target), target)


def _integer_depthwise(target: CpuTarget, image: int, channels: int, edge: int) -> float:
    count = 16 * channels
    site = ConvSite(
        batch=1,
        height=14 * image,
        width=14 * image,
        channels=count,
        out_channels=count,
        groups=count,
        kernel=(2 * edge + 1, 2 * edge + 1),
        pads=(edge, edge, edge, edge),
        epilogue=TO_BYTES,
        dtype="uint8",
    )
    return depthwise.cycles(site, depthwise.config(site, target), target)


def _quantized_mean(target: CpuTarget, image: int, channels: int, edge: int) -> float:
    windows = PoolSite(
        kind="mean",
        batch=1,
        height=20 * image,
        width=20 * image,
        channels=48 * channels,
        kernel=(edge + 1, edge + 1),
        strides=(1, 1),
        pads=(0, 0, edge, edge),
        out_size=(20 * image, 20 * image),
        dtype="uint8",
    )
    site = QuantizedMeanSite(windows=windows, zero_point=0, epilogue=TO_BYTES)
    return quantized_mean.cycles(site, target)


def _quantized_elementwise(target: CpuTarget, image: int, lines: int, channels: int) -> float:
    site = QuantizedElementwiseSite(
        shape=(1, 14 * image, 14 * lines, 16 * channels),
        dtype="uint8",
        zero_point=0,
        epilogue=TO_BYTES,
    )
    return quantized_elementwise.cycles(site, target)


def _lookup(target: CpuTarget, image: int, lines: int, channels: int) -> float:
    size = 14 * image * 14 * lines * 16 * channels
    site = LookupSite(size=size, read="uint8", stored="uint8")
    return lookup.cycles(site, lookup.config(site, target), target)


def _conv_transpose(target: CpuTarget, image: int, channels: int, out: int) -> float:
    site = ConvTransposeSite(
        batch=1,
        height=7 * image,
        width=7 * image,
        channels=8 * channels,
        out_channels=8 * out,
        kernel=(2, 2),
        strides=(2, 2),
        pads=(0, 0),
        dilation=(1, 1),
        groups=1,
        out_size=(14 * image, 14 * image),
    )
    return conv_transpose.cycles(site, conv_transpose.config(site, target), target)


def _gemm(target: CpuTarget, m: int, k: int, n: int) -> float:
    site = GemmSite(m=6 * m, k=16 * k, n=20 * n)
    return gemm.cycles(site, gemm.config(site, target), target)


def _batch_matmul(target: CpuTarget, batch: int, size: int, depth: int) -> float:
    m, k = 12 * size, 8 * depth
    left, right = View(batch * m * k, (m * k,), k, 1), View(batch * m * k, (m * k,), 1, k)
    output = View(batch * m * m, (m * m,), m, 1)
    site = BatchMatmulSite(batch=(batch,), m=m, k=k, n=m, left=left, right=right, output=output)
    return batch_matmul.cycles(site, target)


def _attention(target: CpuTarget, heads: int, positions: int, depth: int) -> float:
    t, d = 10 * positions, 8 * depth
    rows, keys = View(heads * t * d, (t * d,), d, 1), View(heads * t * d, (t * d,), 1, d)
    views = {"q": rows, "k": keys, "v": rows, "output": rows}
    site = AttentionSite(batch=(heads,), s=t, t=t, d=d, e=d, **views)
    return attention.cycles(site, attention.config(site, target), target)


def _pool(target: CpuTarget, image: int, channels: int, edge: int) -> float:
    site = PoolSite(
        kind="max",
        batch=1,
        height=20 * image,
        width=20 * image,
        channels=12 * channels,
        kernel=(edge + 1, edge + 1),
        strides=(1, 1),
        pads=(0, 0, edge, edge),
        out_size=(20 * image, 20 * image),
    )
    return pool.cycles(site, target)


def _global_mean(target: CpuTarget, batch: int, pixels: int, channels: int) -> float:
    return global_pool.cycles(
        GlobalMeanSite(batch=batch, pixels=49 * pixels, channels=20 * channels), target
    )


def _weight_site(groups: int, m: int, n: int) -> WeightSite:
    return WeightSite(m=m, k=32 * groups, n=40 * n, code=IntCode(4, 32, 8))


def _weight_gemv(target: CpuTarget, blocks: int, groups: int, n: int) -> float:
    site = _weight_site(blocks * groups, 1, n)
    return weight_gemv.cycles(site, weight_gemv.config(site, target), target)


def _weight_gemm(target: CpuTarget, m: int, groups: int, n: int) -> float:
    site = _weight_site(groups, 6 * m, n)
    return weight_gemm.cycles(site, weight_gemm.config(site, target), target)


def _code_gemm(target: CpuTarget, m: int, groups: int, n: int) -> float:
    site = _weight_site(groups, 4 * m, n)
    return code_gemm.cycles(site, code_gemm.config(site, target), target)


def _quantize_rows(target: CpuTarget, m: int, k: int, more: int) -> float:
    site = QuantizeRowsSite(m=m, k=24 * k * more, smallest=1e-30)
    return quantize_rows.cycles(site, quantize_rows.config(site, target), target)


def _sparse_conv(target: CpuTarget, image: int, density: int, out: int) -> float:
    conv_site, steps = _square(image, 4, out, kernel=(3, 3)), 16 * density * out
    how = sparse_conv.config(conv_site, 1, steps, target)
    assert how is not None
    site = SparseConvSite(conv=conv_site, steps=steps, index="uint16")
    return sparse_conv.cycles(site, how, target)


def _sparse_qconv(target: CpuTarget, image: int, density: int, out: int) -> float:
    conv_site, steps = _square(image, 4, out, kernel=(3, 3), epilogue=TO_BYTES), 16 * density * out
    inner = QConvSite(conv=conv_site, dtype="uint8", zero_point=0, largest=64)
    how = sparse_qconv.config(inner, 1, steps, target)
    assert how is not None
    site = SparseQConvSite(qconv=inner, steps=steps, index="uint16")
    return sparse_qconv.cycles(site, how, target)


GENERATORS = [
    _conv,
    _planar_conv,
    _winograd2,
    _winograd4,
    _depthwise,
    _integer_depthwise,
    _conv_transpose,
    _gemm,
    _batch_matmul,
    _attention,
    _pool,
    _global_mean,
    _quantized_mean,
    _quantized_elementwise,
    _lookup,
    _weight_gemv,
    _weight_gemm,
    _code_gemm,
    _quantize_rows,
    _sparse_conv,
    _sparse_qconv,
]
EVERY = pytest.mark.parametrize("predict", GENERATORS, ids=lambda predict: predict.__name__[1:])


@EVERY
@pytest.mark.parametrize("machine", MACHINES)
def test_more_work_is_never_predicted_to_take_less(
    kit: SimpleNamespace, predict: Predict, machine: str
) -> None:
    target = getattr(kit, machine)
    for factors in itertools.product((1, 2, 5), repeat=3):
        cycles = predict(target, *factors)
        assert cycles > 0
        for axis in range(3):
            larger = [2 * f if i == axis else f for i, f in enumerate(factors)]
            assert predict(target, *larger) >= cycles, (factors, larger)


@EVERY
def test_eight_times_the_work_costs_twice_at_least(kit: SimpleNamespace, predict: Predict) -> None:
    # What a call costs whatever it does is no more than what these sites cost besides.
    assert predict(kit.AVX2, 8, 4, 4) >= 2 * predict(kit.AVX2, 1, 4, 4)


@EVERY
def test_no_clock_is_read(
    kit: SimpleNamespace, predict: Predict, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> float:
        raise AssertionError("a prediction must be a function of site and target alone")

    before = predict(kit.NEON, 2, 2, 2)
    with monkeypatch.context() as patch:
        for clock in ("time", "time_ns", "perf_counter", "perf_counter_ns", "process_time"):
            patch.setattr(time, clock, refuse)
        assert predict(kit.NEON, 2, 2, 2) == before
