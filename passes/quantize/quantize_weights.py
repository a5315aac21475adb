"""Store weights in fewer bits, and compute in floats.

Before::

    y = conv2d | matmul(x, w)

After, w being one of the forms of ``tvmopt/forms``::

    int           dequantize(codes, scale, zero point, axis), or by groups of inputs
    float16       astype(values, "float32"); bfloat16 likewise
    codebook      take(table, codes); power_of_two likewise

Tables of which rows are looked up, such as embeddings, are stored so too: see ``lookup_tables``.

Cost: the bytes of the weights, which is what a product of few rows waits for; where there are many
rows, one more pass over the weight.

Sources: T. Dettmers and L. Zettlemoyer, "The case for 4-bit precision: k-bit inference scaling
laws", ICML 2023 (arXiv:2212.09720), for few bits by small groups; those of ``weight_grid`` and
``codebook``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import tvm
from tvm import relax

from tvmopt import forms, ir
from tvmopt.errors import OptionError
from tvmopt.passes.canonicalize.rebuild import Rebuild, Rule, is_plain, rebuild_main
from tvmopt.passes.quantize import codebook
from tvmopt.passes.quantize.grid import signed, symmetric
from tvmopt.passes.quantize.layer_bits import (
    Chosen,
    LayerBits,
    LayerChoice,
    check_bits,
    check_group_size,
    choose_layers,
    why_no_groups,
)
from tvmopt.passes.quantize.lookup_tables import StoredTable, find_tables, store_table
from tvmopt.passes.quantize.store_weight import RoundWeights, as_half, to_nearest, with_grid
from tvmopt.passes.quantize.weight_grid import Method, WeightChoice, weight_grid
from tvmopt.report import Report

Storage = Literal["int", "float16", "bfloat16", "codebook", "power_of_two"]


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizeWeightsOptions:
    """How weights are stored, and which.

    Attributes:
        storage: The form.
        bits: A weight, from 2 to 8; the 16-bit forms have no use for it.
        group_size: How many inputs share a scale, for "int"; None gives each output one.
        symmetric: Whether integers have the zero point 0.
        method: How scales are chosen.
        layers: Patterns of the layers to store so, as of a shell.
        rules: Bits for some layers; the last that matches decides.
        skip: Layers to leave in floats, by name, and why.
        lookups: Whether tables of which rows are looked up are stored so too, whatever ``layers``
            says; integers then have 8 bits.

    Raises:
        OptionError: An option is outside its domain.
    """

    storage: Storage = "int"
    bits: int = 4
    group_size: int | None = 32
    symmetric: bool = True
    method: Method = "mse"
    layers: tuple[str, ...] = ("*",)
    rules: tuple[LayerBits, ...] = ()
    skip: Mapping[str, str] = field(default_factory=dict)
    lookups: bool = True

    def __post_init__(self) -> None:
        if self.storage not in get_args(Storage):
            known = ", ".join(get_args(Storage))
            raise OptionError(f"storage must be one of {known}, got {self.storage!r}")
        check_bits("bits", self.bits)
        check_group_size(self.group_size)
        WeightChoice(levels=symmetric(8), method=self.method)


class QuantizeWeights:
    """Store the weights of the layers that match, and note each decision in the report.

    It is no TVM pass: what fails in one of those loses its type.
    """

    def __init__(
        self,
        options: QuantizeWeightsOptions,
        report: Report,
        *,
        round_weights: RoundWeights = to_nearest,
    ) -> None:
        """Take what is needed.

        Args:
            options: How, and which layers.
            report: Takes each decision.
            round_weights: Rounds weights to their grids, for storage "int".
        """
        self.options, self.report, self.round_weights = options, report, round_weights

    def __call__(self, mod: tvm.IRModule) -> tvm.IRModule:
        """Return the module with stored weights; ``mod``, in canonical form, is left as it was.

        Raises:
            OptionError: A pattern matches no layer.
        """
        if not is_plain(mod["main"]):
            self._note("main", applied=False, reason="it has control flow or side effects")
            return mod
        mod = ir.unique_names(mod)
        stored, tables = dict(self._stored(mod["main"])), self._tables(mod["main"])
        if not stored and not tables:
            return mod
        return rebuild_main(mod, lambda graph: _rule(graph, stored, tables))

    def _stored(self, func: relax.Function) -> list[tuple[relax.Var, forms.Stored]]:
        """Return the new form of each weight that gets one, and note all decisions."""
        options = self.options
        choice = LayerChoice(
            bits=options.bits,
            sensitive_bits=options.bits,
            layers=options.layers,
            rules=options.rules,
            skip=options.skip,
        )
        chosen, left = choose_layers(func, choice)
        for name, reason in left:
            self._note(name, applied=False, reason=reason)
        found = []
        for one in chosen:
            form = self._form(one)
            if isinstance(form, str):
                self._note(one.layer.name, applied=False, reason=form)
            else:
                self._note(one.layer.name, applied=True, reason=self._described(one))
                found.append((one.layer.var, form))
        return found

    def _tables(self, func: relax.Function) -> dict[relax.Var, StoredTable]:
        """Return the new form of each table of rows that gets one, and note all decisions."""
        found: dict[relax.Var, StoredTable] = {}
        if not self.options.lookups:
            return found
        for var, table in find_tables(dict(ir.bindings(func))).items():
            form = store_table(table, self.options.storage)
            if isinstance(form, str):
                self._note(var.name, applied=False, reason=form)
                continue
            found[var] = form
            how = "8-bit rows" if form.scales is not None else f"stored as {self.options.storage}"
            self._note(var.name, applied=True, reason=how)
        return found

    def _form(self, chosen: Chosen) -> forms.Stored | str:
        """Return the new form of a weight, or why it has none."""
        weight, storage = chosen.layer.weight, self.options.storage
        if storage in ("float16", "bfloat16"):
            return as_half(weight, storage)
        if storage == "int":
            return self._integers(chosen)
        if storage == "codebook":
            table = codebook.kmeans(weight, 2**chosen.bits)
        else:
            table = codebook.powers_of_two(weight, chosen.bits)
        return forms.Codebook(table=table, codes=codebook.nearest(weight, table))

    def _integers(self, chosen: Chosen) -> forms.Stored | str:
        layer, group = chosen.layer, self.options.group_size
        levels = symmetric(chosen.bits) if self.options.symmetric else signed(chosen.bits)
        reason = why_no_groups(layer, group)
        if reason is not None:
            return reason
        axis = layer.axis if group is None else layer.input_axis
        choice = WeightChoice(levels=levels, method=self.options.method)
        grid = weight_grid(layer.weight, choice, axis=axis, group=group)
        return with_grid(self.round_weights(layer.name, layer.weight, grid), grid)

    def _described(self, chosen: Chosen) -> str:
        options = self.options
        if options.storage in ("float16", "bfloat16"):
            return f"stored as {options.storage}"
        if options.storage != "int":
            return f"{chosen.described}, {options.storage.replace('_', ' ')} levels"
        scales = "channel" if options.group_size is None else f"groups of {options.group_size}"
        return f"{chosen.described} by {scales}"

    def _note(self, site: str, *, applied: bool, reason: str) -> None:
        self.report.add("QuantizeWeights", site, applied=applied, reason=reason)


def _rule(
    graph: Rebuild,
    stored: Mapping[relax.Var, forms.Stored],
    tables: Mapping[relax.Var, StoredTable],
) -> Rule:
    def rule(var: relax.Var, value: relax.Expr) -> relax.Expr:
        if var in tables:
            return tables[var].look_up(graph, var.name, value)
        if var not in stored:
            return value
        weight = stored[var].build(graph.emit, f"{var.name}_weight")
        return ir.with_changes(value, [value.args[0], weight])

    return rule
