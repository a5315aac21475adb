"""A block of a net as a function of the constants that are tuned, with its derivative.

Source: none; the chain rule, backwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax

from tvmopt import ir
from tvmopt.passes.prune.derivatives import Back, Forward
from tvmopt.passes.prune.net_blocks import NetBlock
from tvmopt.passes.quantize.layers import Layer

Pull = Callable[[Mapping[relax.Var, np.ndarray]], list[np.ndarray]]
"""Turns the derivatives of a scalar by tensors of the block into those by the tuned constants."""
_Source = Any  # a variable, a constant's array, the number of a tuned one, or None for no tensor


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Trained:
    """A constant that is tuned.

    Attributes:
        layer: Whose weight or bias it is.
        var: The variable whose value reads it.
        place: Which operand it is.
        value: The constant, float32.
        free: Which of its numbers move, bool of its shape.
    """

    layer: Layer
    var: relax.Var
    place: int
    value: np.ndarray
    free: np.ndarray

    @property
    def is_weight(self) -> bool:
        """Whether it is the weight."""
        return self.var.same_as(self.layer.var)

    def rows(self, values: np.ndarray) -> np.ndarray:
        """Return numbers shaped as a weight as (outputs, inputs), a view."""
        return values.T if self.layer.is_matmul else values.reshape(len(values), -1)

    def unrowed(self, rows: np.ndarray) -> np.ndarray:
        """Return (outputs, inputs) in the weight's own layout, float32."""
        own = rows.T if self.layer.is_matmul else rows.reshape(self.value.shape)
        return np.ascontiguousarray(own, np.float32)


def trained_of(block: NetBlock) -> list[Trained]:
    """Return the weights, whose zeros stay, and the biases of a block's layers."""
    calls = {step.var: step.call for step in block.steps}
    found = []
    for layer in block.layers:
        weight = layer.weight
        found.append(Trained(layer=layer, var=layer.var, place=1, value=weight, free=weight != 0))
        if layer.bias_var is None or layer.bias_var not in calls:
            continue
        call = calls[layer.bias_var]
        place = 1 if ir.float_constant(call.args[1]) is not None else 0
        value = ir.float_constant(call.args[place])
        assert value is not None, "a layer's bias is a constant"
        free = np.ones(value.shape, bool)
        found.append(Trained(layer=layer, var=layer.bias_var, place=place, value=value, free=free))
    return found


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Wired:
    """A step and what it reads.

    Attributes:
        var: What it makes.
        forward: How.
        sources: What each operand is.
        live: Whether each operand depends on a tuned constant.
    """

    var: relax.Var
    forward: Forward
    sources: tuple[_Source, ...]
    live: tuple[bool, ...]


class BlockNet:
    """A block, to be run batch by batch."""

    def __init__(self, block: NetBlock, trained: Sequence[Trained]) -> None:
        """Look up what each step reads."""
        self.block = block
        number = {(one.var, one.place): i for i, one in enumerate(trained)}
        depends = set[relax.Var]()
        self._steps = list[_Wired]()
        for step in block.steps:
            sources = tuple(
                number.get((step.var, place), _source(arg))
                for place, arg in enumerate(step.call.args)
            )
            live = tuple(
                isinstance(one, int) or (isinstance(one, relax.Var) and one in depends)
                for one in sources
            )
            if any(live):
                depends.add(step.var)
            self._steps.append(
                _Wired(var=step.var, forward=step.forward, sources=sources, live=live)
            )

    def run(
        self, inputs: Mapping[str, np.ndarray], values: Sequence[np.ndarray]
    ) -> tuple[dict[relax.Var, np.ndarray], Pull]:
        """Return all tensors of the block, and how derivatives by them are pulled back.

        Args:
            inputs: What the block reads, by name.
            values: The tuned constants.
        """
        made, backs = self._forwards(inputs, values)
        return made, lambda gradients: _pull(gradients, backs, values)

    def derivatives(
        self,
        inputs: Mapping[str, np.ndarray],
        values: Sequence[np.ndarray],
        by_output: Callable[[np.ndarray], np.ndarray],
    ) -> Iterator[tuple[relax.Var, np.ndarray]]:
        """Yield the derivative of a scalar by each tensor that depends on tuned constants.

        Args:
            inputs: What the block reads, by name.
            values: The tuned constants.
            by_output: Gives the scalar's derivative by the block's output, from that.
        """
        made, backs = self._forwards(inputs, values)
        output = self.block.output
        for step, gradient, _ in _backwards({output: by_output(made[output])}, backs):
            yield step.var, gradient

    def _forwards(
        self, inputs: Mapping[str, np.ndarray], values: Sequence[np.ndarray]
    ) -> tuple[dict[relax.Var, np.ndarray], list[tuple[_Wired, Back]]]:
        made: dict[relax.Var, np.ndarray] = {}
        backs: list[tuple[_Wired, Back]] = []

        def read(source: _Source) -> Any:
            if isinstance(source, int):
                return values[source]
            if isinstance(source, relax.Var):
                return made[source] if source in made else inputs[source.name]
            return source

        for step in self._steps:
            made[step.var], back = step.forward(*map(read, step.sources))
            if any(step.live):
                backs.append((step, back))
        return made, backs


def _pull(
    gradients: Mapping[relax.Var, np.ndarray],
    backs: Sequence[tuple[_Wired, Back]],
    values: Sequence[np.ndarray],
) -> list[np.ndarray]:
    found = [np.zeros_like(value) for value in values]
    for step, _, parts in _backwards(gradients, backs):
        for source, part in zip(step.sources, parts, strict=False):
            if isinstance(source, int):
                found[source] += part
    return found


def _backwards(
    gradients: Mapping[relax.Var, np.ndarray], backs: Sequence[tuple[_Wired, Back]]
) -> Iterator[tuple[_Wired, np.ndarray, tuple[np.ndarray, ...]]]:
    """Yield each step that matters, last first, and derivatives by all it touches."""
    by = dict(gradients)
    for step, back in reversed(backs):
        if step.var not in by:
            continue
        gradient = by.pop(step.var)
        parts = back(gradient)
        yield step, gradient, parts
        for source, live, part in zip(step.sources, step.live, parts, strict=False):
            if live and isinstance(source, relax.Var):
                by[source] = by[source] + part if source in by else part


def _source(arg: relax.Expr) -> _Source:
    """Return what an operand is; None for what is no tensor, such as a shape."""
    return arg if isinstance(arg, relax.Var) else ir.float_constant(arg)
