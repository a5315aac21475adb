"""Read a binding as ``scale * x + shift`` with one constant of each a channel, where it is that.

Source: S. Ioffe and C. Szegedy, "Batch normalization", ICML 2015, section 3.1: at inference
``y = gamma / sqrt(var + eps) * (x - mean) + beta`` with constant statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax

from tvmopt import ir


@dataclass(frozen=True, kw_only=True, slots=True)
class Affine:
    """The map ``x -> scale * x + shift``, each () or (channels,), float64."""

    scale: np.ndarray
    shift: np.ndarray

    def after(self, first: Affine) -> Affine:
        """Return the map that applies ``first`` and then this one."""
        return Affine(scale=self.scale * first.scale, shift=self.scale * first.shift + self.shift)


_ZERO, _ONE, _MINUS_ONE = (np.asarray(v, np.float64) for v in (0.0, 1.0, -1.0))
IDENTITY = Affine(scale=_ONE, shift=_ZERO)


@dataclass(frozen=True, kw_only=True, slots=True)
class AffineStep:
    """A binding that is an affine map of one variable.

    Attributes:
        data: The variable it is a map of.
        between: The binding of the batch norm whose result this one takes out of its tuple.
        map: The map.
    """

    data: relax.Var
    between: relax.Var | None
    map: Affine


def affine_step(
    values: Mapping[relax.Var, relax.Expr], var: relax.Var, axis: int
) -> AffineStep | None:
    """Describe the binding of ``var`` as an affine map for each index of ``axis``, if it is one.

    Args:
        values: What each variable is bound to.
        var: The binding to look at.
        axis: The channel axis of its result, in [0, rank).
    """
    value = values.get(var)
    if isinstance(value, relax.TupleGetItem):
        return _batch_norm(values, value, axis)
    if not isinstance(value, relax.Call) or not isinstance(value.op, tvm.ir.Op):
        return None
    if value.op.name == "relax.negative" and isinstance(value.args[0], relax.Var):
        return AffineStep(
            data=value.args[0], between=None, map=Affine(scale=_MINUS_ONE, shift=_ZERO)
        )
    make = _BINARY.get(value.op.name)
    return None if make is None else _binary(value, var, axis, make)


def channel_values(expr: relax.Expr, shape: tuple[int, ...], axis: int) -> np.ndarray | None:
    """Return the constant ``expr`` as (channels,) or () in float64.

    None if it is no floating-point constant, varies along another axis than ``axis`` of a tensor
    of ``shape``, or would broadcast that tensor to a larger one.
    """
    value = ir.float_constant(expr)
    if value is None or value.ndim > len(shape):
        return None
    dims = (1,) * (len(shape) - value.ndim) + value.shape
    if any(d != 1 for i, d in enumerate(dims) if i != axis):
        return None
    if dims and dims[axis] not in (1, shape[axis]):
        return None
    flat = value.astype(np.float64).reshape(-1)
    return flat.reshape(()) if flat.size == 1 else flat


_BINARY: dict[str, Callable[[np.ndarray, bool], Affine | None]] = {
    "relax.add": lambda c, _: Affine(scale=_ONE, shift=c),
    "relax.multiply": lambda c, _: Affine(scale=c, shift=_ZERO),
    "relax.subtract": lambda c, constant_first: (
        Affine(scale=_MINUS_ONE, shift=c) if constant_first else Affine(scale=_ONE, shift=-c)
    ),
    "relax.divide": lambda c, constant_first: (
        None if constant_first or not np.all(c) else Affine(scale=1.0 / c, shift=_ZERO)
    ),
}


def _binary(
    call: relax.Call,
    var: relax.Var,
    axis: int,
    make: Callable[[np.ndarray, bool], Affine | None],
) -> AffineStep | None:
    constant_first = ir.is_constant(call.args[0])
    data, other = reversed(call.args) if constant_first else call.args
    if not isinstance(data, relax.Var) or ir.shape(data) != ir.shape(var):
        return None
    value = channel_values(other, ir.static_shape(var), axis)
    result = None if value is None else make(value, constant_first)
    return None if result is None else AffineStep(data=data, between=None, map=result)


def _batch_norm(
    values: Mapping[relax.Var, relax.Expr], item: relax.TupleGetItem, axis: int
) -> AffineStep | None:
    norm = values.get(item.tuple_value) if isinstance(item.tuple_value, relax.Var) else None
    if item.index != 0 or not ir.is_call_to(norm, "relax.nn.batch_norm") or norm.attrs.training:
        return None
    rank = len(ir.shape(norm.args[0]))
    values_of = (ir.float_constant(a) for a in norm.args[1:])
    params = [p.astype(np.float64) for p in values_of if p is not None]
    if norm.attrs.axis % rank != axis or len(params) != 4:
        return None
    if not isinstance(norm.args[0], relax.Var):
        return None
    gamma, beta, mean, variance = params
    scale = 1.0 / np.sqrt(variance + norm.attrs.epsilon)
    scale = scale * gamma if norm.attrs.scale else scale
    shift = -mean * scale + (beta if norm.attrs.center else 0.0)
    return AffineStep(
        data=norm.args[0], between=item.tuple_value, map=Affine(scale=scale, shift=shift)
    )
