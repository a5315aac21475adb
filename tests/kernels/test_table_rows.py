"""Mirror of tvmopt/kernels/table_rows.py; tests/lowering/test_table_rows.py runs the kernels."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

from tvmopt.kernels import table_rows
from tvmopt.kernels.table_rows import TableRowsSite
from tvmopt.targets import get

SITE = TableRowsSite(count=9, rows=30, width=24, dtype="bfloat16", ids="int64", wraps=True)


def test_bfloat16_is_read_as_its_bits() -> None:
    table = np.array([[1.0, -2.5]], ml_dtypes.bfloat16)
    assert table_rows.pack(table).tolist() == [[0x3F80, 0xC020]]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8"])
def test_a_register_is_widened_at_once(kit: SimpleNamespace, dtype: str) -> None:
    site, target = replace(SITE, dtype=dtype), get("x86-64-v3")
    func = table_rows.table_rows(site, table_rows.config(site, target), "k")
    assembly = kit.build(func, target).inspect_source("asm")
    widening = {"float16": "vcvtph2ps", "bfloat16": "vpmovzxwd", "int8": "vpmovsxbd"}[dtype]
    assert widening in assembly


def test_rows_come_from_memory() -> None:
    target = get("x86-64-v3")
    halves, bytes_ = (
        table_rows.cycles(replace(SITE, width=384, dtype=dtype), target)
        for dtype in ("float16", "int8")
    )
    assert halves > bytes_
