"""Read a lowered module's "main" into plain records.

TVM's classes are used here directly, and not through tvmopt/ir.py, because the call_tir form that
this file takes apart is lowering's contract with codegen and concerns no pass.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import prod
from typing import Literal, get_args

import numpy as np
import tvm
import tvm_ffi
from tvm import relax, tirx

from tvmopt import ir
from tvmopt.codegen.plan import BITS, Kernel, tensor_bytes
from tvmopt.errors import UnsupportedError
from tvmopt.kernels.rows import Rows, pitch_of, rows_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Value:
    """Memory with contents: an input, a constant, or what one call writes.

    Attributes:
        kind: "input", "constant" or "result".
        index: The number among the values of its kind.
    """

    kind: str
    index: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Tensor:
    """A value seen with one dtype and shape; views of a value differ in shape only.

    Attributes:
        value: The value.
        dtype: Its element type.
        shape: Its shape.
        rows: Where a kernel expects its rows; None where one follows the other.
    """

    value: Value
    dtype: str
    shape: tuple[int, ...]
    rows: Rows | None = None

    @property
    def pitch(self) -> int:
        """Elements from the start of a row to that of the next."""
        return pitch_of(self.rows, self.shape[-1] if self.shape else 1)


ViewKind = Literal["join", "part", "join rows", "cut rows"]


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """A call that moves bytes and changes none ("tvmopt.view").

    Attributes:
        kind: "join": the inputs one after another; "part": a run of the one input; "join rows" and
            "cut rows": the same of each row.
        offset: Where a part begins, bytes.
    """

    kind: ViewKind
    offset: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One kernel call.

    Attributes:
        layer: The layer's name.
        kernel: What is called.
        inputs: What it reads.
        outputs: What it writes.
        inplace: Inputs that its output may be written over.
        view: What it does, where that is not computing: then memory may be planned without it.
    """

    layer: str
    kernel: Kernel
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    inplace: tuple[int, ...]
    view: View | None = None


@dataclass(slots=True)
class Graph:
    """A lowered "main", filled while reading."""

    inputs: list[tuple[str, Tensor]] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    constants: list[np.ndarray] = field(default_factory=list)
    results: int = 0


def _tensor(value: Value, type_: relax.TensorType, place: str) -> Tensor:
    # A symbolic dimension is an expression, not an IntImm; the frontend refuses open ones.
    if type_.shape is None or not all(isinstance(d, tirx.IntImm) for d in type_.shape):
        raise UnsupportedError(f"{place}: every shape must be known, got {type_}")
    dtype = str(type_.dtype)
    if dtype not in BITS:
        raise UnsupportedError(f"{place}: dtype must be one of {', '.join(BITS)}, got {dtype!r}")
    return Tensor(value=value, dtype=dtype, shape=tuple(int(d) for d in type_.shape))


def _is_parallel(func: tirx.PrimFunc) -> bool:
    kinds: set[int] = set()
    tvm_ffi.structural_walk(func.body, (tirx.For, lambda loop: kinds.add(int(loop.kind))))
    return int(tirx.ForKind.PARALLEL) in kinds


def read_kernel(name: str, func: tirx.PrimFunc) -> Kernel:
    """Return what the executor and the manifest need to know of a PrimFunc."""
    attrs = func.attrs or {}
    macs, cycles = attrs.get("tvmopt.macs"), attrs.get("tvmopt.cycles")
    return Kernel(
        function=name,
        name=str(attrs.get("tvmopt.kernel", name)),
        macs=None if macs is None else int(macs),
        cycles=None if cycles is None else int(cycles),
        parallel=_is_parallel(func),
        scratch=int(attrs.get("tvmopt.scratch_bytes", 0)),
    )


def _view(func: tirx.PrimFunc, dtype: str) -> View | None:
    """Return what a PrimFunc says it is a view of; its offset is in elements."""
    attrs = func.attrs or {}
    if "tvmopt.view" not in attrs:
        return None
    offset = int(attrs.get("tvmopt.view_offset", 0))
    kinds = {kind: kind for kind in get_args(ViewKind)}
    return View(kind=kinds[str(attrs["tvmopt.view"])], offset=tensor_bytes(dtype, (offset,)))


