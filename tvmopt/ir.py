"""The few questions that passes ask of a Relax graph.

TVM renames these spellings between releases, so no other file uses them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import SupportsInt, TypeGuard

import numpy as np
import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator

from tvmopt.errors import ShapeError


def is_call_to(expr: relax.Expr | None, *ops: str) -> TypeGuard[relax.Call]:
    """Say whether ``expr`` calls one of the Relax operators, such as ``"relax.matmul"``."""
    return isinstance(expr, relax.Call) and isinstance(expr.op, tvm.ir.Op) and expr.op.name in ops


def is_constant(expr: relax.Expr) -> bool:
    """Say whether ``expr`` is a constant tensor."""
    return isinstance(expr, tvm.ir.GenericConst)


def constant(expr: relax.Expr) -> np.ndarray | None:
    """Return the value of a constant tensor of any dtype, or None for anything else."""
    return expr.value.numpy() if isinstance(expr, tvm.ir.GenericConst) else None


def float_constant(expr: relax.Expr) -> np.ndarray | None:
    """Return the value of a constant floating-point tensor, or None for anything else."""
    value = constant(expr)
    return value if value is not None and np.issubdtype(value.dtype, np.floating) else None


def shape(expr: relax.Expr) -> tuple[int | str, ...]:
    """Return a tensor's shape; a dimension not known at compile time is given by its name."""
    return tuple(int(d) if isinstance(d, tvm.tirx.IntImm) else str(d) for d in expr.ty.shape)


def static_shape(expr: relax.Expr) -> tuple[int, ...]:
    """Return the shape of a tensor all of whose dimensions are known at compile time.

    Raises:
        ShapeError: One is not.
    """
    dims = shape(expr)
    known = tuple(d for d in dims if isinstance(d, int))
    if len(known) != len(dims):
        raise ShapeError(
            "every dimension must be known at compile time, "
            f"got ({', '.join(str(d) for d in dims)}); give the inputs' shapes"
        )
    return known


def pair(attribute: Iterable[SupportsInt]) -> tuple[int, int]:
    """Return a two-dimensional operator's attribute, such as strides: (vertical, horizontal)."""
    vertical, horizontal = (int(value) for value in attribute)
    return vertical, horizontal


def sides(padding: Iterable[SupportsInt]) -> tuple[int, int, int, int]:
    """Return a two-dimensional operator's padding: (top, left, bottom, right)."""
    top, left, bottom, right = (int(value) for value in padding)
    return top, left, bottom, right


def dtype(expr: relax.Expr) -> str:
    """Return a tensor's element type, such as ``"float32"``."""
    return str(expr.ty.dtype)


def permutation(call: relax.Call) -> list[int]:
    """Return which axis of its operand each axis of a ``relax.permute_dims`` is, from 0."""
    rank = len(shape(call.args[0]))
    axes = call.attrs.axes
    return list(range(rank))[::-1] if axes is None else [int(axis) % rank for axis in axes]


def same_type(a: relax.Expr, b: relax.Expr) -> bool:
    """Say whether both are tensors, of the same shape and element type."""
    both = isinstance(a.ty, relax.TensorType) and isinstance(b.ty, relax.TensorType)
    return both and dtype(a) == dtype(b) and shape(a) == shape(b)


def calls(mod: tvm.IRModule) -> Iterator[relax.Call]:
    """Yield every call in the Relax functions of ``mod``, operands before users."""
    found: list[relax.Call] = []
    for _, func in mod.functions_items():
        if isinstance(func, relax.Function):
            relax.analysis.post_order_visit(
                func, lambda e: found.append(e) if isinstance(e, relax.Call) else None
            )
    yield from found


def bindings(func: relax.Function) -> Iterator[tuple[relax.Var, relax.Expr]]:
    """Yield the variable and the value of each binding of ``func``, in order."""
    for block in func.body.blocks:
        for binding in block.bindings:
            yield binding.var, binding.value


