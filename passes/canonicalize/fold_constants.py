"""Compute at compile time what depends on constants only.

Before::

    w: (k, n) = permute_dims(W: (n, k))
    y: (m, n) = matmul(x: (m, k), w)

After::

    y: (m, n) = matmul(x: (m, k), W': (k, n))

Cost: nothing at run time; the module may grow, which an option bounds.

Some constant expressions stay, because lowering recognises them and folding would undo what a
compression has saved: what decodes a constant that is kept in fewer bits. That is ``dequantize``
(TVM's own ``FoldConstant`` turns ``dequantize(int8 constant)`` into floats), a cast of 8 or 16 bits
to more, and ``take`` by 8-bit indices, which is a codebook. Nothing that reads their results is
constant, so nothing folds across them. The exceptions are numbers and vectors that nothing but
elementwise operators and norms read (a constant that a quantizer met beside the data): a kernel has
them as floats, and the bytes are few. A bias in int32, added to a convolution or matrix product, is
none of those: integer kernels start their sums with it.

``quantize`` of a constant is folded as any other operator.

Source: none; the textbook transformation. What only moves or casts elements is done by NumPy; all
arithmetic is left to TVM itself, so that a folded value is what the kernel would have computed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax

from tvmopt import forms, ir
from tvmopt.errors import OptionError
from tvmopt.passes.canonicalize.rebuild import Rebuild, rebuild_main, variables
from tvmopt.report import Report

_PRODUCTS = ("relax.nn.conv1d", "relax.nn.conv2d", "relax.nn.conv3d", "relax.matmul")
# What has floats as its constants, in kernels of quantized data too.
_WITH_FLOATS = frozenset({
    *("add", "subtract", "multiply", "divide", "maximum", "minimum", "power", "where", "nn.prelu"),
    *("nn.batch_norm", "nn.layer_norm", "nn.rms_norm", "nn.group_norm", "nn.instance_norm"),
})  # fmt: skip
_NARROW = ("int8", "uint8", "int16", "uint16", "float16", "bfloat16")
_BITS = {"int8": 8, "uint8": 8} | dict.fromkeys(("int16", "uint16", "float16", "bfloat16"), 16)
_MOVING = ("relax.reshape", "relax.expand_dims", "relax.squeeze", "relax.permute_dims")


@dataclass(frozen=True, kw_only=True, slots=True)
class FoldConstantsOptions:
    """How far folding may go.

    Attributes:
        max_growth_bytes: By how much the constants of the module may grow in all; what would
            exceed it is left to run time.

    Raises:
        OptionError: ``max_growth_bytes`` is negative.
    """

    max_growth_bytes: int = 4 << 20

    def __post_init__(self) -> None:
        if self.max_growth_bytes < 0:
            raise OptionError(f"max_growth_bytes must be >= 0, got {self.max_growth_bytes!r}")


@tvm.transform.module_pass(opt_level=0, name="FoldConstants")
class FoldConstants:
    """Evaluate each call all of whose operands are constants."""

    def __init__(self, options: FoldConstantsOptions, report: Report) -> None:
        self.options = options
        self.report = report

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return the rewritten module; ``mod`` is left as it was."""
        return rebuild_main(mod, lambda graph: _Folder(graph, mod, self.options, self.report))


class _Folder:
    def __init__(
        self, graph: Rebuild, mod: tvm.IRModule, options: FoldConstantsOptions, report: Report
    ) -> None:
        self.graph = graph
        self.mod = mod
        self.limit = options.max_growth_bytes
        self.report = report
        self.grown = 0
        # How many bindings read a constant: its bytes are saved when the last one is gone.
        self.shared: Counter[relax.Expr] = Counter(
            c for value in graph.old.values() for c in set(_constants(value))
        )

    def __call__(self, var: relax.Var, value: relax.Expr) -> relax.Expr:
        if not _is_foldable(value, var) or (_decodes(value) and not self._is_small(var)):
            return value
        operands = set(_constants(value))
        freed = sum(_bytes(c) for c in operands if self.shared[c] <= 1)
        growth = _bytes(var) - freed
        if growth > 0 and self.grown + growth > self.limit:
            self._note(
                var,
                applied=False,
                reason=f"it would grow the constants by {growth} bytes, beyond the limit of "
                f"{self.limit}",
            )
            return value
        self.grown += growth
        self.shared.subtract(operands)
        folded = relax.const(evaluate(value, self.mod, var), ir.dtype(var))
        self.shared[folded] = self.graph.readers[var]
        self._note(var, applied=True, reason="every operand is a constant")
        return folded

    def _is_small(self, var: relax.Var) -> bool:
        """Say whether a decoded constant is a vector at most, and of use as floats only."""
        if sum(size != 1 for size in ir.static_shape(var)) > 1:
            return False
        return self._feeds_elementwise(var, counts=_source_dtype(self.graph.old[var]) == "int32")

    def _feeds_elementwise(self, var: relax.Var, *, counts: bool) -> bool:
        """Say whether what reads ``var``, perhaps moved, takes floats; ``counts``: as a bias."""
        users = self.graph.users.get(var, [])
        if not users or var.same_as(self.graph.result):
            return False
        for user in users:
            call = self.graph.old[user]
            if ir.is_call_to(call, *_MOVING):
                if not self._feeds_elementwise(user, counts=counts):
                    return False
                continue
            if not isinstance(call, relax.Call) or not isinstance(call.op, tvm.ir.Op):
                return False
            others = [arg for arg in call.args if not arg.same_as(var)]
            if call.op.name.removeprefix("relax.") not in _WITH_FLOATS:
                return False
            if all(ir.is_constant(arg) for arg in others):
                return False  # a step of decoding: the scales of groups
            if counts and any(ir.is_call_to(self._maker(arg), *_PRODUCTS) for arg in others):
                return False
        return True

    def _maker(self, expr: relax.Expr) -> relax.Expr | None:
        value = self.graph.old.get(expr) if isinstance(expr, relax.Var) else None
        moved = ir.is_call_to(value, *_MOVING)
        return self._maker(value.args[0]) if moved and value is not None else value

    def _note(self, var: relax.Var, *, applied: bool, reason: str) -> None:
        self.report.add("FoldConstants", var.name, applied=applied, reason=reason)


