"""Mirror of tvmopt/forms/stored.py and grouped.py."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt import forms
from tvmopt.forms import Define

RNG = np.random.default_rng(5)


def _codes(*shape: int, dtype: str = "int8") -> np.ndarray:
    info = np.iinfo(dtype)
    return RNG.integers(info.min, info.max, shape, dtype, endpoint=True)


def _scales(*shape: int) -> np.ndarray:
    return RNG.uniform(0.001, 0.1, shape).astype(np.float32)


def _affine(scale: np.ndarray, zero: int, dtype: str, axis: int) -> forms.Affine:
    return forms.Affine(
        scale=scale, zero_point=np.full(scale.shape, zero, np.int32), dtype=dtype, axis=axis
    )


STORED = {
    "a tensor": forms.Dequantized(
        codes=_codes(6, 4, 5, dtype="uint8"), how=_affine(_scales()[()], 7, "uint8", 0)
    ),
    "channels": forms.Dequantized(codes=_codes(6, 4, 5), how=_affine(_scales(4), 0, "int8", 1)),
    "groups": forms.Grouped(codes=_codes(3, 2, 4, 5), scale=_scales(3, 1, 4, 5), zero=None, axis=0),
    "asymmetric groups": forms.Grouped(
        codes=_codes(6, 2, 2, 5, dtype="uint8"),
        scale=_scales(6, 2, 1, 1),
        zero=RNG.integers(0, 255, (6, 2, 1, 1)).astype(np.float32),
        axis=1,
    ),
    "halves": forms.Cast(values=RNG.standard_normal((6, 4, 5)).astype(np.float16)),
    "brain halves": forms.Cast(values=RNG.standard_normal((6, 4, 5)).astype(ml_dtypes.bfloat16)),
    "integers": forms.Cast(values=_codes(6, 4, 5), dtype="int32"),
    "codebook": forms.Codebook(table=_scales(16), codes=RNG.integers(0, 16, (6, 4, 5), "uint8")),
}


@pytest.mark.parametrize("name", STORED)
def test_a_builders_constant_is_matched(
    name: str,
    function: Callable[..., tvm.IRModule],
    define: Callable[[tvm.IRModule], Define],
) -> None:
    stored = STORED[name]
    mod = function(lambda emit, _x: stored.build(emit, "w"), ())
    found = forms.match_stored(mod["main"].body.body, define(mod))
    assert type(found) is type(stored)
    assert found is not None
    assert found.shape == stored.shape == (6, 4, 5)
    np.testing.assert_array_equal(found.value(), stored.value())


@pytest.mark.parametrize("name", STORED)
def test_its_value_is_what_the_graph_computes(
    name: str, function: Callable[..., tvm.IRModule]
) -> None:
    stored = STORED[name]
    mod = function(lambda emit, _x: stored.build(emit, "w"), ())
    machine = relax.VirtualMachine(tvm.compile(mod, target="llvm"), tvm.cpu())
    computed = machine["main"](tvm.runtime.tensor(np.zeros((), np.float32))).numpy()
    np.testing.assert_array_equal(computed, stored.value())


@pytest.mark.parametrize("axes", [(1, 0, 2), (2, 1, 0), (2, 0, 1)])
@pytest.mark.parametrize("name", STORED)
def test_a_transposed_constant_has_its_values_transposed(name: str, axes: tuple[int, ...]) -> None:
    stored = STORED[name]
    moved = stored.transposed(axes)
    assert moved.shape == tuple(stored.shape[a] for a in axes)
    np.testing.assert_array_equal(moved.value(), stored.value().transpose(axes))


@pytest.mark.parametrize("shape", [(6, 1, 4, 5), (24, 5), (6, 20), (1, 6, 4, 5)])
@pytest.mark.parametrize("name", STORED)
def test_a_reshaped_constant_keeps_its_values(name: str, shape: tuple[int, ...]) -> None:
    stored = STORED[name]
    moved = stored.reshaped(shape)
    # Only scales can stand in the way: those of channels or groups that are merged with others.
    if len(shape) == 4 or (not isinstance(stored, forms.Grouped) and name != "channels"):
        assert moved is not None
    if moved is None:
        assert len(shape) == 2
        return
    assert moved.shape == shape
    np.testing.assert_array_equal(moved.value(), stored.value().reshape(shape))


def test_what_is_no_stored_constant(
    function: Callable[..., tvm.IRModule], define: Callable[[tvm.IRModule], Define]
) -> None:
    how = _affine(_scales()[()], 0, "int8", 0)
    bodies = (
        lambda _emit, x: relax.op.astype(x, "int32"),
        lambda _emit, x: forms.dequantize(x, how),
        lambda _emit, x: relax.op.take(relax.const(_scales(4)), x, axis=0),
        lambda _emit, x: relax.op.reshape(x, (3, 2)),
        lambda _emit, x: relax.op.add(x, x),
    )
    for body in bodies:
        mod = function(body, (2, 3), "int8")
        assert forms.match_stored(mod["main"].body.body, define(mod)) is None
