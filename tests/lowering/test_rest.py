"""Mirror of tvmopt/lowering/rest.py."""

from __future__ import annotations

import pytest
from tvm import relax

from tvmopt.errors import UnsupportedError
from tvmopt.lowering import lower
from tvmopt.report import Report
from tvmopt.targets import resolve


def test_what_nothing_lowers_is_named_all_at_once() -> None:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((3, 8), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            best = builder.emit(relax.op.topk(x, 2, ret_type="values"), name_hint="best")
            rest = builder.emit(relax.op.topk(x, 3, ret_type="values"), name_hint="rest")
            out = builder.emit_output(relax.Tuple([best, rest]))
        builder.emit_func_output(out)
    message = r"must be supported, not compiled yet: topk \('best', 'rest'\)"
    with pytest.raises(UnsupportedError, match=message):
        lower(builder.get(), resolve("native"), Report())
