"""Turn a graph's calls into a plan: where every value lies, and the copies that outputs need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tvmopt.codegen import memory
from tvmopt.codegen.constants import ConstantPool
from tvmopt.codegen.graph import Call, Graph, Tensor, Value
from tvmopt.codegen.parts import Parts, Piece, find_parts
from tvmopt.codegen.plan import (
    COPY,
    Argument,
    Block,
    Kernel,
    Place,
    Plan,
    Port,
    Space,
    Step,
    align_up,
    tensor_bytes,
)


def _size(tensor: Tensor) -> int:
    return tensor_bytes(tensor.dtype, tensor.shape)


def _direct_outputs(graph: Graph, parts: Parts) -> dict[Value, int]:
    """Return which results are written straight into which output: the first that asks."""
    ports: dict[Value, int] = {}
    for port, tensor in enumerate(graph.outputs):
        if tensor.value.kind == "result" and not parts.is_part(tensor.value):
            ports.setdefault(tensor.value, port)
    return ports


def _last_uses(graph: Graph, parts: Parts) -> dict[Value, int]:
    """Return the last call that touches each value or a part of it; an output's copy is later."""
    last: dict[Value, int] = {}
    for step, call in enumerate(graph.calls):
        for tensor in (*call.inputs, *call.outputs):
            last[parts.root(tensor.value)[0]] = step
    return last | {parts.root(tensor.value)[0]: len(graph.calls) for tensor in graph.outputs}


class _ArenaPlan:
    """Buffers for the results that are not outputs; some results take over a dying input's.

    A value and all its parts have one buffer, from the first that is written to the last read.
    """

    def __init__(self, graph: Graph, direct: dict[Value, int], parts: Parts) -> None:
        self.direct = direct
        self.parts = parts
        self.last = _last_uses(graph, parts)
        self.sizes = {t.value: _size(t) for call in graph.calls for t in call.outputs}
        self.owner: dict[Value, int] = {}  # value that is no part -> index of its buffer
        self.buffers: list[memory.Buffer] = []
        self.aliased: set[str] = set()
        for step, call in enumerate(graph.calls):
            for tensor in call.outputs:
                self._assign(step, call, tensor.value)

    def _assign(self, step: int, call: Call, value: Value) -> None:
        root = self.parts.root(value)[0]
        if root.kind != "result" or root in self.direct or root in self.owner:
            return
        last, size = self.last[root], self.sizes[root]
        index = self._dying_input(step, call, size) if root == value else None
        if index is None:
            self.owner[root] = len(self.buffers)
            self.buffers.append(memory.Buffer(size=size, first=step, last=last))
            return
        old = self.buffers[index]
        self.owner[root] = index
        self.buffers[index] = memory.Buffer(size=old.size, first=old.first, last=last)
        assert call.kernel.function is not None
        self.aliased.add(call.kernel.function)

    def _dying_input(self, step: int, call: Call, size: int) -> int | None:
        """Return the buffer of an input that the output may overwrite, if there is one."""
        for i in call.inplace:
            value = call.inputs[i].value
            index = self.owner.get(value)
            uses = sum(self.parts.root(tensor.value)[0] == value for tensor in call.inputs)
            if index is None or uses != 1 or self.last[value] != step:
                continue
            # The aligned size decides: a buffer owns its padding.
            if align_up(self.buffers[index].size) >= align_up(size):
                return index
        return None


