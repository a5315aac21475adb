"""Plans, checked by playing them: memory holds the names of values instead of numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvmopt.codegen.graph import Call, Graph, Tensor, Value, View
from tvmopt.codegen.plan import (
    ALIGNMENT,
    COPY,
    Argument,
    Kernel,
    Plan,
    Space,
    Step,
    align_up,
    tensor_bytes,
)
from tvmopt.codegen.planner import make_plan
from tvmopt.errors import UnsupportedError
from tvmopt.kernels.rows import Rows


def view(value: Value, length: int, *, column: bool = False) -> Tensor:
    return Tensor(value=value, dtype="float32", shape=(length, 1) if column else (length,))


def add_call(
    graph: Graph,
    inputs: tuple[Tensor, ...],
    lengths: list[int],
    *,
    inplace: tuple[int, ...] = (),
    how: View | None = None,
) -> list[Tensor]:
    """Append a call and return its results."""
    outputs = []
    for length in lengths:
        outputs.append(view(Value(kind="result", index=graph.results), length))
        graph.results += 1
    number = len(graph.calls)
    graph.calls.append(
        Call(
            layer=f"layer{number}",
            kernel=Kernel(function=f"k{number}", name=f"k{number}"),
            inputs=inputs,
            outputs=tuple(outputs),
            inplace=inplace,
            view=how,
        )
    )
    return outputs


def add_view(graph: Graph, draw: st.DrawFn, chosen: list[Tensor]) -> list[Tensor]:
    """Append a join of tensors, or a cut of the first, mostly at places that need no copy."""
    if draw(st.booleans()):
        inputs = tuple(view(t.value, t.shape[0]) for t in chosen)
        return add_call(graph, inputs, [sum(t.shape[0] for t in inputs)], how=View(kind="join"))
    length = chosen[0].shape[0]
    first = draw(st.sampled_from([0, 0, 16, 32, 5])) % length
    count = draw(st.integers(1, length - first))
    how = View(kind="part", offset=4 * first)
    return add_call(graph, (view(chosen[0].value, length),), [count], how=how)


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Return a random graph of kernels that read and write up to a few tensors each, and views."""
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
    for _ in range(draw(st.integers(0, 12))):
        chosen = draw(st.lists(st.sampled_from(known), min_size=1, max_size=3))
        if draw(st.sampled_from([False, False, True])):
            known += add_view(graph, draw, chosen)
            continue
        inputs = tuple(view(t.value, t.shape[0], column=draw(st.booleans())) for t in chosen)
        count = draw(st.sampled_from([1, 1, 1, 2]))
        lengths = [draw(st.sampled_from([16, 17, 32, 60])) for _ in range(count)]
        inplace = tuple(range(len(inputs))) if count == 1 and draw(st.booleans()) else ()
        known += add_call(graph, inputs, lengths, inplace=inplace)
    graph.outputs = draw(st.lists(st.sampled_from(known), min_size=1, max_size=4))
    return graph


# What a word of memory holds: which value a kernel wrote, or the caller, and which word of it.
Word = tuple[Value, int]


def words_of(graph: Graph) -> dict[Value, list[Word]]:
    """Return what each value consists of, views seen through."""
    words: dict[Value, list[Word]] = {}

    def own(tensor: Tensor) -> None:
        words[tensor.value] = [(tensor.value, i) for i in range(tensor.shape[0])]

    for _, tensor in graph.inputs:
        own(tensor)
    for i, array in enumerate(graph.constants):
        own(view(Value(kind="constant", index=i), len(array)))
    for call in graph.calls:
        if call.view is None:
            for tensor in call.outputs:
                own(tensor)
            continue
        joined = [word for tensor in call.inputs for word in words[tensor.value]]
        (result,) = call.outputs
        first = call.view.offset // 4
        words[result.value] = joined[first : first + result.shape[0]]
    return words


