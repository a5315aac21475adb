"""Which values lie within others: what a graph only joins or cuts needs no copy.

A join's inputs are written straight into their places in its result, and a cut's result is read
where it lies in its input::

    a = k0(x); b = k1(x); c = join(a, b)      a and b are parts of c
    c = k2(x); b = part(c, from byte 128)     b is a part of c

A value is part of one other at most, and starts at a multiple of ``ALIGNMENT``; what does not fit
that is copied. Where tensors are joined or cut row by row, a part is one whose kernels expect its
rows within the wider ones; where it starts is what they expect too.

Source: none; derived here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tvmopt.codegen.graph import Call, Graph, Tensor, Value
from tvmopt.codegen.plan import ALIGNMENT, tensor_bytes
from tvmopt.errors import UnsupportedError


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """Bytes that a view has to copy.

    Attributes:
        source: The value they are in.
        source_offset: Where they begin there, bytes.
        target_offset: Where they go in the view's result, bytes.
        form: Shape and type of them alone.
    """

    source: Value
    source_offset: int
    target_offset: int
    form: Tensor


@dataclass(slots=True)
class Parts:
    """The values of a graph that lie within others.

    Attributes:
        parents: The value that a part lies in, and from which byte on.
        pitches: Elements between the rows' starts of each part that lies in rows of another.
        copies: What each view copies, by its result.
    """

    parents: dict[Value, tuple[Value, int]] = field(default_factory=dict)
    pitches: dict[Value, int] = field(default_factory=dict)
    copies: dict[Value, list[Piece]] = field(default_factory=dict)

    def root(self, value: Value) -> tuple[Value, int]:
        """Return the value that is part of no other and holds ``value``, and from which byte on."""
        offset = 0
        while value in self.parents:
            value, first = self.parents[value]
            offset += first
        return value, offset

    def is_part(self, value: Value) -> bool:
        """Say whether ``value`` lies within another."""
        return value in self.parents

    def _join(self, call: Call, returned: set[Value]) -> None:
        (joined,) = call.outputs
        offset = 0
        for tensor in call.inputs:
            value = tensor.value
            # What the caller gave or gets has a place already, and so has another's part.
            free = value.kind == "result" and value not in returned and value not in self.parents
            if free and offset % ALIGNMENT == 0:
                self.parents[value] = (joined.value, offset)
            else:
                piece = Piece(source=value, source_offset=0, target_offset=offset, form=tensor)
                self.copies.setdefault(joined.value, []).append(piece)
            offset += tensor_bytes(tensor.dtype, tensor.shape)

    def _cut(self, call: Call, offset: int) -> None:
        (source,), (cut,) = call.inputs, call.outputs
        if offset % ALIGNMENT == 0:
            self.parents[cut.value] = (source.value, offset)
        else:
            piece = Piece(source=source.value, source_offset=offset, target_offset=0, form=cut)
            self.copies[cut.value] = [piece]

    def _join_rows(self, call: Call) -> None:
        (joined,) = call.outputs
        offset = 0
        for tensor in call.inputs:
            if tensor.rows is not None:
                self._place_rows(tensor, joined, offset, call.layer)
            offset += tensor_bytes(tensor.dtype, tensor.shape[-1:])

    def _place_rows(self, part: Tensor, whole: Tensor, offset: int, layer: str) -> None:
        free = part.value.kind == "result" and not self.is_part(part.value)
        if not free or part.pitch != whole.pitch:
            raise UnsupportedError(
                f"{layer}: a part must be a result of its own with the pitch {whole.pitch}, got "
                f"{part.value} with {part.pitch}"
            )
        self.parents[part.value] = (whole.value, offset)
        self.pitches[part.value] = part.pitch

    def _check(self, tensor: Tensor, place: str) -> None:
        """Raise where a kernel expects a value's rows elsewhere than they lie."""
        pitch = self.pitches.get(tensor.value)
        wanted = None if tensor.rows is None else tensor.rows.pitch
        align = ALIGNMENT if tensor.rows is None else tensor.rows.align
        if pitch != wanted or self.root(tensor.value)[1] % align:
            raise UnsupportedError(
                f"{place}: the rows of {tensor.value} must lie as its kernels expect, {wanted} "
                f"apart at a multiple of {align} bytes, got {pitch}, {self.root(tensor.value)[1]}"
            )


def find_parts(graph: Graph) -> Parts:
    """Return which values become parts of others, and what views still have to copy.

    Raises:
        UnsupportedError: Kernels disagree about where a value's rows lie.
    """
    parts = Parts()
    returned = {tensor.value for tensor in graph.outputs}
    for call in graph.calls:
        if call.view is None:
            continue
        if call.view.kind == "join":
            parts._join(call, returned)
        elif call.view.kind == "part":
            parts._cut(call, call.view.offset)
        elif call.view.kind == "join rows":
            parts._join_rows(call)
        else:
            parts._place_rows(call.outputs[0], call.inputs[0], call.view.offset, call.layer)
    for call in graph.calls:
        for tensor in (*call.inputs, *call.outputs):
            parts._check(tensor, call.layer)
    for tensor in graph.outputs:
        parts._check(tensor, "the result")
    return parts
