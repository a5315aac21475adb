"""Mirror of passes/canonicalize/sink_dequantize.py and movement.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt import forms, ir
from tvmopt.forms import Affine
from tvmopt.passes.canonicalize.sink_dequantize import SinkDequantize
from tvmopt.report import Report

Build = Callable[..., tvm.IRModule]
Run = Callable[..., list[np.ndarray]]
Counts = Callable[[tvm.IRModule], Counter[str]]
Move = Callable[[relax.Expr], relax.Expr]

OP = relax.op
HOW = Affine(scale=np.array(0.3, "f4"), zero_point=np.array(7, "i4"), dtype="uint8")
CHANNELS = Affine(
    scale=np.array([0.1, 0.2, 0.3], "f4"), zero_point=np.zeros(3, "i4"), dtype="int8", axis=0
)
MOVES: dict[str, Move] = {
    "reshape": lambda x: OP.reshape(x, (4, 15)),
    "permute_dims": lambda x: OP.permute_dims(x, [0, 3, 1, 2]),
    "expand_dims": lambda x: OP.expand_dims(x, 1),
    "broadcast_to": lambda x: OP.broadcast_to(x, (2, 3, 5, 4)),
    "tile": lambda x: OP.tile(x, [1, 2, 1, 1]),
    "flip": lambda x: OP.flip(x, 2),
    "strided_slice": lambda x: OP.strided_slice(x, [2], [1], [4]),
    "take": lambda x: OP.take(x, relax.const(np.array([2, 0], "int64")), axis=2),
    "nn.max_pool2d": lambda x: OP.nn.max_pool2d(x, (2, 2), padding=(1, 1), layout="NHWC"),
    "max": lambda x: OP.max(x, axis=[1, 2], keepdims=True),
    "nn.pad": lambda x: OP.nn.pad(x, [0, 0, 1, 2, 0, 1, 0, 0], pad_value=0.0),
    "image.resize2d": lambda x: OP.image.resize2d(
        x, (6, 10), layout="NHWC", method="nearest_neighbor"
    ),
}


def _sink(mod: tvm.IRModule, report: Report | None = None) -> tvm.IRModule:
    return SinkDequantize(report or Report())(mod)


def _codes(*shape: int) -> np.ndarray:
    return np.random.default_rng(4).integers(0, 256, shape, "uint8")


@pytest.mark.parametrize("name", MOVES)
def test_a_movement_is_done_on_integers(build: Build, run: Run, name: str) -> None:
    def body(bb: relax.BlockBuilder, q: relax.Expr) -> relax.Expr:
        return MOVES[name](bb.emit(forms.dequantize(q, HOW)))

    before = build(body, (1, 3, 5, 4), dtype="uint8")
    after = _sink(before)

    assert [call.op.name for call in ir.calls(after)] == [f"relax.{name}", "relax.dequantize"]
    q = _codes(1, 3, 5, 4)
    np.testing.assert_array_equal(run(after, q)[0], run(before, q)[0])


@pytest.mark.parametrize(
    ("name", "move"),
    [
        ("a pad that no integer stands for", lambda x: OP.nn.pad(x, [1, 1], pad_value=0.5)),
        ("a sum", lambda x: OP.sum(x)),
        ("an operator", OP.sigmoid),
    ],
)
def test_what_is_no_movement_stays(build: Build, name: str, move: Move) -> None:
    def body(bb: relax.BlockBuilder, q: relax.Expr) -> relax.Expr:
        return move(bb.emit(forms.dequantize(q, HOW)))

    before, report = build(body, (5,), dtype="uint8"), Report()
    tvm.ir.assert_structural_equal(_sink(before, report), before)
    assert report.decisions == [], name


def test_parts_of_equal_meaning_are_concatenated_as_integers(
    build: Build, run: Run, counts: Counts
) -> None:
    def body(bb: relax.BlockBuilder, a: relax.Expr, b: relax.Expr) -> relax.Expr:
        parts = [bb.emit(forms.dequantize(q, HOW)) for q in (a, b)]
        return OP.concat(parts, axis=1)

    before = build(body, (2, 3), (2, 1), dtype="uint8")
    after = _sink(before)
    assert counts(after) == {"concat": 1, "dequantize": 1}
    feeds = _codes(2, 3), _codes(2, 1)
    np.testing.assert_array_equal(run(after, *feeds)[0], run(before, *feeds)[0])


def test_parts_of_other_meanings_are_not(build: Build) -> None:
    other = Affine(scale=HOW.scale * np.float32(2), zero_point=HOW.zero_point, dtype="uint8")

    def body(bb: relax.BlockBuilder, a: relax.Expr, b: relax.Expr) -> relax.Expr:
        parts = [bb.emit(forms.dequantize(a, HOW)), bb.emit(forms.dequantize(b, other))]
        return OP.concat(parts, axis=1)

    before = build(body, (2, 3), (2, 1), dtype="uint8")
    tvm.ir.assert_structural_equal(_sink(before), before)


def test_each_part_of_a_split_is_dequantized_by_itself(
    build: Build, run: Run, counts: Counts
) -> None:
    def body(bb: relax.BlockBuilder, q: relax.Expr) -> relax.Expr:
        parts = bb.emit(OP.split(bb.emit(forms.dequantize(q, HOW)), 2, axis=1))
        items = [bb.emit(relax.TupleGetItem(parts, i)) for i in (0, 1, 0)]
        return OP.add(bb.emit(OP.add(items[0], items[1])), items[2])

    before = build(body, (2, 4), dtype="uint8")
    after = _sink(before)
    assert counts(after) == {"split": 1, "dequantize": 3, "add": 2}
    q = _codes(2, 4)
    np.testing.assert_array_equal(run(after, q)[0], run(before, q)[0])


STORED = {
    "channels": forms.Dequantized(codes=np.arange(12, dtype=np.int8).reshape(3, 4), how=CHANNELS),
    "halves": forms.Cast(values=np.arange(12, dtype=np.float16).reshape(3, 4)),
    "codebook": forms.Codebook(
        table=np.array([0.1, 0.7], "f4"), codes=np.eye(3, 4, dtype=np.uint8)
    ),
    "groups": forms.Grouped(
        codes=np.arange(12, dtype=np.int8).reshape(3, 2, 2),
        scale=np.array([[[0.1], [0.2]]] * 3, "f4"),
        zero=None,
        axis=1,
    ),
}


@pytest.mark.parametrize("name", STORED)
def test_a_stored_constant_is_transposed_now(build: Build, run: Run, name: str) -> None:
    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        w = STORED[name].build(bb.emit, "w")
        moved = bb.emit(OP.expand_dims(bb.emit(OP.permute_dims(w)), 0))
        return OP.add(x, moved)

    before = build(body, (1, 4, 3))
    after = _sink(before)
    values = dict(ir.bindings(after["main"]))
    (add,) = (v for v in values.values() if ir.is_call_to(v, "relax.add"))
    found = forms.match_stored(add.args[1], lambda e: values.get(e, e))
    assert type(found) is type(STORED[name])
    assert found.shape == (1, 4, 3)
    x = np.zeros((1, 4, 3), np.float32)
    np.testing.assert_array_equal(run(after, x)[0], run(before, x)[0])
    np.testing.assert_array_equal(run(after, x)[0][0], STORED[name].value().T)


@pytest.mark.parametrize("name", ["halves", "columns", "rows"])
def test_rows_of_a_table_are_taken_before_they_are_decoded(
    build: Build, run: Run, name: str
) -> None:
    table = forms.Dequantized(
        codes=np.arange(12, dtype=np.int8).reshape(4, 3),
        how=Affine(scale=CHANNELS.scale, zero_point=CHANNELS.zero_point, dtype="int8", axis=1),
    )
    stored = table if name == "columns" else STORED["channels" if name == "rows" else name]

    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        return OP.take(stored.build(bb.emit, "table"), x, axis=0)

    before = build(body, (2, 5), dtype="int64")
    after = _sink(before)
    names = [call.op.name.removeprefix("relax.") for call in ir.calls(after)]
    decoded = {"halves": ["astype"], "columns": ["dequantize"]}
    assert names == ["take", *decoded.get(name, ["astype", "take", "multiply"])]
    rows = np.array([[0, 1, 2, 2, 1], [1, 1, 0, 2, 0]])
    np.testing.assert_array_equal(run(after, rows)[0], run(before, rows)[0])
