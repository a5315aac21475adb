"""Write a program's stages out as loops."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import tvm_ffi
from tvm import tirx
from tvm.ir import Expr, TensorLoad
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T  # noqa: N812  (TVM's own name for it)

from tvmopt.schedule import elementwise, rows
from tvmopt.schedule.expressions import structural_key, substitute
from tvmopt.schedule.groups import Group, form_groups
from tvmopt.schedule.inline import Expander, Scope, stored_stages
from tvmopt.schedule.nests import Body, Nest, Storage, merge
from tvmopt.schedule.predict import predict_cycles
from tvmopt.schedule.stages import Program, Stage, shape
from tvmopt.targets.description import CpuTarget


def emit(program: Program, target: CpuTarget) -> tirx.PrimFunc:
    """Return a PrimFunc with the program's parameters that computes it."""
    groups = form_groups(_bodies(program), most_local_elements=target.l2_bytes // 8)
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        T.func_attr({"tirx.noalias": True})
        scratch = _emit_groups(program, groups, target)
    func = builder.get().without_attr("global_symbol")  # its name is the module's to give
    if scratch:
        func = func.with_attr("tvmopt.scratch_bytes", scratch)
    inplace = _inplace(program, groups)
    bodies = [body for group in groups for body in group.bodies]
    cycles = predict_cycles(program, bodies, inplace, target)
    func = func.with_attr("tvmopt.cycles", round(cycles))
    return func.with_attr("tvmopt.inplace", inplace) if inplace else func


def _inplace(program: Program, groups: list[Group]) -> list[int]:
    """Return the parameters whose buffer the output may share.

    Each element of the output may depend on the same element of the parameter, but on no other.
    """
    if len(groups) != 1 or len(groups[0].bodies) != 1:
        return []
    (body,) = groups[0].bodies
    if body.stage.start:
        return []
    output = body.stage.buffers[0]
    return [
        number
        for number, param in enumerate(program.params)
        if param not in program.outputs
        and (shape(param), param.dtype) == (shape(output), output.dtype)
        and _only_reads(body, param, body.stage.indices)
    ]


def _only_reads(body: Body, param: tirx.Buffer, indices: Sequence[Expr]) -> bool:
    reads = [load for load in body.reads if load.source == param]
    wanted = structural_key(list(indices))
    return bool(reads) and all(structural_key(list(r.indices)) == wanted for r in reads)


def _bodies(program: Program) -> list[Body]:
    stored = stored_stages(program)
    expander = Expander(program, stored)
    bodies = []
    for stage in stored:
        scope = Scope()
        values = tuple(expander.expand(value, scope) for value in stage.values)
        bodies.append(Body(stage=stage, bindings=tuple(scope.bindings), values=values))
    return bodies


def _emit_groups(program: Program, groups: list[Group], target: CpuTarget) -> int:
    """Emit parameters, buffers that cross groups, and the groups; return the scratch bytes."""
    storage: dict[tirx.Buffer, Storage] = {}
    params = [T.arg(b.name, T.buffer(shape(b), b.dtype)) for b in program.params]
    for buffer, param in zip(program.params, params, strict=True):
        view = T.decl_buffer((prod(shape(buffer)),), buffer.dtype, data=param.data)
        storage[buffer] = _whole(buffer, view)
    scratch = 0
    for buffer in _crossing(groups):
        if buffer not in storage:
            size = prod(shape(buffer))
            storage[buffer] = _whole(buffer, T.alloc_buffer((size,), buffer.dtype))
            scratch += size * rows.item_bytes(buffer.dtype)
    return scratch + max(_emit_group(group, storage, target) for group in groups)


def _whole(buffer: tirx.Buffer, view: tirx.Buffer) -> Storage:
    return Storage(flat=view, dimensions=tuple(range(len(buffer.shape))))


def _crossing(groups: list[Group]) -> list[tirx.Buffer]:
    """Return the buffers that one group writes and a later one reads."""
    written: list[tirx.Buffer] = []
    found: dict[tirx.Buffer, None] = {}
    for group in groups:
        for body in group.bodies:
            found |= {load.source: None for load in body.reads if load.source in written}
        written += [buffer for body in group.bodies for buffer in body.stage.buffers]
    return list(found)


def _emit_group(group: Group, storage: dict[tirx.Buffer, Storage], target: CpuTarget) -> int:
    """Emit one group; return the bytes that one of its tasks allocates."""
    places = dict(storage)
    local = []
    for body, names in zip(group.bodies, group.names, strict=True):
        for buffer in body.stage.buffers:
            if buffer not in places:
                places[buffer] = _local(buffer, body.stage, names)
                local.append(places[buffer].flat)
    nests = [
        _nest(body, names, places) for body, names in zip(group.bodies, group.names, strict=True)
    ]
    if not local and not any(nest.spatial or nest.start for nest in nests):
        elementwise.emit(group.shared, nests, target)
        return 0
    shared, replaced = merge(group.shared, nests)
    return rows.emit(shared, [nest.substitute(replaced) for nest in nests], local, target)


def _local(buffer: tirx.Buffer, stage: Stage, names: dict[tirx.Var, tirx.Var]) -> Storage:
    """Return the place of a buffer of which one round of the shared loops needs only a part."""
    kept = tuple(
        d for d, own in enumerate(stage.indices) if isinstance(own, tirx.Var) and own not in names
    )
    size = prod(shape(buffer)[d] for d in kept)
    return Storage(flat=tirx.decl_buffer((size,), buffer.dtype, buffer.name), dimensions=kept)


def _nest(body: Body, names: dict[tirx.Var, tirx.Var], places: dict[tirx.Buffer, Storage]) -> Nest:
    stage = body.stage

    def place(value: Expr) -> Expr:
        def load(node: TensorLoad) -> Expr:
            found = places[node.source]
            return tirx.BufferLoad(found.flat, [found.offset(node.source, node.indices)])

        return tvm_ffi.structural_map(substitute(value, names), (TensorLoad, load))

    return Nest(
        spatial=tuple(axis for axis in stage.spatial if axis.var not in names),
        reduce=stage.reduce,
        bindings=tuple((var, place(value)) for var, value in body.bindings),
        start=tuple(place(value) for value in stage.start),
        partials=stage.partials,
        values=tuple(place(value) for value in body.values),
        targets=tuple(
            (
                places[buffer].flat,
                substitute(places[buffer].offset(buffer, stage.indices), names),
            )
            for buffer in stage.buffers
        ),
    )
