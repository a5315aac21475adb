"""Mirror of tvmopt/lowering/quantized_choice.py: what is chosen for a small artefact."""

from __future__ import annotations

import numpy as np
import pytest

from tvmopt.kernels.conv_site import ConvSite
from tvmopt.kernels.qconv_site import QConvSite, largest_of
from tvmopt.lowering.kernel_cache import KernelCache, LowerOptions
from tvmopt.lowering.quantized_choice import choose_kernel
from tvmopt.targets import get

CONV = ConvSite(
    batch=1, height=14, width=14, channels=64, out_channels=64, kernel=(3, 3), pads=(1, 1, 1, 1)
)


def weights(low: int, high: int, zeros: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(7)
    codes = rng.integers(low, high + 1, (64, 3, 3, 64))
    return codes * (rng.random((16, 1, 1, 16)) >= zeros).repeat(4, 0).repeat(4, 3)


def stored_bytes(
    weight: np.ndarray, *, smaller: bool, target: str = "x86-64-v3"
) -> tuple[int, str]:
    """Return the bytes of what is stored as weights, and why."""
    site = QConvSite(conv=CONV, dtype="uint8", zero_point=9, largest=largest_of(weight))
    kernels = KernelCache(get(target), LowerOptions(smaller=smaller))
    chosen = choose_kernel(site, weight, np.zeros(64, np.int64), kernels)
    return chosen.packed[0].nbytes, chosen.note


def test_two_weights_share_a_byte_where_the_artefact_is_to_be_small() -> None:
    weight = weights(-8, 7)
    assert stored_bytes(weight, smaller=True) == (weight.size // 2, "two weights a byte")
    assert stored_bytes(weight, smaller=False)[0] >= weight.size


@pytest.mark.parametrize(("low", "high"), [(-8, 8), (-9, 7), (-15, 15)])
def test_five_bits_have_a_byte_each(low: int, high: int) -> None:
    assert stored_bytes(weights(low, high), smaller=True)[1] != "two weights a byte"


def test_lists_of_few_blocks_are_smaller_still() -> None:
    assert stored_bytes(weights(-8, 7, zeros=0.8), smaller=True)[1] != "two weights a byte"


@pytest.mark.parametrize("target", ["zen4", "cortex-a76-pi5", "cortex-a72-pi4"])
def test_every_target_unpacks(target: str) -> None:
    assert stored_bytes(weights(-7, 7), smaller=True, target=target)[1] == "two weights a byte"
