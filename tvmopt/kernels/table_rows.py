"""Look rows up in a table of fewer bits, such as an embedding, and widen what was found.

``y[i] = float32(table[ids[i]])``, times the row's scale where the table holds integers. Only the
rows that are asked for are read, and the wide ones are written once.

Source: none; the definition of the operator.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812  (TVM's own name for it)

from tvmopt.kernels import cost
from tvmopt.kernels.blocks import worth_threads
from tvmopt.kernels.vector import Expr, Vector, bind, cast, loop, parameters, prim_func
from tvmopt.targets.description import CpuTarget

STORED = {"float16": "float16", "bfloat16": "uint16", "int8": "int8"}  # as the kernel reads them
TYPES = {"float16": "f16", "bfloat16": "bf16", "int8": "qs8"}


@dataclass(frozen=True, kw_only=True, slots=True)
class TableRowsSite:
    """Rows that are looked up.

    Attributes:
        count: How many are looked up.
        rows: Of the table.
        width: Elements of a row.
        dtype: Of the table, a key of ``STORED``; with "int8" each row has a scale.
        ids: Type of an index, "int32" or "int64".
        wraps: Whether an index below 0 counts from the end and one beyond begins anew; else it is
            clipped to the table.
    """

    count: int
    rows: int
    width: int
    dtype: str
    ids: str
    wraps: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class TableRowsConfig:
    """How rows are looked up.

    Attributes:
        lanes: Elements of a register.
        parallel: Whether threads share the rows.
    """

    lanes: int
    parallel: bool


def config(site: TableRowsSite, target: CpuTarget) -> TableRowsConfig:
    """Return the analytic choice for ``site``."""
    lanes = min(target.lanes(32), site.width)
    return TableRowsConfig(lanes=lanes, parallel=worth_threads(site.count * site.width))


def cycles(site: TableRowsSite, target: CpuTarget) -> float:
    """Return the predicted cycles of one core: rows from memory, and what is written."""
    read = site.count * site.width * np.dtype(STORED[site.dtype]).itemsize
    written = cost.stream_cycles(4 * site.count * site.width, target)
    return cost.CALL_CYCLES + read / cost.MEMORY_BYTES_PER_CYCLE + written


def pack(table: np.ndarray) -> np.ndarray:
    """Return a table as the kernel reads it: the bits of bfloat16 as integers."""
    return table.view(np.uint16) if str(table.dtype) == "bfloat16" else table


def table_rows(site: TableRowsSite, how: TableRowsConfig, name: str) -> tirx.PrimFunc:
    """Return ``name(ids: (count,), table: pack(), [scales: (rows, 1)], y: (count, width))``."""
    scaled, lanes = site.dtype == "int8", how.lanes

    def body() -> None:
        ids, table, *scales, y = parameters(
            ("ids", (site.count,), site.ids),
            ("table", (site.rows, site.width), STORED[site.dtype]),
            *([("scales", (site.rows, 1), "float32")] if scaled else []),
            ("y", (site.count, site.width), "float32"),
        )
        vector = Vector(lanes)
        with loop(site.count, parallel=how.parallel) as i:
            row = bind(_within(site, cast(ids[i], "int64")))
            start = bind(row * site.width)
            with T.serial(-(-site.width // lanes)) as j:
                at = bind(tirx.min(j * lanes, site.width - lanes))
                value = _widened(vector.load(table, start + cast(at, "int64")), lanes)
                if scaled:
                    value = value * vector.splat(scales[0][row])
                vector.store(y, value, i * site.width + at)

    return prim_func(name, body, {"tvmopt.macs": 0})


def _within(site: TableRowsSite, index: Expr) -> Expr:
    """Return the row that an index means."""
    rows = tirx.const(site.rows, "int64")
    if site.wraps:
        return tirx.floormod(index, rows)
    return tirx.max(tirx.min(index, rows - 1), tirx.const(0, "int64"))


def _widened(value: Expr, lanes: int) -> Expr:
    """Return elements of the table as float32; the bits of bfloat16 are its upper half."""
    if not str(value.ty).startswith("uint16"):
        return cast(value, "float32")
    bits = tirx.shift_left(cast(value, "uint32"), Vector(lanes, "uint32").splat(16))
    return tirx.reinterpret("float32" if lanes == 1 else f"float32x{lanes}", bits)
