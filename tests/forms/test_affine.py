"""Every form is recognised by its matcher, and means what it says."""

from __future__ import annotations

import numpy as np
from tvm import relax

from tvmopt import forms, ir


def _affine(scale: object, zero: int, dtype: str, axis: int = 0) -> forms.Affine:
    return forms.Affine(
        scale=np.asarray(scale, np.float32),
        zero_point=np.asarray(zero, np.int32),
        dtype=dtype,
        axis=axis,
    )


def _bound(value: relax.Expr) -> relax.Expr:
    """Return the value with its type, as a binding holds it."""
    return relax.BlockBuilder().normalize(value)


def test_a_quantize_is_matched_with_its_parameters() -> None:
    how = _affine(0.1, 3, "uint8")
    x = relax.Var("x", relax.TensorType((2, 3), "float32"))
    found = forms.match_quantize(_bound(forms.quantize(x, how)))
    assert found is not None
    assert found[0].same_as(x)
    assert found[1].same(how)


def test_a_dequantize_by_channels_is_matched_with_its_axis() -> None:
    how = _affine([0.5, 0.25, 2.0], 0, "int8", axis=1)
    q = relax.const(np.ones((4, 3), np.int8))
    found = forms.match_dequantize(_bound(forms.dequantize(q, how)))
    assert found is not None
    assert found[1].same(how)
    assert np.array_equal(ir.constant(found[0]), np.ones((4, 3)))


def test_parameters_that_are_computed_are_no_static_form() -> None:
    x = relax.Var("x", relax.TensorType((2, 3), "float32"))
    scale = relax.Var("scale", relax.TensorType((), "float32"))
    call = relax.op.quantize(x, scale, relax.const(0, "int8"), out_dtype="int8")
    assert forms.match_quantize(_bound(call)) is None


def test_other_zero_points_are_not_the_same_meaning() -> None:
    assert not _affine(0.1, 3, "uint8").same(_affine(0.1, 4, "uint8"))
    assert _affine(0.1, 3, "uint8", axis=1).same(_affine(0.1, 3, "uint8", axis=0))
