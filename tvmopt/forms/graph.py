"""What builders and matchers ask of the graph around a form."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tvm import relax

# The value that a variable is bound to; anything else (a parameter, a constant, a value that is
# not bound yet) is its own definition.
Define = Callable[[relax.Expr], relax.Expr]

# Binds a value under a name and returns the variable.
Emit = Callable[[relax.Expr, str], relax.Expr]


def ordered(value: np.ndarray) -> np.ndarray:
    """Return an array whose elements lie in row-major order."""
    return np.array(value, order="C")


def constant_of(value: np.ndarray) -> relax.Expr:
    """Return a constant; relax.const knows bfloat16 by its name only."""
    return relax.const(ordered(value), str(value.dtype))
