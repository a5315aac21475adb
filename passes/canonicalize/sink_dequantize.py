"""Move integers instead of the numbers they stand for.

Before::

    x = dequantize(q, s, z);  y = max_pool2d(reshape(x, shape));  w = permute_dims(dequantize(W))
    c = concat((dequantize(a, s, z), dequantize(b, s, z)))

After::

    y = dequantize(max_pool2d(reshape(q, shape)), s, z);          w = dequantize(W')
    c = dequantize(concat((a, b)), s, z)

The same for every constant kept in few bits (``forms.match_stored``): transposing or reshaping it
moves its codes at compile time, and taking rows of a table decodes only those. Bit for bit the
same. Cost: a quarter of the bytes, and dequantize stands next to the operator that reads it, where
a kernel does it on its way.

Source: none; derived here.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import tvm
from tvm import relax

from tvmopt import forms, ir
from tvmopt.forms import Affine, Stored
from tvmopt.passes.canonicalize.movement import VIEWS, data_of, has_codes, on_integers
from tvmopt.passes.canonicalize.rebuild import Rebuild, rebuild_main
from tvmopt.report import Report


@tvm.transform.module_pass(opt_level=0, name="SinkDequantize")
class SinkDequantize:
    """Dequantize behind every movement of data."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return the rewritten module; ``mod`` is left as it was."""
        if not has_codes(mod):
            return mod
        return rebuild_main(mod, lambda graph: _Sinker(graph, self.report))


class _Sinker:
    def __init__(self, graph: Rebuild, report: Report) -> None:
        self.graph = graph
        self.report = report
        self._splits: dict[relax.Expr, relax.Expr] = {}

    def __call__(self, var: relax.Var, value: relax.Expr) -> relax.Expr:
        new = self._item(var, value)
        if new is None and isinstance(value, relax.Call):
            new = self._constant(var, value)
            new = self._rows(var, value) if new is None else new
            new = self._moved(var, value) if new is None else new
            new = self._centred(var, value) if new is None else new
        if new is None:
            return value
        self.report.add(
            "SinkDequantize", var.name, applied=True, reason="it moves data: the integers will do"
        )
        return new

    def _constant(self, var: relax.Var, call: relax.Call) -> relax.Expr | None:
        """Transpose or reshape a stored constant now."""
        if not ir.is_call_to(call, *VIEWS, "relax.permute_dims"):
            return None
        if forms.match_stored(call, self.graph.definition) is not None:
            return None  # the reshape is that of the groups
        stored = forms.match_stored(call.args[0], self.graph.definition)
        if stored is None:
            return None
        moved: Stored | None
        if ir.is_call_to(call, "relax.permute_dims"):
            moved = stored.transposed(ir.permutation(call))
        else:
            moved = stored.reshaped(ir.static_shape(var))
        return None if moved is None else moved.build(self.graph.emit, var.name)

    def _rows(self, var: relax.Var, call: relax.Call) -> relax.Expr | None:
        """Take rows of a table's codes, and decode what was taken."""
        if not ir.is_call_to(call, "relax.take"):
            return None
        table = forms.match_stored(call.args[0], self.graph.definition)
        axis = call.attrs.axis
        if table is None or axis is None:
            return None
        if isinstance(table, forms.Cast):
            codes = self._take(call, forms.constant_of(table.values), var)
            return relax.op.astype(codes, table.dtype)
        if not isinstance(table, forms.Dequantized) or table.how.scale.ndim == 0:
            return None  # one scale: like any tensor
        axis, own = int(axis) % table.codes.ndim, table.how.axis
        if axis == own:
            return self._scaled_rows(var, call, table)
        codes = self._take(call, forms.constant_of(table.codes), var)
        shift = len(ir.shape(call.args[1])) - 1 if own > axis else 0
        return forms.dequantize(codes, replace(table.how, axis=own + shift))

    def _scaled_rows(
        self, var: relax.Var, call: relax.Call, table: forms.Dequantized
    ) -> relax.Expr | None:
        """Take what has a scale for each row: the codes, and the scales beside them."""
        if np.any(table.how.zero_point):
            return None
        codes = self._take(call, forms.constant_of(table.codes), var)
        wide = self.graph.emit(relax.op.astype(codes, "float32"), f"{var.name}_wide")
        scale = table.how.along(table.how.scale, table.codes.ndim)
        scales = self._take(call, forms.constant_of(scale), var)
        return relax.op.multiply(wide, scales)

    def _take(self, call: relax.Call, table: relax.Expr, var: relax.Var) -> relax.Expr:
        return self.graph.emit(ir.with_changes(call, [table, *call.args[1:]]), var.name)

    def _moved(self, var: relax.Var, call: relax.Call) -> relax.Expr | None:
        operands = data_of(call)
        found = [forms.match_dequantize(self.graph.definition(x)) for x in operands]
        parts = [pair for pair in found if pair is not None]
        if not parts or len(parts) != len(operands):
            return None
        how = parts[0][1]
        if how.scale.ndim or not all(how.same(other) for _, other in parts):
            return None
        return self._on_integers(var, call, [q for q, _ in parts], how)

    def _on_integers(
        self, var: relax.Var, call: relax.Call, parts: list[relax.Expr], how: Affine
    ) -> relax.Expr | None:
        moved = on_integers(call, parts, how, exactly=True)
        if moved is None:
            return None
        # The layer's name stays with the operator.
        return forms.dequantize(self.graph.emit(moved, var.name), how)

    def _centred(self, var: relax.Var, call: relax.Call) -> relax.Expr | None:
        """Move what an integer product reads before it is made wider."""
        if not ir.is_call_to(call, *VIEWS, "relax.permute_dims", "relax.strided_slice"):
            return None
        found = forms.match_centred(call.args[0], self.graph.definition)
        if found is None or (found.zero is not None and ir.shape(found.zero) != ()):
            return None
        codes = self.graph.emit(ir.with_changes(call, [found.codes, *call.args[1:]]), var.name)
        return forms.center(codes, found.zero, self.graph.emit, var.name)

    def _item(self, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
        """Dequantize each part of a split by itself."""
        if not isinstance(value, relax.TupleGetItem):
            return None
        split = self.graph.definition(value.tuple_value)
        if not ir.is_call_to(split, "relax.split"):
            return None
        found = forms.match_dequantize(self.graph.definition(split.args[0]))
        if found is None or found[1].scale.ndim:
            return None
        codes = self._splits.get(value.tuple_value)
        if codes is None:
            name = f"{value.tuple_value.name}_codes"
            codes = self.graph.emit(ir.with_changes(split, [found[0]]), name)
            self._splits[value.tuple_value] = codes
        item = self.graph.emit(relax.TupleGetItem(codes, value.index), f"{var.name}_codes")
        return forms.dequantize(item, found[1])
