"""Turn a graph's calls into a plan: where every value lies, and the copies that outputs need."""

from __future__ import annotations

from collections.abc import Sequence

from tvmopt.codegen import memory
from tvmopt.codegen.constants import ConstantPool
from tvmopt.codegen.graph import Call, Graph, Tensor, Value
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


def _direct_outputs(graph: Graph) -> dict[Value, int]:
    """Return which results are written straight into which output: the first that asks."""
    ports: dict[Value, int] = {}
    for port, tensor in enumerate(graph.outputs):
        if tensor.value.kind == "result":
            ports.setdefault(tensor.value, port)
    return ports


def _last_uses(graph: Graph) -> dict[Value, int]:
    """Return the last call that touches each value; a value that outputs copy lives on."""
    last: dict[Value, int] = {}
    for step, call in enumerate(graph.calls):
        last |= {tensor.value: step for tensor in (*call.inputs, *call.outputs)}
    return last | {tensor.value: len(graph.calls) for tensor in graph.outputs}


class _ArenaPlan:
    """Buffers for the results that are not outputs; some results take over a dying input's."""

    def __init__(self, graph: Graph, direct: dict[Value, int]) -> None:
        self.direct = direct
        self.last = _last_uses(graph)
        self.owner: dict[Value, int] = {}  # value -> index of its buffer
        self.buffers: list[memory.Buffer] = []
        self.aliased: set[str] = set()
        for step, call in enumerate(graph.calls):
            for tensor in call.outputs:
                if tensor.value not in direct:
                    self._assign(step, call, tensor)

    def _assign(self, step: int, call: Call, tensor: Tensor) -> None:
        last = self.last[tensor.value]
        index = self._dying_input(step, call, _size(tensor))
        if index is None:
            self.owner[tensor.value] = len(self.buffers)
            self.buffers.append(memory.Buffer(size=_size(tensor), first=step, last=last))
            return
        old = self.buffers[index]
        self.owner[tensor.value] = index
        self.buffers[index] = memory.Buffer(size=old.size, first=old.first, last=last)
        assert call.kernel.function is not None
        self.aliased.add(call.kernel.function)

    def _dying_input(self, step: int, call: Call, size: int) -> int | None:
        """Return the buffer of an input that the output may overwrite, if there is one."""
        for i in call.inplace:
            value = call.inputs[i].value
            index = self.owner.get(value)
            uses = sum(tensor.value == value for tensor in call.inputs)
            if index is None or uses != 1 or self.last[value] != step:
                continue
            # The aligned size decides: a buffer owns its padding.
            if align_up(self.buffers[index].size) >= align_up(size):
                return index
        return None


class _Planner:
    """Collects the tables of a plan."""

    def __init__(self, graph: Graph) -> None:
        self.direct = _direct_outputs(graph)
        self.arena = _ArenaPlan(graph, self.direct)
        self.offsets, self.arena_bytes = memory.place(self.arena.buffers)
        self.constants = ConstantPool()
        self.constant_offsets = [self.constants.add(value) for value in graph.constants]
        self.shapes: dict[tuple[int, ...], int] = {}
        self.kernels: dict[Kernel, int] = {}

    def place(self, value: Value) -> Place:
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
    takes over an input its kernel allows it to ("tvmopt.inplace").
    """
    planner = _Planner(graph)
    steps = [
        planner.step(
            call.layer,
            call.kernel,
            [planner.argument(tensor) for tensor in (*call.inputs, *call.outputs)],
        )
        for call in graph.calls
    ]
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
