"""Plans, checked by playing them: memory holds the names of values instead of numbers."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tvmopt.codegen.graph import Call, Graph, Tensor, Value
from tvmopt.codegen.plan import (
    ALIGNMENT,
    COPY,
    Argument,
    Kernel,
    Plan,
    Space,
    align_up,
    tensor_bytes,
)
from tvmopt.codegen.planner import make_plan


def view(value: Value, length: int, *, column: bool = False) -> Tensor:
    return Tensor(value=value, dtype="float32", shape=(length, 1) if column else (length,))


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Return a random graph of kernels that read and write up to a few tensors each."""
    graph = Graph()
    known: list[Tensor] = []
    for i in range(draw(st.integers(1, 3))):
        tensor = view(Value(kind="input", index=i), draw(st.integers(1, 60)))
        graph.inputs.append((f"x{i}", tensor))
        known.append(tensor)
    for i in range(draw(st.integers(0, 2))):
        length = draw(st.integers(1, 60))
        graph.constants.append(np.full(length, i, "float32"))
        known.append(view(Value(kind="constant", index=i), length))
    for i in range(draw(st.integers(0, 12))):
        chosen = draw(st.lists(st.sampled_from(known), min_size=1, max_size=3))
        inputs = tuple(view(t.value, t.shape[0], column=draw(st.booleans())) for t in chosen)
        outputs = []
        for _ in range(draw(st.sampled_from([1, 1, 1, 2]))):
            value = Value(kind="result", index=graph.results)
            graph.results += 1
            outputs.append(view(value, draw(st.sampled_from([16, 17, 32, 60]))))
        inplace = tuple(range(len(inputs))) if len(outputs) == 1 and draw(st.booleans()) else ()
        kernel = Kernel(function=f"k{i}", name=f"k{i}")
        graph.calls.append(
            Call(
                layer=f"layer{i}",
                kernel=kernel,
                inputs=inputs,
                outputs=tuple(outputs),
                inplace=inplace,
            )
        )
        known += outputs
    graph.outputs = draw(st.lists(st.sampled_from(known), min_size=1, max_size=4))
    return graph


class Player:
    """Memory in units of 64 bytes, each holding the value that was written there last."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.cells: dict[tuple[Space, int, int], Value] = {}

    def span(self, argument: Argument) -> list[tuple[Space, int, int]]:
        size = tensor_bytes(argument.dtype, self.plan.shapes[argument.shape])
        place = argument.place
        first = place.offset // ALIGNMENT
        return [(place.space, place.port, first + i) for i in range(align_up(size) // ALIGNMENT)]

    def write(self, argument: Argument, value: Value) -> None:
        if argument.place.space == Space.ARENA:
            size = tensor_bytes(argument.dtype, self.plan.shapes[argument.shape])
            assert argument.place.offset + size <= self.plan.arena_bytes
        self.cells |= dict.fromkeys(self.span(argument), value)

    def check(self, argument: Argument, value: Value) -> None:
        if value.kind == "result":
            assert {self.cells.get(cell) for cell in self.span(argument)} == {value}
        else:
            assert argument.place.space == Space[value.kind.upper()]


@settings(derandomize=True, max_examples=400, deadline=None)
@given(graphs())
def test_every_step_reads_what_was_written_for_it(graph: Graph) -> None:
    names = [f"y{i}" for i in range(len(graph.outputs))]
    plan = make_plan(graph, [name for name, _ in graph.inputs], names)
    player = Player(plan)
    steps = list(plan.steps)
    for step, call in zip(steps, graph.calls, strict=False):
        arguments = iter(step.arguments)
        for tensor in call.inputs:
            player.check(next(arguments), tensor.value)
        for tensor in call.outputs:
            player.write(next(arguments), tensor.value)
    delivered = {}
    for port, tensor in enumerate(graph.outputs):
        cell = player.cells.get((Space.OUTPUT, port, 0))
        if cell == tensor.value:
            delivered[port] = tensor.value
    for step in steps[len(graph.calls) :]:
        assert plan.kernels[step.kernel] == COPY
        source, goal = step.arguments
        port = goal.place.port
        assert port not in delivered
        player.check(source, graph.outputs[port].value)
        delivered[port] = graph.outputs[port].value
    assert sorted(delivered) == list(range(len(graph.outputs)))


@settings(derandomize=True, max_examples=200, deadline=None)
@given(graphs())
def test_arena_is_at_most_the_sum_of_the_results(graph: Graph) -> None:
    names = [f"y{i}" for i in range(len(graph.outputs))]
    plan = make_plan(graph, [name for name, _ in graph.inputs], names)
    results = (t for call in graph.calls for t in call.outputs)
    assert plan.arena_bytes <= sum(align_up(tensor_bytes(t.dtype, t.shape)) for t in results)


def chain(length: int, inplace: tuple[int, ...], *, read_again: bool = False) -> Graph:
    """Return x -> k -> k -> ... -> y; the last call may read the first result once more."""
    x = view(Value(kind="input", index=0), 100)
    graph = Graph(inputs=[("x", x)])
    for i in range(length):
        y = view(Value(kind="result", index=i), 100)
        extra = (graph.calls[0].outputs[0],) if read_again and i == length - 1 else ()
        kernel = Kernel(function="k", name="k")
        graph.calls.append(
            Call(layer="k", kernel=kernel, inputs=(x, *extra), outputs=(y,), inplace=inplace)
        )
        x = y
    graph.outputs = [x]
    return graph


def test_kernels_that_allow_it_write_over_their_input() -> None:
    plan = make_plan(chain(6, (0,)), ["x"], ["y"])
    assert plan.arena_bytes == align_up(400)
    assert plan.aliased == {"k"}


def test_kernels_that_do_not_allow_it_get_two_buffers() -> None:
    plan = make_plan(chain(6, ()), ["x"], ["y"])
    assert plan.arena_bytes == 2 * align_up(400)
    assert plan.aliased == frozenset()


def test_the_callers_input_is_never_written_over() -> None:
    plan = make_plan(chain(2, (0,)), ["x"], ["y"])
    spaces = [[a.place.space for a in step.arguments] for step in plan.steps]
    assert spaces == [[Space.INPUT, Space.ARENA], [Space.ARENA, Space.OUTPUT]]


def test_a_value_that_is_read_again_is_not_written_over() -> None:
    plan = make_plan(chain(4, (0,), read_again=True), ["x"], ["y"])
    first = plan.steps[0].arguments[1].place
    assert plan.steps[1].arguments[1].place != first
    assert plan.steps[3].arguments[1].place == first


def test_equal_constants_are_stored_once() -> None:
    graph = Graph(constants=[np.arange(5.0), np.arange(5.0), np.arange(6.0)])
    graph.outputs = [view(Value(kind="constant", index=i), 5) for i in range(3)]
    plan = make_plan(graph, [], ["a", "b", "c"])
    assert [step.arguments[0].place.offset for step in plan.steps] == [0, 0, 64]
    assert plan.constants == np.arange(5.0).tobytes().ljust(64, b"\0") + np.arange(
        6.0
    ).tobytes().ljust(64, b"\0")


def test_equal_shapes_share_a_slot() -> None:
    plan = make_plan(chain(5, ()), ["x"], ["y"])
    assert plan.shapes == ((100,),)
