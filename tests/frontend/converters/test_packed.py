"""Mirror of converters/packed.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from tvmopt import forms, ir
from tvmopt.errors import UnsupportedError
from tvmopt.frontend.converters.packed import unpack
from tvmopt.frontend.onnx import ImportedModel, load

RNG = np.random.default_rng(37)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_the_first_code_is_in_the_lowest_bits(bits: int) -> None:
    codes = RNG.integers(0, 1 << bits, (3, 16)).astype(np.uint8)
    packed = np.zeros((3, 2 * bits), np.uint8)
    for i, column in enumerate(codes.T):
        packed[:, i * bits // 8] |= column << (i * bits % 8)
    np.testing.assert_array_equal(unpack(packed, bits), codes)


@pytest.mark.parametrize("zero", [None, "packed"])
@pytest.mark.parametrize(("k", "bits"), [(64, 4), (40, 4), (64, 8)])
def test_matmul_nbits_is_a_product_with_a_grouped_constant(
    save: Callable[..., Path],
    agrees: Callable[..., ImportedModel],
    k: int,
    bits: int,
    zero: str | None,
) -> None:
    n, size = 5, 32
    blocks = -(-k // size)
    parameters = {
        "b": RNG.integers(0, 256, (n, blocks, size * bits // 8)).astype(np.uint8),
        "s": RNG.uniform(0.01, 0.05, n * blocks).astype(np.float32),
        "z": RNG.integers(0, 256, n * -(-blocks * bits // 8)).astype(np.uint8),
    }
    names = ["x", "b", "s", *([] if zero is None else ["z"])]
    node = helper.make_node(
        "MatMulNBits", names, ["y"], "mm", domain="com.microsoft", K=k, N=n, bits=bits,
        block_size=size,
    )  # fmt: skip
    path = save([node], [("x", "float32", [2, k])], ["y"], parameters, domains=["com.microsoft"])
    # ONNX Runtime may compute in blocks; the sums are of at most 64 terms.
    model = agrees(path, {"x": RNG.standard_normal((2, k)).astype(np.float32)})
    values = dict(ir.bindings(model.mod["main"]))
    (matmul,) = (c for c in ir.calls(model.mod) if ir.is_call_to(c, "relax.matmul"))

    def define(expr: object) -> object:
        return values.get(expr, expr)

    matrix = matmul.args[1]
    moved = values[matrix]
    stored = forms.match_stored(matrix, define)
    if stored is None:
        stored = forms.match_stored(moved.args[0], define)
    assert isinstance(stored, forms.Grouped)
    # Codes of few bits stay so, with 0 in the middle of their range.
    half = 1 << (bits - 1)
    assert stored.codes.dtype == np.int8
    assert (stored.codes.min(), stored.codes.max()) == (-half, half - 1)
    assert (stored.zero is None) == (zero is None)


@pytest.mark.parametrize(("name", "value"), [("bits", 3), ("g_idx", None)])
def test_other_forms_are_refused(save: Callable[..., Path], name: str, value: int | None) -> None:
    parameters = {
        "b": np.zeros((5, 2, 16), np.uint8),
        "s": np.ones(10, np.float32),
        "g": np.zeros(64, np.int32),
    }
    names = ["x", "b", "s", *(["", "g"] if name == "g_idx" else [])]
    node = helper.make_node(
        "MatMulNBits", names, ["y"], "mm", domain="com.microsoft", K=64, N=5, block_size=32,
        bits=value or 4,
    )  # fmt: skip
    path = save([node], [("x", "float32", [2, 64])], ["y"], parameters, domains=["com.microsoft"])
    message = {"bits": "bits must be one of 1, 2, 4, 8, got 3"}.get(name, "g_idx, an order")
    with pytest.raises(UnsupportedError, match=message):
        load(path)
