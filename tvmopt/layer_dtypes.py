"""In which numbers each layer computes, and the share of zeros in them, read off the graph."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import tvm
from tvm import relax

from tvmopt import forms, ir
from tvmopt.layers import layers_of


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerDtypes:
    """The numbers of one layer.

    Attributes:
        data: Of its activations: "float32", "uint8", "int8 by row", ...
        weight: Of its weight: "float32", "float16", "4-bit by channel", "3-bit in groups of 32".
        weight_bytes: What the weight takes with its scales, packed to its bits; zeros count.
        weights: How many numbers the weight has.
        sparsity: Share of them that is zero. It is no part of which numbers a layer computes in.
    """

    data: str
    weight: str
    weight_bytes: int
    weights: int = field(compare=False, default=0)
    sparsity: float = field(compare=False, default=0.0)

    def __str__(self) -> str:
        """Say both shortly."""
        return self.data if self.data == self.weight else f"{self.data} x {self.weight}"


def layer_dtypes(mod: tvm.IRModule) -> dict[str, LayerDtypes]:
    """Return the numbers of each layer by its name.

    Args:
        mod: Canonical, with static shapes and different names.
    """
    values = dict(ir.bindings(mod["main"]))
    named = {var.name: value for var, value in values.items()}

    def define(expr: relax.Expr) -> relax.Expr:
        return values.get(expr, expr) if isinstance(expr, relax.Var) else expr

    return {
        layer.name: _dtypes(named[layer.name], define, layer.weights) for layer in layers_of(mod)
    }


def _dtypes(call: relax.Call, define: forms.Define, count: int) -> LayerDtypes:
    stored = forms.match_stored(call.args[1], define)
    if stored is None:
        dtype = ir.dtype(call.args[1])
        weight, size = dtype, count * np.dtype(dtype).itemsize
    else:
        weight, size = _spelled(stored)
    return LayerDtypes(
        data=_data(call.args[0], define),
        weight=weight,
        weight_bytes=size,
        weights=count,
        sparsity=_zeros(call.args[1], stored),
    )


def _zeros(weight: relax.Expr, stored: forms.Stored | None) -> float:
    values = ir.float_constant(weight) if stored is None else stored.value()
    return 0.0 if values is None or not values.size else float(np.mean(values == 0))


def _data(expr: relax.Expr, define: forms.Define) -> str:
    affine = forms.match_dequantize(define(expr))
    if affine is not None:
        return affine[1].dtype
    if forms.match_rows(expr, define) is not None:
        return "int8 by row"
    return ir.dtype(expr)


def _spelled(stored: forms.Stored) -> tuple[str, int]:
    """Return how a stored constant is called, and its bytes."""
    if isinstance(stored, forms.Cast):
        return str(stored.values.dtype), stored.values.nbytes
    if isinstance(stored, forms.Codebook):
        bits = max(1, (len(stored.table) - 1).bit_length())
        return f"{bits}-bit codebook", _packed(stored.codes.size, bits) + stored.table.nbytes
    if isinstance(stored, forms.Grouped):
        bits = bits_of(stored.codes, stored.zero)
        size = _packed(stored.codes.size, bits) + stored.scale.nbytes
        size += 0 if stored.zero is None else stored.zero.size
        return f"{bits}-bit in groups of {stored.codes.shape[stored.axis + 1]}", size
    bits = bits_of(stored.codes, stored.how.zero_point)
    by = "by channel" if stored.how.scale.ndim else "by tensor"
    return f"{bits}-bit {by}", _packed(stored.codes.size, bits) + stored.how.scale.nbytes


def bits_of(codes: np.ndarray, zero: np.ndarray | None) -> int:
    """Return how many bits the integers need: their range decides, not what they are kept in.

    Seven bits may reach 64 as well as -64, which is what integer kernels ask of them.

    Args:
        codes: Any integers.
        zero: What stands for 0 among them; None is 0.
    """
    low, high = int(codes.min(initial=0)), int(codes.max(initial=0))
    if low >= 0 and (codes.dtype.kind == "u" or (zero is not None and bool(np.any(zero)))):
        return max(1, high.bit_length())
    bits = max(2, 1 + (-low - 1).bit_length() if low < 0 else 0, 1 + high.bit_length())
    return 7 if bits == 8 and max(-low, high) <= 64 else bits


def _packed(count: int, bits: int) -> int:
    return -(-count * bits // 8)
