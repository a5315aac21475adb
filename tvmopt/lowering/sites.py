"""Replace the sites of a canonical module by generated kernels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.lowering.attention import match_attention
from tvmopt.lowering.convolution import match_convolution
from tvmopt.lowering.dynamic import match_dynamic_product, match_quantize_rows
from tvmopt.lowering.graph import Graph, Node, Replacement
from tvmopt.lowering.integer_product import match_integer_product
from tvmopt.lowering.kernel_cache import KernelCache, LowerOptions
from tvmopt.lowering.matmul import match_batch_matmul, match_linear
from tvmopt.lowering.pooling import match_global_mean, match_pool
from tvmopt.lowering.quantized_depthwise import match_quantized_depthwise
from tvmopt.lowering.quantized_elementwise import match_quantized_elementwise
from tvmopt.lowering.quantized_pooling import match_quantized_mean
from tvmopt.lowering.quantized_product import match_quantized_product
from tvmopt.lowering.quantized_readers import split_readers
from tvmopt.lowering.residual_norm import match_residual_norm
from tvmopt.lowering.rest import lower_rest
from tvmopt.lowering.row_views import view_rows
from tvmopt.lowering.table_rows import match_table_rows
from tvmopt.lowering.transposed_convolution import match_transposed_convolution
from tvmopt.lowering.views import match_view
from tvmopt.lowering.weight_only import match_weight_only
from tvmopt.lowering.weight_only_convolution import match_stored_convolution
from tvmopt.report import Report
from tvmopt.targets.description import CpuTarget

Matcher = Callable[[Graph, Node, set[int], KernelCache], Replacement | None]

# Tried in this order at each binding; the first that answers has the site.
MATCHERS: tuple[Matcher, ...] = (
    match_quantized_depthwise,
    match_quantized_product,
    match_integer_product,
    match_quantize_rows,
    match_dynamic_product,
    match_weight_only,
    match_stored_convolution,
    match_convolution,
    match_transposed_convolution,
    match_linear,
    match_attention,
    match_batch_matmul,
    match_quantized_mean,
    match_pool,
    match_global_mean,
    match_quantized_elementwise,
    match_residual_norm,
    match_table_rows,
    match_view,
)

DEFAULTS = LowerOptions()

OPAQUE = 8  # of TVM's operator patterns: nothing is fused with it

VIEWS = ("relax.reshape", "relax.expand_dims", "relax.squeeze", "relax.flatten")


def lower(
    mod: tvm.IRModule,
    target: CpuTarget,
    report: Report,
    options: LowerOptions = DEFAULTS,
) -> tvm.IRModule:
    """Return ``mod`` with nothing in "main" but calls of scheduled PrimFuncs and reshapes.

    Args:
        mod: A canonical module (``tvmopt.passes.canonicalize``), static shapes.
        target: The machine to compile for.
        report: Gets one line for each site that a generated kernel computes.
        options: What the user switched.
    """
    mod = split_readers(mod)
    graph = Graph.of(mod["main"])
    kernels = KernelCache(target, options)
    replacements = view_rows(graph, match_sites(graph, kernels, report), kernels, report)
    return lower_rest(_rewrite(mod, graph, replacements), target)


def match_sites(graph: Graph, kernels: KernelCache, report: Report) -> list[Replacement]:
    """Return the kernels of a function; no binding belongs to two of them."""
    taken = set[int]()
    found: list[Replacement] = []
    for node in graph.nodes:
        if node.index in taken:
            continue
        for matcher in MATCHERS:
            replacement = matcher(graph, node, taken, kernels)
            if replacement is not None:
                found.append(replacement)
                taken |= replacement.covered
                report.add("Lower", replacement.site, applied=True, reason=replacement.reason)
                break
    return found


def _rewrite(mod: tvm.IRModule, graph: Graph, replacements: list[Replacement]) -> tvm.IRModule:
    """Return the module in which each replacement's call stands for its bindings."""
    func = mod["main"]
    calls = {replacement.place: replacement for replacement in replacements}
    covered = frozenset[int]().union(*(r.covered for r in replacements))
    writer = _Writer(func, graph)
    with writer.builder.function("main", list(func.params)):
        with writer.builder.dataflow():
            for node in graph.nodes:
                if node.index in calls:
                    writer.kernel(calls[node.index])
                elif node.index not in covered:
                    writer.copy(node)
            output = writer.output(func.body.body)
        writer.builder.emit_func_output(output)
    return writer.module(mod)