class Player:
    """Memory in words of 4 bytes, each holding what was written there last."""

    def __init__(self, plan: Plan, graph: Graph) -> None:
        self.plan = plan
        self.words = words_of(graph)
        self.cells: dict[tuple[Space, int, int], Word] = {}
        for number, (_, tensor) in enumerate(graph.inputs):
            self.fill((Space.INPUT, number, 0), self.words[tensor.value])
        for call in graph.calls:
            for tensor in (*call.inputs, *call.outputs):
                assert tensor.value in self.words

    def fill(self, first: tuple[Space, int, int], words: list[Word]) -> None:
        space, port, at = first
        self.cells |= {(space, port, at + i): word for i, word in enumerate(words)}

    def span(self, argument: Argument) -> list[tuple[Space, int, int]]:
        size = tensor_bytes(argument.dtype, self.plan.shapes[argument.shape])
        place = argument.place
        assert place.offset % 4 == 0
        return [(place.space, place.port, place.offset // 4 + i) for i in range(size // 4)]

    def write(self, argument: Argument, words: list[Word]) -> None:
        if argument.place.space == Space.ARENA:
            size = tensor_bytes(argument.dtype, self.plan.shapes[argument.shape])
            assert argument.place.offset + size <= self.plan.arena_bytes
        assert argument.place.space in (Space.ARENA, Space.OUTPUT)
        self.cells |= dict(zip(self.span(argument), words, strict=True))

    def read(self, argument: Argument) -> list[Word]:
        if argument.place.space == Space.CONSTANT:
            return self.constant(argument)
        return [self.cells[cell] for cell in self.span(argument)]

    def constant(self, argument: Argument) -> list[Word]:
        """Return the words of the constant there; equal ones share their place."""
        at = argument.place.offset
        size = tensor_bytes(argument.dtype, self.plan.shapes[argument.shape])
        data = np.frombuffer(self.plan.constants[at : at + size], "float32")
        index = int(data[0])
        assert (data == index).all()
        return [(Value(kind="constant", index=index), -1)] * len(data)

    def delivered(self, port: int, length: int) -> list[Word]:
        return [self.cells[Space.OUTPUT, port, i] for i in range(length)]

    def check(self, got: list[Word], value: Value) -> None:
        assert len(got) == len(self.words[value])
        for have, want in zip(got, self.words[value], strict=True):
            assert have == want or (have[0] == want[0] and have[1] == -1)

    def copy(self, step: Step) -> None:
        source, goal = step.arguments
        words = self.read(source)
        self.write(goal, words)

    def call(self, step: Step, call: Call) -> None:
        assert self.plan.kernels[step.kernel] == call.kernel
        arguments = iter(step.arguments)
        for tensor in call.inputs:
            argument = next(arguments)
            assert argument.place.offset % ALIGNMENT == 0
            self.check(self.read(argument), tensor.value)
        for tensor in call.outputs:
            argument = next(arguments)
            assert argument.place.offset % ALIGNMENT == 0
            self.write(argument, self.words[tensor.value])


@settings(derandomize=True, max_examples=400, deadline=None)
@given(graphs())
def test_every_step_reads_what_was_written_for_it(graph: Graph) -> None:
    names = [f"y{i}" for i in range(len(graph.outputs))]
    plan = make_plan(graph, [name for name, _ in graph.inputs], names)
    player = Player(plan, graph)
    calls = iter([call for call in graph.calls if call.view is None])
    for step in plan.steps:
        if plan.kernels[step.kernel] == COPY:
            player.copy(step)
        else:
            player.call(step, next(calls))
    assert next(calls, None) is None
    for port, tensor in enumerate(graph.outputs):
        player.check(player.delivered(port, tensor.shape[0]), tensor.value)


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


def joined(*lengths: int) -> Graph:
    """Return kernels of x whose results are joined and then read by one."""
    x = view(Value(kind="input", index=0), 8)
    graph = Graph(inputs=[("x", x)])
    pieces = tuple(add_call(graph, (x,), [length])[0] for length in lengths)
    (whole,) = add_call(graph, pieces, [sum(lengths)], how=View(kind="join"))
    graph.outputs = add_call(graph, (whole,), [8])
    return graph


def test_kernels_write_into_what_their_results_are_joined_to() -> None:
    plan = make_plan(joined(32, 16, 7), ["x"], ["y"])
    first, second, third, last = (step.arguments for step in plan.steps)  # no step joins
    assert [a[1].place.offset for a in (first, second, third)] == [0, 128, 192]
    assert last[0].place == first[1].place
    assert plan.arena_bytes == align_up(4 * 55)


def test_a_piece_that_would_lie_off_the_alignment_is_copied() -> None:
    plan = make_plan(joined(7, 32), ["x"], ["y"])
    names = [plan.kernels[step.kernel].name for step in plan.steps]
    assert names == ["k0", "k1", "copy", "k3"]
    source, goal = plan.steps[2].arguments
    assert (source.place, plan.shapes[source.shape]) == (plan.steps[1].arguments[1].place, (32,))
    assert goal.place.offset == plan.steps[0].arguments[1].place.offset + 28


def test_a_part_is_read_where_it_lies() -> None:
    x = view(Value(kind="input", index=0), 64)
    graph = Graph(inputs=[("x", x)])
    (part,) = add_call(graph, (x,), [32], how=View(kind="part", offset=64))
    graph.outputs = add_call(graph, (part,), [8])
    (step,) = make_plan(graph, ["x"], ["y"]).steps
    place = step.arguments[0].place
    assert (place.space, place.offset) == (Space.INPUT, 64)


def test_what_is_joined_to_an_output_is_written_into_it() -> None:
    graph = joined(16, 16)
    graph.calls.pop()
    graph.outputs = [graph.calls[-1].outputs[0]]
    plan = make_plan(graph, ["x"], ["y"])
    places = [step.arguments[1].place for step in plan.steps]
    assert [(p.space, p.offset) for p in places] == [(Space.OUTPUT, 0), (Space.OUTPUT, 64)]
    assert plan.arena_bytes == 0


def test_a_value_that_has_parts_still_alive_is_not_written_over() -> None:
    x = view(Value(kind="input", index=0), 32)
    graph = Graph(inputs=[("x", x)])
    (whole,) = add_call(graph, (x,), [32])
    (part,) = add_call(graph, (whole,), [16], how=View(kind="part", offset=64))
    (other,) = add_call(graph, (whole,), [32], inplace=(0,))
    graph.outputs = add_call(graph, (part, other), [8])
    plan = make_plan(graph, ["x"], ["y"])
    assert plan.aliased == frozenset()
    assert plan.arena_bytes == 2 * align_up(128)


def rows_joined(*widths: int, places: tuple[Rows | None, ...]) -> Graph:
    """Return kernels of x whose results, rows of those widths, are joined row by row and read."""
    x = view(Value(kind="input", index=0), 8)
    graph = Graph(inputs=[("x", x)])
    pieces = []
    for width, rows in zip(widths, places, strict=True):
        (piece,) = add_call(graph, (x,), [3 * width])
        placed = replace(piece, shape=(3, width), rows=rows)
        graph.calls[-1] = replace(graph.calls[-1], outputs=(placed,))
        pieces.append(placed)
    total = sum(widths)
    (whole,) = add_call(graph, tuple(pieces), [3 * total], how=View(kind="join rows"))
    whole = replace(whole, shape=(3, total))
    graph.calls[-1] = replace(graph.calls[-1], outputs=(whole,))
    graph.outputs = add_call(graph, (whole,), [8])
    return graph


def test_kernels_write_rows_into_the_wider_ones() -> None:
    places = Rows.within(7, 0, 4), Rows.within(7, 5, 4)
    plan = make_plan(rows_joined(5, 2, places=places), ["x"], ["y"])
    first, second, last = (step.arguments for step in plan.steps)  # no step joins
    assert [first[1].place.offset, second[1].place.offset] == [0, 20]
    assert last[0].place == first[1].place
    assert plan.arena_bytes == align_up(4 * 21)


def test_a_join_runs_where_it_has_rows_to_copy() -> None:
    places = Rows.within(7, 0, 4), None
    plan = make_plan(rows_joined(5, 2, places=places), ["x"], ["y"])
    assert [plan.kernels[step.kernel].name for step in plan.steps] == ["k0", "k1", "k2", "k3"]
    first, dense, whole = plan.steps[2].arguments
    assert first.place == whole.place != dense.place


def test_a_cut_of_rows_is_read_where_it_lies() -> None:
    x = Tensor(value=Value(kind="input", index=0), dtype="float32", shape=(3, 7))
    graph = Graph(inputs=[("x", x)])
    (cut,) = add_call(graph, (x,), [6], how=View(kind="cut rows", offset=20))
    cut = replace(cut, shape=(3, 2), rows=Rows.within(7, 5, 4))
    graph.calls[-1] = replace(graph.calls[-1], outputs=(cut,))
    graph.outputs = add_call(graph, (cut,), [8])
    (step,) = make_plan(graph, ["x"], ["y"]).steps
    place = step.arguments[0].place
    assert (place.space, place.offset) == (Space.INPUT, 20)


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ((Rows.within(7, 0, 4), Rows.within(9, 5, 4)), "with the pitch 7, got .* with 9"),
        ((Rows.within(7, 0, 4), Rows.within(7, 8, 4)), "at a multiple of 32 bytes, got 7, 20"),
    ],
    ids=["pitch", "place"],
)
def test_kernels_that_disagree_about_rows_are_refused(
    places: tuple[Rows, ...], message: str
) -> None:
    with pytest.raises(UnsupportedError, match=message):
        make_plan(rows_joined(5, 2, places=places), ["x"], ["y"])


def test_a_kernel_that_knows_nothing_of_wider_rows_is_refused() -> None:
    graph = rows_joined(5, 2, places=(Rows.within(7, 0, 4), Rows.within(7, 5, 4)))
    first = graph.calls[0].outputs[0]
    graph.outputs = [*graph.outputs, *add_call(graph, (replace(first, rows=None),), [8])]
    with pytest.raises(UnsupportedError, match="must lie as its kernels expect, None apart"):
        make_plan(graph, ["x"], ["y", "z"])
