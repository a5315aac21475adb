"""Mirror of passes/quantize/lookup_tables.py, by way of quantize_weights.py."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.passes.quantize.lookup_tables import find_tables, store_table
from tvmopt.passes.quantize.quantize_weights import QuantizeWeights, QuantizeWeightsOptions
from tvmopt.report import Report

Build = Callable[..., tvm.IRModule]
Run = Callable[..., list[np.ndarray]]

op = relax.op
TABLE = np.random.default_rng(0).standard_t(4, (50, 12)).astype("float32")
IDS = np.array([[3, 0, 49], [7, 7, 12]], "int64")


@pytest.fixture
def net(build: Build) -> Callable[[], tvm.IRModule]:
    return lambda: build(
        lambda bb, ids: bb.emit(op.take(relax.const(TABLE), ids, axis=0), "words"),
        IDS.shape,
        dtype="int64",
    )


def _store(mod: tvm.IRModule, **options: object) -> tuple[tvm.IRModule, Report]:
    report = Report()
    return QuantizeWeights(QuantizeWeightsOptions(**options), report)(mod), report


@pytest.mark.parametrize(
    ("storage", "dtype", "reason"),
    [
        ("int", np.int8, "8-bit rows"),
        ("float16", np.float16, "stored as float16"),
        ("bfloat16", ml_dtypes.bfloat16, "stored as bfloat16"),
    ],
)
def test_rows_are_looked_up_before_they_are_made_wide(
    net: Callable[[], tvm.IRModule], run: Run, storage: str, dtype: type, reason: str
) -> None:
    mod, report = _store(net(), storage=storage)
    assert [(d.site, d.applied, d.reason) for d in report.decisions] == [("words", True, reason)]
    stored = store_table(TABLE, storage)
    assert stored.codes.dtype == dtype
    wide = stored.codes.astype(np.float32)
    expected = wide if stored.scales is None else wide * stored.scales
    # A cast is exact, the product is one rounding in either.
    np.testing.assert_array_equal(run(mod, IDS)[0], expected[IDS])
    takes = [call for call in ir.calls(mod) if ir.is_call_to(call, "relax.take")]
    assert {str(ir.constant(call.args[0]).dtype) for call in takes} <= {
        np.dtype(dtype).name,
        "float32",
    }
    # No table of floats is left: what is float32 is one number a row.
    assert sum(ir.constant(call.args[0]).nbytes for call in takes) < TABLE.nbytes


def test_each_row_has_its_own_scale() -> None:
    table = TABLE.copy()
    table[5] *= 1000.0
    stored = store_table(table, "int")
    error = np.abs(stored.codes * stored.scales - table)
    # At most the search gives up 65 % of a row's greatest, for a lesser squared error of the row;
    # beside it a row errs by half of its own step.
    squares = np.square(error).mean(1)
    assert (squares <= np.square(np.abs(table).max(1) / 127 / 2)).all()


@pytest.mark.parametrize("storage", ["codebook", "power_of_two"])
def test_other_forms_leave_tables_alone(net: Callable[[], tvm.IRModule], storage: str) -> None:
    mod, report = _store(net(), storage=storage)
    assert [(d.applied, d.reason) for d in report.decisions] == [
        (False, "a table of rows is stored as int, float16 or bfloat16 only")
    ]
    tvm.ir.assert_structural_equal(mod, net())


def test_tables_can_be_left_out(net: Callable[[], tvm.IRModule]) -> None:
    mod, report = _store(net(), lookups=False)
    assert report.decisions == []
    tvm.ir.assert_structural_equal(mod, net())


def test_what_is_no_table_of_rows(build: Build) -> None:
    codebook = op.take(relax.const(TABLE), relax.const(np.zeros((2, 2), "uint8")), axis=0)
    for make in (
        lambda bb, i: bb.emit(op.take(relax.const(TABLE), i, axis=1)),  # columns
        lambda bb, i: bb.emit(op.take(relax.const(TABLE[0]), i, axis=0)),  # numbers
        lambda bb, i: bb.emit(op.take(relax.const(IDS), i, axis=0)),  # integers
        lambda bb, i: bb.emit(op.take(bb.emit(codebook), i, axis=0)),
    ):
        mod = build(make, (2,), dtype="int64")
        assert find_tables(dict(ir.bindings(mod["main"]))) == {}
