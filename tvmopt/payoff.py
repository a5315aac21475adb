"""What of a net's predicted time counts for each of its layers.

A step is what one kernel computes. The time of a layer's own kernel counts for that layer. What
another step takes longer, or less long, such as the conversion of a tensor between floats and
integers, counts in equal shares for the compressed layers next to it: those from whose results it
is computed, and those that read its result, with no other layer between.

Source: none; derived here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import tvm

from tvmopt import ir
from tvmopt.passes.canonicalize.rebuild import variables


def shares(
    times: Mapping[str, float],
    mod: tvm.IRModule,
    compressed: Collection[str],
    layers: Collection[str],
) -> dict[str, float]:
    """Return the time that counts for each compressed layer, in the unit of ``times``.

    Args:
        times: Predicted time of each step of the net by the name of its binding.
        mod: The net, compressed or as it was; its bindings' names differ.
        compressed: The layers that are compressed, or will be.
        layers: All layers.
    """
    found = dict.fromkeys(compressed, 0.0)
    neighbours = _Neighbours(mod, compressed, layers)
    for name, time in times.items():
        owners = [name] if name in layers else neighbours.of(name)
        for owner in owners:
            if owner in found:
                found[owner] += time / len(owners)
    return found


class _Neighbours:
    """The compressed layers next to each binding of "main"."""

    def __init__(
        self, mod: tvm.IRModule, compressed: Collection[str], layers: Collection[str]
    ) -> None:
        self._compressed, self._layers = compressed, layers
        self._reads: dict[str, list[str]] = {}
        self._readers: dict[str, list[str]] = {}
        for var, value in ir.bindings(mod["main"]):
            self._reads[var.name] = [read.name for read in variables(value)]
            for read in self._reads[var.name]:
                self._readers.setdefault(read, []).append(var.name)

    def of(self, name: str) -> list[str]:
        """Return them in a fixed order; none for a name that is no binding's."""
        ways = (self._reads, self._readers)
        return sorted({layer for way in ways for layer in self._walk(name, way)})

    def _walk(self, name: str, way: Mapping[str, list[str]]) -> Iterator[str]:
        todo, seen = [name], {name}
        while todo:
            for other in way.get(todo.pop(), ()):
                if other in self._compressed:
                    yield other
                elif other not in seen and other not in self._layers:
                    seen.add(other)
                    todo.append(other)