def with_changes(
    call: relax.Call, args: Sequence[relax.Expr] | None = None, **attrs: object
) -> relax.Call:
    """Return the same call with other operands or with some attributes changed.

    Args:
        call: A call to a Relax operator.
        args: The new operands; None keeps the old ones.
        attrs: The attributes to change, by name.
    """
    new = call.attrs
    if attrs:
        # TVM has no copy-with-changes for attributes; the fields are on the FFI's type record.
        info = call.attrs.__tvm_ffi_type_info__
        fields = {field.name: getattr(call.attrs, field.name) for field in info.fields}
        assert attrs.keys() <= fields.keys(), f"{call.op.name} has no attributes {attrs.keys()}"
        new = tvm.ir.make_node(info.type_key, **(fields | attrs))
    return relax.Call(call.op, call.args if args is None else list(args), new, call.ty_args)


def rewrite_functions(mod: tvm.IRModule, mutator: PyExprMutator) -> tvm.IRModule:
    """Return the module that ``mutator``, built on ``mod``, makes of every Relax function."""
    for name, func in mod.functions_items():
        if isinstance(func, relax.Function):
            mutator.builder_.update_func(name, mutator.visit_expr(func))
    return mutator.builder_.get()


def scalar(expr: relax.Expr) -> float:
    """Return the number that an operator's attribute-like argument holds."""
    value = getattr(expr, "value", expr)
    return float(value.numpy()) if hasattr(value, "numpy") else float(value)


def substitute(expr: relax.Expr, names: dict[relax.Var, relax.Expr]) -> relax.Expr:
    """Return ``expr``, one binding's value or a tuple, with its variables replaced."""
    if isinstance(expr, relax.Var):
        return names[expr]
    if isinstance(expr, relax.Tuple):
        return relax.Tuple([substitute(field, names) for field in expr.fields])
    if isinstance(expr, relax.TupleGetItem):
        return relax.TupleGetItem(substitute(expr.tuple_value, names), expr.index)
    if isinstance(expr, relax.Call):
        args = [substitute(arg, names) for arg in expr.args]
        return relax.Call(expr.op, args, expr.attrs, expr.ty_args)
    return expr


def parameter_shapes(func: tvm.tirx.PrimFunc) -> list[tuple[int, ...]]:
    """Return the shape of each tensor that a PrimFunc takes, outputs last."""
    return [tuple(int(extent) for extent in param.shape) for param in func.params]


def unique_names(mod: tvm.IRModule) -> tvm.IRModule:
    """Return ``mod`` with no two parameters or bindings of "main" of one name.

    The first of a name keeps it, the others get a number; ``mod`` itself if all differ.

    Args:
        mod: Its "main" is a straight line of bindings.
    """
    func = mod["main"]
    seen = {param.name for param in func.params}
    names: dict[relax.Var, str] = {}
    for var, _ in bindings(func):
        name, number = var.name, 1
        while name in seen:
            name, number = f"{var.name}_{number}", number + 1
        seen.add(name)
        names[var] = name
    if all(var.name == name for var, name in names.items()):
        return mod
    new = mod.clone()
    new["main"] = _renamed(func, names)
    return new


def _renamed(func: relax.Function, names: dict[relax.Var, str]) -> relax.Function:
    builder = relax.BlockBuilder()
    env: dict[relax.Var, relax.Expr] = {param: param for param in func.params}
    with builder.function("main", list(func.params), attrs=dict(func.attrs or {})):
        with builder.dataflow():
            for var, value in bindings(func):
                emit = builder.emit_output if var.same_as(func.body.body) else builder.emit
                env[var] = emit(substitute(value, env), names[var])
            result = env.get(func.body.body)
            if result is None or isinstance(result, relax.DataflowVar):
                result = builder.emit_output(substitute(func.body.body, env))
        builder.emit_func_output(result)
    return builder.finalize()["main"]
