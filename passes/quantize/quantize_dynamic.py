"""Let matmuls compute with integers, the activations quantized at run time.

Before::

    y: (..., n) = matmul(x: (..., k), w: (k, n))

After::

    y = matmul(xd, dequantize(wq, sw, 0, axis=1))       xd: see ``tvmopt/forms/rows.py``

or with the weight's scales by groups of inputs, as ``quantize_weights`` has them, for few bits.
Each row of x gets its own scale from its largest element, so nothing is calibrated and no outlier
of another row matters; what reads the same x shares its integers. Cost: one more pass over x, and
integer arithmetic where lowering has a kernel for it. Biases stay floats.

Source: Z. Yao et al., "ZeroQuant: efficient and affordable post-training quantization for
large-scale transformers", NeurIPS 2022 (arXiv:2206.01861), section 3.2, for activations by row;
weights as in ``quantize_static``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import tvm
from tvm import relax

from tvmopt import forms, ir
from tvmopt.passes.canonicalize.rebuild import Rebuild, Rule, is_plain, rebuild_main
from tvmopt.passes.quantize.grid import symmetric
from tvmopt.passes.quantize.layer_bits import (
    Chosen,
    LayerBits,
    LayerChoice,
    check_bits,
    check_group_size,
    choose_layers,
    why_no_groups,
)
from tvmopt.passes.quantize.layers import Layer
from tvmopt.passes.quantize.store_weight import RoundWeights, to_nearest, with_grid
from tvmopt.passes.quantize.weight_grid import Method, WeightChoice, weight_grid
from tvmopt.report import Report


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizeDynamicOptions:
    """How matmuls are quantized, and which.

    Attributes:
        weight_bits: Of the weights, from 2 to 8.
        group_size: How many inputs share a scale; None gives each output one.
        weight_method: How weights' scales are chosen.
        layers: Patterns of the layers to quantize, as of a shell.
        rules: Bits for some layers; the last that matches decides.
        skip: Layers to leave in floats, by name, and why.

    Raises:
        OptionError: An option is outside its domain.
    """

    weight_bits: int = 8
    group_size: int | None = None
    weight_method: Method = "mse"
    layers: tuple[str, ...] = ("*",)
    rules: tuple[LayerBits, ...] = ()
    skip: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_bits("weight_bits", self.weight_bits)
        check_group_size(self.group_size)
        WeightChoice(levels=symmetric(8), method=self.weight_method)


class QuantizeDynamic:
    """Quantize the matmuls that match, and note each decision in the report.

    It is no TVM pass: what fails in one of those loses its type.
    """

    def __init__(
        self,
        options: QuantizeDynamicOptions,
        report: Report,
        *,
        round_weights: RoundWeights = to_nearest,
    ) -> None:
        """Take what is needed.

        Args:
            options: How, and which layers.
            report: Takes each decision.
            round_weights: Rounds weights to their grids.
        """
        self.options, self.report, self.round_weights = options, report, round_weights

    def __call__(self, mod: tvm.IRModule) -> tvm.IRModule:
        """Return the quantized module; ``mod``, in canonical form, is left as it was.

        Raises:
            OptionError: A pattern matches no layer.
        """
        if not is_plain(mod["main"]):
            self._note("main", applied=False, reason="it has control flow or side effects")
            return mod
        mod = ir.unique_names(mod)
        chosen = {one.layer.var: one for one in self._choose(mod["main"])}
        return rebuild_main(mod, lambda graph: self._rule(graph, chosen)) if chosen else mod

    def _choose(self, func: relax.Function) -> list[Chosen]:
        options = self.options
        choice = LayerChoice(
            bits=options.weight_bits,
            sensitive_bits=options.weight_bits,
            layers=options.layers,
            rules=options.rules,
            skip=options.skip,
        )
        chosen, left = choose_layers(func, choice)
        for name, reason in left:
            self._note(name, applied=False, reason=reason)
        reasons = {one.layer.name: self._why_not(one.layer) for one in chosen}
        for name, why in reasons.items():
            if why is not None:
                self._note(name, applied=False, reason=why)
        return [one for one in chosen if reasons[one.layer.name] is None]

    def _why_not(self, layer: Layer) -> str | None:
        if not layer.is_matmul:
            return "only the rows of a matmul are quantized at run time"
        return why_no_groups(layer, self.options.group_size)

    def _rule(self, graph: Rebuild, chosen: Mapping[relax.Var, Chosen]) -> Rule:
        rows: dict[relax.Expr, relax.Expr] = {}

        def rule(var: relax.Var, value: relax.Expr) -> relax.Expr:
            if var not in chosen:
                return value
            x = value.args[0]
            if x not in rows:
                rows[x] = forms.quantize_rows(x, graph.emit, f"{x.name}_rows")
            weight = self._weight(chosen[var]).build(graph.emit, f"{var.name}_weight")
            return ir.with_changes(value, [rows[x], weight])

        return rule

    def _weight(self, chosen: Chosen) -> forms.Stored:
        layer, group = chosen.layer, self.options.group_size
        choice = WeightChoice(levels=symmetric(chosen.bits), method=self.options.weight_method)
        axis = layer.axis if group is None else layer.input_axis
        grid = weight_grid(layer.weight, choice, axis=axis, group=group)
        codes = self.round_weights(layer.name, layer.weight, grid)
        scales = "channel" if group is None else f"groups of {group}"
        reason = f"{chosen.described} by {scales}, int8 rows at run time"
        self._note(layer.name, applied=True, reason=reason)
        return with_grid(codes, grid)

    def _note(self, site: str, *, applied: bool, reason: str) -> None:
        self.report.add("QuantizeDynamic", site, applied=applied, reason=reason)