def _check_types(func: tirx.PrimFunc, given: list[Tensor], place: str) -> None:
    """Raise where a kernel would read or write another type than a tensor has.

    TVM checks no call_tir, and an artefact's kernels check nothing.
    """
    for param, tensor in zip(func.params, given, strict=True):
        extents = [int(extent) for extent in param.shape if isinstance(extent, tirx.IntImm)]
        wanted = str(param.dtype)
        fits = len(extents) < len(param.shape) or prod(extents) == prod(tensor.shape)
        if wanted != tensor.dtype or not fits:
            raise UnsupportedError(
                f"{place}: {param.name} must be {wanted} {extents}, got {tensor.dtype} "
                f"{list(tensor.shape)}"
            )


class _Reader:
    """Walks the bindings of "main" once, top to bottom."""

    def __init__(self, mod: tvm.IRModule) -> None:
        self.mod = mod
        self.graph = Graph()
        self.known: dict[relax.Var, Tensor | tuple[Tensor, ...]] = {}
        self.kernels: dict[str, Kernel] = {}

    def read(self) -> Graph:
        main = self.mod["main"]
        for i, param in enumerate(main.params):
            value = Value(kind="input", index=i)
            tensor = _tensor(value, param.ty, f"input {param.name!r}")
            self.graph.inputs.append((param.name, tensor))
            self.known[param] = tensor
        for var, expr in ir.bindings(main):
            self.known[var] = self._evaluate(var, expr)
        found = self._expr(main.body.body, "the result")
        self.graph.outputs = list(found) if isinstance(found, tuple) else [found]
        return self.graph

    def _evaluate(self, var: relax.Var, expr: relax.Expr) -> Tensor | tuple[Tensor, ...]:
        place = f"binding {var.name!r}"
        if ir.is_call_to(expr, "relax.call_tir"):
            return self._call(var, expr)
        if ir.is_call_to(expr, "relax.reshape"):
            return _tensor(self._one(expr.args[0], place).value, var.ty, place)
        return self._expr(expr, place)

    def _expr(self, expr: relax.Expr, place: str) -> Tensor | tuple[Tensor, ...]:
        if isinstance(expr, relax.Var):
            return self.known[expr]
        if isinstance(expr, relax.Tuple):
            return tuple(self._one(part, place) for part in expr.fields)
        if isinstance(expr, relax.TupleGetItem):
            found = self._expr(expr.tuple_value, place)
            assert isinstance(found, tuple)
            return found[expr.index]
        array = ir.constant(expr)
        if array is None:
            what = expr.op if isinstance(expr, relax.Call) else type(expr).__name__
            raise UnsupportedError(f"{place}: lowering must leave call_tir and reshape, got {what}")
        value = Value(kind="constant", index=len(self.graph.constants))
        self.graph.constants.append(array)
        return _tensor(value, expr.ty, place)

    def _one(self, expr: relax.Expr, place: str) -> Tensor:
        found = self._expr(expr, place)
        if isinstance(found, tuple):
            raise UnsupportedError(f"{place}: nested tuples are not supported")
        return found

    def _call(self, var: relax.Var, call: relax.Call) -> Tensor | tuple[Tensor, ...]:
        place = f"binding {var.name!r}"
        if len(call.args) > 2:
            raise UnsupportedError(f"{place}: call_tir with run-time lengths is not supported")
        out_type = call.ty_args[0]
        many = isinstance(out_type, tvm.ir.TupleType)
        outputs = []
        for part in out_type.fields if many else [out_type]:
            value = Value(kind="result", index=self.graph.results)
            self.graph.results += 1
            outputs.append(_tensor(value, part, place))
        name = call.args[0].name_hint
        func = self.mod[name]
        if name not in self.kernels:
            self.kernels[name] = read_kernel(name, func)
        inputs = tuple(self._one(arg, place) for arg in call.args[1].fields)
        _check_types(func, [*inputs, *outputs], f"{place}: {name}")
        rows = [rows_of(param) for param in func.params]
        expected = [
            replace(tensor, rows=where)
            for tensor, where in zip((*inputs, *outputs), rows, strict=True)
        ]
        inplace = (func.attrs or {}).get("tvmopt.inplace", ()) if len(outputs) == 1 else ()
        self.graph.calls.append(
            Call(
                layer=var.name,
                kernel=self.kernels[name],
                inputs=tuple(expected[: len(inputs)]),
                outputs=tuple(expected[len(inputs) :]),
                inplace=tuple(int(i) for i in inplace),
                view=_view(func, outputs[0].dtype),
            )
        )
        return tuple(outputs) if many else outputs[0]


def read(mod: tvm.IRModule) -> Graph:
    """Return the calls of ``mod["main"]``, their tensors and its constants.

    Raises:
        UnsupportedError: A binding is not of the form that lowering promises.
    """
    return _Reader(mod).read()
