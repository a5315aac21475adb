"""Replace scalar libm calls by arithmetic that vectorizes.

Before::

    y[i] = T.exp(x[i])            one call an element

After::

    y[i] = <polynomial in x[i]>   tvmopt.kernels.math, with its bounds

float16 goes through float32. ``x ** n`` for n up to 4, ``x ** 0.5`` and ``T.rsqrt(x)`` become
products and square roots. Everything else, and float64, stays as it is.

Source: none for the rewriting; the functions name theirs.
"""

from __future__ import annotations

from collections.abc import Callable

import tvm_ffi
from tvm import tirx
from tvm.ir import Call, Expr, Op

from tvmopt.kernels import math

_APPROXIMATIONS: dict[str, Callable[[Expr], Expr]] = {
    "tirx.exp": math.exp,
    "tirx.log": math.log,
    "tirx.tanh": math.tanh,
    "tirx.erf": math.erf,
    "tirx.sigmoid": math.sigmoid,
}


def approximate_math(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """Return ``func`` with the libm calls that have an approximation replaced by it."""
    body = tvm_ffi.structural_map(func.body, (Call, _rewrite))
    return func if body.same_as(func.body) else func.with_body(body)


def _rewrite(call: Call) -> Expr:
    if not isinstance(call.op, Op):
        return call
    if call.op.name == "tirx.pow":
        return _power(call)
    if call.op.name == "tirx.rsqrt":
        return tirx.const(1.0, str(call.ty.dtype)) / tirx.sqrt(call.args[0])
    if call.op.name not in _APPROXIMATIONS:
        return call
    function = _APPROXIMATIONS[call.op.name]
    dtype = str(call.ty.dtype)
    if dtype == "float32":
        return function(call.args[0])
    if dtype == "float16":
        return tirx.Cast("float16", function(tirx.Cast("float32", call.args[0])))
    return call


def _power(call: Call) -> Expr:
    base, exponent = call.args
    if not isinstance(exponent, tirx.FloatImm):
        return call
    if exponent.value == 0.5:
        return tirx.sqrt(base)
    if exponent.value in (1.0, 2.0, 3.0, 4.0):
        return math.bind("base", base, lambda v: _product(v, int(exponent.value)))
    return call


def _product(base: Expr, count: int) -> Expr:
    half = base if count < 4 else base * base
    return {1: base, 2: base * base, 3: base * base * base, 4: half * half}[count]
