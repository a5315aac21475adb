"""Constants kept in fewer bits than they are computed with.

In the graph, for a matrix W: (k, n)::

    Dequantized   dequantize(codes: int8 (k, n), scale: () or (n,), zero_point, axis=1)
    Grouped       see ``grouped.py``
    Cast          astype(values: float16 | bfloat16 | int8 ... (k, n), "float32")
    Codebook      take(table: float32 (c,), codes: uint8 (k, n), axis=0)

All of them hold for kernels of convolutions and any other constant too. Whatever transposes or
reshapes the result of one moves its codes instead, and nothing ever folds it to floats.

Source: none; the definitions of the operators. Codebooks: S. Han et al., "Deep
compression: compressing deep neural networks with pruning, trained quantization and Huffman
coding", ICLR 2016, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.forms.affine import Affine, dequantize, match_dequantize
from tvmopt.forms.graph import Define, Emit, constant_of, ordered
from tvmopt.forms.grouped import Grouped, Shape, match_grouped

_NARROW = ("int8", "uint8", "int16", "uint16", "float16", "bfloat16")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Dequantized:
    """Integers with one scale, or one for each index of an axis.

    Attributes:
        codes: The integers, of ``how.dtype``.
        how: What they mean.
    """

    codes: np.ndarray
    how: Affine

    @property
    def shape(self) -> Shape:
        """The shape of the constant."""
        return self.codes.shape

    def value(self) -> np.ndarray:
        """Return the constant as float32, bit for bit what the graph computes."""
        rank = self.codes.ndim
        centred = self.codes.astype(np.int32) - self.how.along(self.how.zero_point, rank)
        return centred.astype(np.float32) * self.how.along(self.how.scale, rank)

    def build(self, emit: Emit, name: str) -> relax.Expr:
        """Bind the form and return its variable."""
        return emit(dequantize(constant_of(self.codes), self.how), name)

    def transposed(self, axes: Sequence[int]) -> Dequantized:
        """Return the constant with its axes permuted."""
        axis = list(axes).index(self.how.axis) if self.how.scale.ndim else 0
        return replace(
            self, codes=ordered(self.codes.transpose(axes)), how=replace(self.how, axis=axis)
        )

    def reshaped(self, shape: Shape) -> Dequantized | None:
        """Return the constant under another shape; None if it cuts the axis of the scales."""
        axis = 0
        if self.how.scale.ndim:
            size = self.how.scale.size
            before = math.prod(self.codes.shape[: self.how.axis])
            places = [
                i for i, d in enumerate(shape) if d == size and math.prod(shape[:i]) == before
            ]
            if not places:
                return None
            axis = places[0]
        return replace(self, codes=self.codes.reshape(shape), how=replace(self.how, axis=axis))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Cast:
    """Narrow numbers that are only made wider.

    Attributes:
        values: float16, bfloat16, or integers of 8 or 16 bits.
        dtype: What they become: "float32", or "int32" for the weight of an integer product.
    """

    values: np.ndarray
    dtype: str = "float32"

    @property
    def shape(self) -> Shape:
        """The shape of the constant."""
        return self.values.shape

    def value(self) -> np.ndarray:
        """Return the constant in its wide type; every narrow number has an image there."""
        return self.values.astype(self.dtype)

    def build(self, emit: Emit, name: str) -> relax.Expr:
        """Bind the form and return its variable."""
        return emit(relax.op.astype(constant_of(self.values), self.dtype), name)

    def transposed(self, axes: Sequence[int]) -> Cast:
        """Return the constant with its axes permuted."""
        return replace(self, values=ordered(self.values.transpose(axes)))

    def reshaped(self, shape: Shape) -> Cast:
        """Return the constant under another shape."""
        return replace(self, values=self.values.reshape(shape))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Codebook:
    """Indices into a short table of values.

    Attributes:
        table: (c,) float32, at most 256 values.
        codes: The indices, uint8 (int8 where none is above 127).
    """

    table: np.ndarray
    codes: np.ndarray

    @property
    def shape(self) -> Shape:
        """The shape of the constant."""
        return self.codes.shape

    def value(self) -> np.ndarray:
        """Return the constant as float32, bit for bit what the graph computes."""
        return self.table[self.codes]

    def build(self, emit: Emit, name: str) -> relax.Expr:
        """Bind the form and return its variable."""
        return emit(relax.op.take(constant_of(self.table), constant_of(self.codes), axis=0), name)

    def transposed(self, axes: Sequence[int]) -> Codebook:
        """Return the constant with its axes permuted."""
        return replace(self, codes=ordered(self.codes.transpose(axes)))

    def reshaped(self, shape: Shape) -> Codebook:
        """Return the constant under another shape."""
        return replace(self, codes=self.codes.reshape(shape))


Stored = Dequantized | Grouped | Cast | Codebook


def match_stored(expr: relax.Expr | None, define: Define) -> Stored | None:
    """Read an expression (a variable, or the value bound to it) as a stored constant.

    Returns:
        None for anything else, a plain constant included.
    """
    call = None if expr is None else define(expr)
    if not isinstance(call, relax.Call) or not isinstance(call.op, tvm.ir.Op):
        return None
    if call.op.name == "relax.dequantize":
        found = match_dequantize(call)
        codes = None if found is None else ir.constant(found[0])
        return None if found is None or codes is None else Dequantized(codes=codes, how=found[1])
    if call.op.name == "relax.reshape":
        return match_grouped(call, define)
    if call.op.name == "relax.astype":
        return _match_cast(call)
    return _match_codebook(call) if call.op.name == "relax.take" else None


def _match_cast(call: relax.Call) -> Cast | None:
    values, dtype = ir.constant(call.args[0]), str(call.attrs.dtype)
    if values is None or ir.dtype(call.args[0]) not in _NARROW:
        return None
    return Cast(values=values, dtype=dtype) if dtype in ("float32", "int32") else None


def _match_codebook(call: relax.Call) -> Codebook | None:
    table, codes = (ir.constant(arg) for arg in call.args[:2])
    if table is None or codes is None or table.ndim != 1 or table.dtype != np.float32:
        return None
    return Codebook(table=table, codes=codes) if codes.dtype.itemsize == 1 else None
