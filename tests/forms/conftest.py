"""One function a form, and what a matcher asks of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.forms import Define, Emit

Body = Callable[[Emit, relax.Var], relax.Expr]


@pytest.fixture(scope="session")
def function() -> Callable[..., tvm.IRModule]:
    """Build a module: ``function(body, (2, 3))`` returns ``body(emit, x)``."""

    def make(body: Body, shape: tuple[int, ...], dtype: str = "float32") -> tvm.IRModule:
        builder = relax.BlockBuilder()
        x = relax.Var("x", relax.TensorType(shape, dtype))
        with builder.function("main", [x]):
            with builder.dataflow():
                result = builder.emit_output(body(builder.emit, x), "result")
            builder.emit_func_output(result)
        return builder.finalize()

    return make


@pytest.fixture(scope="session")
def define() -> Callable[[tvm.IRModule], Define]:
    """Return what looks up the variables of "main"."""

    def of(mod: tvm.IRModule) -> Define:
        values = dict(ir.bindings(mod["main"]))

        def look_up(expr: relax.Expr) -> relax.Expr:
            while isinstance(expr, relax.Var) and expr in values:
                expr = values[expr]
            return expr

        return look_up

    return of
