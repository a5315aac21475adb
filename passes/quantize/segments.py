"""Run calibration samples through "main" part by part, each binding about once.

A repair that goes through a net layer by layer wants each layer's inputs as the layers before it,
repaired, make them. Running the whole front of the net anew for every layer would take time that
grows with the square of its depth. So the tensors that cross from one part to the next are kept:
on disk, in a folder of the caller's, because memory must not grow with the number of samples.
Integers behind a dequantize are kept, not its floats.

Source: none; derived here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import RawIOBase
from pathlib import Path

import numpy as np
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.calibration import Feed, Samples, Tap
from tvmopt.errors import DataError
from tvmopt.passes.canonicalize.rebuild import variables
from tvmopt.passes.quantize.weight_layers import Build

Run = Callable[[int, Feed], dict[str, np.ndarray]]
"""Runs the batch of a number, counted from 0 and in order, and gives the tensors asked for."""

# What is cheap to compute again and reads one tensor: that tensor is kept instead.
_CHEAP = ("relax.dequantize", "relax.reshape")


class Segments:
    """A module's "main", and how far the samples have come in it.

    Attributes:
        place: The number of each binding's variable, in order.
    """

    def __init__(
        self,
        mod: tvm.IRModule,
        samples: Samples,
        tap: Tap,
        folder: Path,
        goals: Sequence[relax.Var],
    ) -> None:
        """Stand before the first binding.

        Args:
            mod: Its "main" is a straight line of bindings whose names differ.
            samples: What to run.
            tap: Compiles parts of "main".
            folder: An empty folder for tensors between parts.
            goals: Variables behind the last of which nothing will be asked for.
        """
        self._mod, self._samples, self._tap, self._folder = mod, samples, tap, folder
        func = mod["main"]
        self._params = list(func.params)
        self._values: dict[relax.Var, relax.Expr] = dict(ir.bindings(func))
        self.place = {var: i for i, var in enumerate(self._values)}
        self._order = list(self._values)[: 1 + max(self.place[var] for var in goals)]
        self._fixed: set[relax.Var] = set()  # made of constants alone: never kept
        for var, value in self._values.items():
            if all(read in self._fixed for read in variables(value)):
                self._fixed.add(var)
        self._kept: dict[relax.Var, np.ndarray] = {}

    def change(self, var: relax.Var, build: Build) -> None:
        """Let ``var`` be bound to something else in the parts to come."""
        self._values[var] = build(self._values[var], lambda expr, _: expr)

    @contextmanager
    def part(self, wanted: Sequence[relax.Var], keep_at: int) -> Iterator[Run]:
        """Compile what computes some tensors from what was kept, and keep anew.

        Args:
            wanted: Parameters or variables.
            keep_at: The binding before which the next part begins; it may only go forward.

        Yields:
            A function to be called once for each batch, in order.
        """
        crossing = self._crossing(keep_at)
        asked = [
            v for v in dict.fromkeys([*wanted, *crossing]) if v not in {*self._params, *self._kept}
        ]
        run = self._tap(self._cut(asked), [v.name for v in asked]) if asked else None
        files = {v: self._folder / f"{self.place[v]}.bin" for v in crossing if v not in self._kept}
        # Without a buffer a full disk shows in the write, not in closing the file.
        handles = {v: path.open("wb", buffering=0) for v, path in files.items()}

        def step(number: int, feed: Feed) -> dict[str, np.ndarray]:
            waiting = {v: array[number] for v, array in self._kept.items()}
            inputs = {**feed, **{v.name: array for v, array in waiting.items()}}
            made = run(inputs) if run is not None else {}
            for v, handle in handles.items():
                write_array(made[v.name], handle)
            ports = dict(zip(self._params, feed.values(), strict=True))
            return {
                v.name: waiting[v] if v in waiting else ports[v] if v in ports else made[v.name]
                for v in wanted
            }

        try:
            yield step
        finally:
            for handle in handles.values():
                handle.close()
        self._forget(v for v in list(self._kept) if v not in crossing)
        for v, path in files.items():
            shape = (len(self._samples), *ir.static_shape(v))
            self._kept[v] = np.memmap(path, ir.dtype(v), mode="r", shape=shape)
            path.unlink()  # the map keeps the bytes; a process that is killed leaves none behind

    def _crossing(self, keep_at: int) -> list[relax.Var]:
        """Return what is bound before ``keep_at`` and needed from there on."""
        found: dict[relax.Var, None] = {}
        for reader in self._order[keep_at:]:
            for root in self._roots(variables(self._values[reader])):
                if self.place[root] < keep_at:
                    found[root] = None
        return list(found)

    def _roots(self, reads: Iterable[relax.Var]) -> Iterator[relax.Var]:
        for var in reads:
            if var in self._fixed or var not in self._values:
                continue
            value = self._values[var]
            through = isinstance(value, relax.Var) or ir.is_call_to(value, *_CHEAP)
            if through or not isinstance(var.ty, relax.TensorType):
                yield from self._roots(variables(value))
            else:
                yield var

    def _cut(self, outputs: Sequence[relax.Var]) -> tvm.IRModule:
        """Return the module of what ``outputs`` need, from what is kept; all inputs stay."""
        needed: set[relax.Var] = set()
        todo = list(outputs)
        while todo:
            var = todo.pop()
            if var in needed or var in self._kept or var not in self._values:
                continue
            needed.add(var)
            todo.extend(variables(self._values[var]))
        fresh = {var: relax.Var(var.name, var.ty) for var in [*self._params, *self._kept]}
        env: dict[relax.Var, relax.Expr] = dict(fresh)
        builder = relax.BlockBuilder()
        with builder.function("main", list(fresh.values())):
            with builder.dataflow():
                for var in (v for v in self._order if v in needed):
                    env[var] = builder.emit(ir.substitute(self._values[var], env), var.name)
                result = builder.emit_output(relax.Tuple([env[v] for v in outputs]))
            builder.emit_func_output(result)
        part = self._mod.clone()
        part["main"] = builder.finalize()["main"]
        return part

    def _forget(self, names: Iterable[relax.Var]) -> None:
        for var in names:
            del self._kept[var]


def write_array(array: np.ndarray, handle: RawIOBase) -> None:
    """Write all of an array.

    Raises:
        DataError: The disk is full.
    """
    left = np.ascontiguousarray(array).data.cast("B")
    try:
        while left:
            left = left[handle.write(left) or 0 :]
    except OSError as err:
        raise DataError(
            f"tensors between layers must fit on the disk, got {err.strerror!r}; set TMPDIR to a "
            "larger one, or give fewer samples"
        ) from err