class _Writer:
    """Builds the new function; ``names`` maps the old one's variables."""

    def __init__(self, func: relax.Function, graph: Graph) -> None:
        self.builder = relax.BlockBuilder()
        self.returned = graph.source(func.body.body)
        self.names: dict[relax.Var, relax.Expr] = {var: var for var in func.params}
        self.kernels: dict[tvm.tirx.PrimFunc, tvm.ir.GlobalVar] = {}

    def copy(self, node: Node) -> None:
        """Emit a binding that stays, its views spelled as reshapes."""
        value = self.renamed(node.value)
        if isinstance(value, relax.Var):
            self.names[node.var] = value
            return
        if ir.is_call_to(value, *VIEWS):
            source, shape = value.args[0], ir.static_shape(node.var)
            same = ir.static_shape(source) == shape
            value = source if same else relax.op.reshape(source, list(shape))
        self.names[node.var] = self._emit(value, node.var, node.var.name)

    def kernel(self, replacement: Replacement) -> None:
        """Emit a kernel's call."""
        call, name = replacement.call, replacement.layer
        results = (replacement.result, *replacement.more)
        shapes = ir.parameter_shapes(call.kernel)
        args = [
            self._shaped(relax.const(arg) if isinstance(arg, np.ndarray) else self.renamed(arg), s)
            for arg, s in zip(call.args, shapes[: -len(results)], strict=True)
        ]
        outputs = [
            relax.TensorType(shape, str(param.dtype))
            for shape, param in zip(shapes, call.kernel.params, strict=True)
        ][-len(results) :]
        out = outputs if replacement.more else outputs[0]
        value = relax.call_tir(self._global(call.kernel), args, out_ty=out)
        if replacement.more:
            fields = self.builder.emit(value, name_hint=name)
            for i, result in enumerate(results):
                field = self._emit(relax.TupleGetItem(fields, i), None, result.var.name)
                self.names[result.var] = self._shaped(field, ir.static_shape(result.var))
            return
        var = replacement.result.var
        shape = ir.static_shape(var)
        field = self._emit(value, var if shapes[-1] == shape else None, name)
        self.names[var] = self._shaped(field, shape)

    def output(self, expr: relax.Expr) -> relax.Expr:
        """Emit what the function returns, where it is not emitted as that already."""
        result = self.renamed(expr)
        done = isinstance(result, relax.Var) and not isinstance(result, relax.DataflowVar)
        return result if done else self.builder.emit_output(result)

    def _emit(self, value: relax.Expr, var: relax.Var | None, name: str) -> relax.Expr:
        """Emit the value of ``var`` under that name.

        The value that the function returns is emitted as its output: behind an alias, TVM's passes
        would give it the alias's name.
        """
        if var is not None and self.returned is not None and var.same_as(self.returned):
            return self.builder.emit_output(value, name_hint=name)
        return self.builder.emit(value, name_hint=name)

    def _shaped(self, expr: relax.Expr, shape: tuple[int, ...]) -> relax.Expr:
        """Return a view of ``expr`` with that shape."""
        if ir.static_shape(expr) == shape:
            return expr
        return self.builder.emit(relax.op.reshape(expr, list(shape)))

    def renamed(self, expr: relax.Expr) -> relax.Expr:
        """Return ``expr`` of the old function in the new one's variables."""
        return ir.substitute(expr, self.names)

    def module(self, old: tvm.IRModule) -> tvm.IRModule:
        """Return the finished module, with the old function's attributes and the other ones."""
        mod, func = self.builder.get(), old["main"]
        mod["main"] = mod["main"].with_attrs(dict(func.attrs)) if func.attrs else mod["main"]
        for name, other in old.functions_items():
            if name.name_hint != "main":
                mod[name] = other
        return mod

    def _global(self, kernel: tvm.tirx.PrimFunc) -> tvm.ir.GlobalVar:
        if kernel not in self.kernels:
            name = f"k{len(self.kernels)}_{kernel.attrs['tvmopt.kernel']}"
            # Without a pattern, FuseOps takes a kernel for an elementwise operator and fuses it.
            named = kernel.with_attr("global_symbol", name).with_attr("op_pattern", OPAQUE)
            self.kernels[kernel] = self.builder.add_func(named, name)
        return self.kernels[kernel]