def evaluate(call: relax.Call, mod: tvm.IRModule, var: relax.Var) -> np.ndarray:
    """Return the value of a call to a Relax operator whose operands are constants.

    Args:
        call: The call; its result has a static shape.
        mod: Where the PrimFuncs are that it may call.
        var: The variable it is bound to, for the type of the result.
    """
    move, value = _MOVES.get(call.op.name), ir.constant(call.args[0]) if call.args else None
    if move is not None and value is not None:
        result = move(value, call, var)
        if result is not None:
            return np.array(result, order="C")
    return _run(call, mod)


def _run(call: relax.Call, mod: tvm.IRModule) -> np.ndarray:
    others = {n: f for n, f in mod.functions_items() if isinstance(f, tvm.tirx.PrimFunc)}
    builder = relax.BlockBuilder(tvm.IRModule(others))
    with builder.function("main", []):
        with builder.dataflow():
            result = builder.emit_output(call)
        builder.emit_func_output(result)
    # The plain "llvm" target: what is folded must not depend on the machine that compiles.
    vm = relax.VirtualMachine(tvm.compile(builder.finalize(), target="llvm"), tvm.cpu())
    return vm["main"]().numpy()


def _reshape(value: np.ndarray, _call: relax.Call, var: relax.Var) -> np.ndarray:
    return value.reshape(ir.static_shape(var))


def _permute(value: np.ndarray, call: relax.Call, _var: relax.Var) -> np.ndarray:
    return value.transpose(ir.permutation(call))


def _broadcast(value: np.ndarray, _call: relax.Call, var: relax.Var) -> np.ndarray:
    return np.broadcast_to(value, ir.static_shape(var))


def _quantize(value: np.ndarray, call: relax.Call, _var: relax.Var) -> np.ndarray | None:
    found = forms.match_quantize(call)
    return None if found is None else forms.quantized(value, found[1])


def _cast(value: np.ndarray, _call: relax.Call, var: relax.Var) -> np.ndarray | None:
    # NumPy and LLVM agree where every value has an image; out-of-range float to int has none.
    dtype = np.dtype(ir.dtype(var))
    return value.astype(dtype) if np.can_cast(value.dtype, dtype, "safe") else None


_MOVES: dict[str, Callable[[np.ndarray, relax.Call, relax.Var], np.ndarray | None]] = {
    "relax.reshape": _reshape,
    "relax.expand_dims": _reshape,
    "relax.squeeze": _reshape,
    "relax.flatten": _reshape,
    "relax.permute_dims": _permute,
    "relax.broadcast_to": _broadcast,
    "relax.astype": _cast,
    "relax.quantize": _quantize,
}


def _is_foldable(value: relax.Expr, var: relax.Var) -> bool:
    """Say whether every operand is a constant and nothing forbids the result to be one."""
    if not isinstance(value, relax.Call) or not isinstance(value.op, tvm.ir.Op):
        return False
    return _has_static_shape(var) and next(variables(value), None) is None


def _decodes(call: relax.Call) -> bool:
    """Say whether a call of constants makes a constant of fewer bits wide."""
    if ir.is_call_to(call, "relax.dequantize"):
        return True
    if ir.is_call_to(call, "relax.take"):
        return ir.dtype(call.args[1]) in ("int8", "uint8")
    if not ir.is_call_to(call, "relax.astype"):
        return False
    source, wide = _source_dtype(call), str(call.attrs.dtype)
    return source in _NARROW and _BITS.get(wide, 64) > _BITS[source]


def _source_dtype(call: relax.Call) -> str:
    return ir.dtype(call.args[0])


def _has_static_shape(var: relax.Var) -> bool:
    return isinstance(var.ty, relax.TensorType) and all(isinstance(d, int) for d in ir.shape(var))


def _constants(expr: relax.Expr) -> Iterator[relax.Expr]:
    if isinstance(expr, tvm.ir.GenericConst):
        yield expr
    elif isinstance(expr, relax.Tuple):
        for item in expr.fields:
            yield from _constants(item)
    elif isinstance(expr, relax.Call):
        for arg in expr.args:
            yield from _constants(arg)


def _bytes(expr: relax.Expr) -> int:
    return math.prod(int(d) for d in ir.shape(expr)) * np.dtype(ir.dtype(expr)).itemsize
