"""Read an expression as a product or a line, whatever the order in which it is spelled.

Exporters write ``0.5 * x * (1 + t)`` in every order, with divisions for factors and squares for
repeated ones. A matcher that asks for the coefficient and the factors sees them all alike.

Source: none; derived here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tvm import relax

from tvmopt import ir
from tvmopt.passes.canonicalize.rebuild import Rebuild

_TOLERANCE = 4 * 2.0**-23  # constants went through float32, perhaps by way of a reciprocal


@dataclass(frozen=True, kw_only=True, slots=True)
class Product:
    """``coefficient * factors[0] * factors[1] * ...``."""

    coefficient: float
    factors: tuple[relax.Expr, ...]


def product(graph: Rebuild, expr: relax.Expr) -> Product:
    """Read the value of the binding at hand, or a variable that only it reads, as a product.

    Args:
        graph: Where definitions are looked up. Only what nobody else reads is looked into.
        expr: A call or a variable.
    """
    inner = graph.definition(expr) if graph.read_once(expr) else expr
    return _factors(graph, expr, inner)


def scalar(expr: relax.Expr) -> float | None:
    """Return the number in a floating-point constant of one element."""
    value = ir.float_constant(expr)
    return float(value.reshape(())) if value is not None and value.size == 1 else None


def plus(graph: Rebuild, expr: relax.Expr) -> tuple[relax.Expr, float] | None:
    """Read ``expr`` as a tensor plus a number, in either order."""
    call = graph.definition(expr)
    if ir.is_call_to(call, "relax.add"):
        for tensor, number in (call.args, reversed(call.args)):
            if (value := scalar(number)) is not None and not ir.is_constant(tensor):
                return tensor, value
    if ir.is_call_to(call, "relax.subtract") and (value := scalar(call.args[1])) is not None:
        return call.args[0], -value
    return None


def is_near(value: float, wanted: float) -> bool:
    """Say whether two constants are the same but for the roundings of an exporter."""
    return math.isclose(value, wanted, rel_tol=_TOLERANCE)


def is_all(factors: tuple[relax.Expr, ...], x: relax.Expr, count: int) -> bool:
    """Say whether ``factors`` are ``count`` times ``x``."""
    return len(factors) == count and all(f.same_as(x) for f in factors)


def others(factors: tuple[relax.Expr, ...]) -> list[tuple[relax.Expr, relax.Expr]]:
    """Return two factors in both orders; nothing if there are not two."""
    return [factors, factors[::-1]] if len(factors) == 2 else []


def _factors(graph: Rebuild, expr: relax.Expr, call: relax.Expr) -> Product:
    if ir.is_call_to(call, "relax.multiply"):
        sides = [
            Product(coefficient=value, factors=())
            if (value := scalar(arg)) is not None
            else product(graph, arg)
            for arg in call.args
        ]
        return Product(
            coefficient=sides[0].coefficient * sides[1].coefficient,
            factors=(*sides[0].factors, *sides[1].factors),
        )
    divisor = scalar(call.args[1]) if ir.is_call_to(call, "relax.divide") else None
    if divisor is not None and divisor != 0.0:
        top = product(graph, call.args[0])
        return Product(coefficient=top.coefficient / divisor, factors=top.factors)
    power = scalar(call.args[1]) if ir.is_call_to(call, "relax.power") else None
    power = 2.0 if ir.is_call_to(call, "relax.square") else power
    if power is not None and power in (2.0, 3.0):
        return Product(coefficient=1.0, factors=(call.args[0],) * int(power))
    return Product(coefficient=1.0, factors=(expr,))