class _Planner:
    """Collects the tables of a plan."""

    def __init__(self, graph: Graph) -> None:
        self.parts = find_parts(graph)
        self.direct = _direct_outputs(graph, self.parts)
        self.arena = _ArenaPlan(graph, self.direct, self.parts)
        self.offsets, self.arena_bytes = memory.place(self.arena.buffers)
        self.constants = ConstantPool()
        self.constant_offsets = [self.constants.add(value) for value in graph.constants]
        self.shapes: dict[tuple[int, ...], int] = {}
        self.kernels: dict[Kernel, int] = {}

    def place(self, value: Value, offset: int = 0) -> Place:
        """Return where the byte ``offset`` of a value lies."""
        root, first = self.parts.root(value)
        whole = self._whole(root)
        return replace(whole, offset=whole.offset + first + offset)

    def _whole(self, value: Value) -> Place:
        if value.kind == "input":
            return Place(space=Space.INPUT, port=value.index)
        if value.kind == "constant":
            return Place(space=Space.CONSTANT, offset=self.constant_offsets[value.index])
        if value in self.direct:
            return Place(space=Space.OUTPUT, port=self.direct[value])
        return Place(space=Space.ARENA, offset=self.offsets[self.arena.owner[value]])

    def argument(self, tensor: Tensor, place: Place | None = None) -> Argument:
        return Argument(
            place=place or self.place(tensor.value),
            dtype=tensor.dtype,
            shape=self.shapes.setdefault(tensor.shape, len(self.shapes)),
        )

    def calls(self, call: Call) -> list[Step]:
        """Return what is left to do of a call: of a view, the copies of what could not stay."""
        kind = None if call.view is None else call.view.kind
        within = kind == "join rows" and all(tensor.rows is not None for tensor in call.inputs)
        if kind == "cut rows" or within:
            return []
        if kind in ("join", "part"):
            (result,) = call.outputs
            pieces = self.parts.copies.get(result.value, [])
            return [self._copy(call.layer, piece, result.value) for piece in pieces]
        tensors = (*call.inputs, *call.outputs)
        return [self.step(call.layer, call.kernel, [self.argument(tensor) for tensor in tensors])]

    def _copy(self, layer: str, piece: Piece, target: Value) -> Step:
        ends = (
            self.place(piece.source, piece.source_offset),
            self.place(target, piece.target_offset),
        )
        return self.step(layer, COPY, [self.argument(piece.form, place) for place in ends])

    def step(self, layer: str, kernel: Kernel, arguments: Sequence[Argument]) -> Step:
        number = self.kernels.setdefault(kernel, len(self.kernels))
        return Step(layer=layer, kernel=number, arguments=tuple(arguments))


def _copies(planner: _Planner, graph: Graph, names: Sequence[str]) -> list[Step]:
    """Return a step for each output that no kernel writes: it is an input, a constant, or twice."""
    steps = []
    for port, tensor in enumerate(graph.outputs):
        if planner.direct.get(tensor.value) != port:
            target = planner.argument(tensor, Place(space=Space.OUTPUT, port=port))
            steps.append(planner.step(names[port], COPY, [planner.argument(tensor), target]))
    return steps


def make_plan(graph: Graph, input_names: Sequence[str], output_names: Sequence[str]) -> Plan:
    """Return the plan for ``graph``; names are given because Relax variables may differ from them.

    In the plan no two values that live during the same step share memory, but for an output that
    takes over an input its kernel allows it to ("tvmopt.inplace"), and for what a view joins or
    cuts ("tvmopt.view").
    """
    planner = _Planner(graph)
    steps = [step for call in graph.calls for step in planner.calls(call)]
    steps += _copies(planner, graph, output_names)
    inputs = [tensor for _, tensor in graph.inputs]
    return Plan(
        inputs=_ports(input_names, inputs),
        outputs=_ports(output_names, graph.outputs),
        kernels=tuple(planner.kernels),
        blocks=(Block(steps=tuple(steps)),),
        shapes=tuple(planner.shapes),
        constants=planner.constants.blob(),
        arena_bytes=planner.arena_bytes,
        aliased=frozenset(planner.arena.aliased),
    )


def _ports(names: Sequence[str], tensors: Sequence[Tensor]) -> tuple[Port, ...]:
    return tuple(
        Port(name=name, dtype=tensor.dtype, shape=tensor.shape)
        for name, tensor in zip(names, tensors, strict=True)
    )
