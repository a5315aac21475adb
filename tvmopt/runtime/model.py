"""A compiled model as a Python callable."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tvmopt.errors import ArtifactError, OptionError
from tvmopt.runtime import manifest as manifests
from tvmopt.runtime import tensors
from tvmopt.runtime.library import Buffers, Library
from tvmopt.runtime.tensors import TensorInfo

Result = np.ndarray | dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True, slots=True)
class StepInfo:
    """One step of a run.

    Attributes:
        layer: The layer of the model that it computes.
        kernel: The kernel that computes it.
        macs: Multiply-accumulates, or None where they are not counted.
        cycles: Predicted cycles of one core, or None where nothing predicts them.
        parallel: Whether the kernel can use several threads.
    """

    layer: str
    kernel: str
    macs: int | None
    cycles: int | None
    parallel: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTime:
    """A step and its times, (runs,) float64, seconds."""

    step: StepInfo
    seconds: np.ndarray


class Model:
    """An open artefact: call it with arrays.

    One call runs at a time; open the artefact again to run several at once. Close it, use it in a
    ``with`` statement, or let it go: its threads and memory end with it.
    """

    def __init__(self, path: str | os.PathLike[str], threads: int = 1) -> None:
        """Load an artefact; see ``open``."""
        if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= 1024:
            raise OptionError(f"threads must be a whole number in [1, 1024], got {threads!r}")
        self.path = Path(path)
        self.threads = threads
        self.manifest: dict[str, Any] = manifests.read_for_this_machine(self.path)
        try:
            self.inputs = _infos(self.manifest["inputs"])
            self.outputs = _infos(self.manifest["outputs"])
            self.steps = tuple(StepInfo(**layer) for layer in self.manifest["layers"])
            name = self.manifest["name"]
        except (KeyError, TypeError) as err:
            raise ArtifactError(f"{self.path}: has a damaged manifest") from err
        self._lock = threading.Lock()
        self._library = Library(self.path, name, threads)

    def __call__(
        self,
        inputs: Mapping[str, Any] | Any = None,
        /,
        *,
        out: Mapping[str, np.ndarray] | np.ndarray | None = None,
        **named: Any,
    ) -> Result:
        """Run the model once.

        Args:
            inputs: The one input, or a mapping of all by name; dense aligned arrays are not copied.
            out: Arrays for the results, in the form of ``inputs``; None makes new ones.
            named: The inputs by name, instead of ``inputs``.

        Returns:
            The output, or a dictionary by name if there are several; ``out``'s arrays if given.

        Raises:
            DataError: A name, dtype or shape is not the model's.
            ArtifactError: The model is closed, or a kernel fails.
        """
        given = self._given(inputs, named)
        results = self._results(out)
        self._run(given, results)
        if len(results) == 1:
            return results[0]
        return {info.name: array for info, array in zip(self.outputs, results, strict=True)}

    def bind(self, inputs: Mapping[str, Any] | Any = None, /, **named: Any) -> Binding:
        """Return the model with inputs and outputs that stay in place from run to run.

        What a run costs beside the model itself then is one call; see ``Binding``.

        Raises:
            DataError: A name, dtype or shape is not the model's.
        """
        given = []
        for info, array in zip(self.inputs, self._given(inputs, named), strict=True):
            given.append(tensors.aligned_empty(info))
            given[-1][...] = array
        return Binding(self, given, self._results(None))

    def bound_call(self, inputs: Buffers, outputs: Buffers) -> Callable[[], int]:
        """Return the call by which ``Binding`` runs on buffers that it keeps.

        Raises:
            ArtifactError: The model is closed.
        """
        with self._lock:
            self._require_open()
            return self._library.bind(inputs, outputs)

    def run_bound(self, call: Callable[[], int]) -> None:
        """Run what ``bound_call`` returned.

        Raises:
            ArtifactError: The model is closed, or a kernel fails.
        """
        with self._lock:
            self._require_open()
            if call() != 0:
                raise self._library.failure()

    def profile(
        self, inputs: Mapping[str, Any] | Any = None, /, *, runs: int = 10, **named: Any
    ) -> tuple[StepTime, ...]:
        """Run the model ``runs`` times and return the time of each step in each run.

        The clock is read twice a step, which costs some 50 ns.
        """
        if runs < 1:
            raise OptionError(f"runs must be at least 1, got {runs!r}")
        given = self._given(inputs, named)
        results = self._results(None)
        seconds = np.zeros((runs, len(self.steps)))
        for row in seconds:
            self._run(given, results, row)
        return tuple(
            StepTime(step=step, seconds=seconds[:, i].copy()) for i, step in enumerate(self.steps)
        )

    def peak_gflops(self) -> float:
        """Measure what the core that runs this does at most in float32, GFLOP/s; takes 30 ms.

        With the instructions that the artefact's kernels may use; one multiply-add counts as two.
        """
        with self._lock:
            self._require_open()
            return self._library.peak_gflops()

    def _require_open(self) -> None:
        if self._library.closed:
            raise ArtifactError(f"{self.path}: the model is closed; open it again")

    def _given(self, inputs: Any, named: Mapping[str, Any]) -> list[np.ndarray]:
        if inputs is None:
            arrays = tensors.by_name("input", self.inputs, named)
        elif named:
            raise OptionError("inputs must be given as one argument or by name, got both")
        else:
            arrays = tensors.in_order("input", self.inputs, inputs)
        return tensors.prepare_inputs(self.inputs, arrays)

    def _results(self, out: Mapping[str, np.ndarray] | np.ndarray | None) -> list[np.ndarray]:
        if out is None:
            return [tensors.aligned_empty(info) for info in self.outputs]
        results = tensors.in_order("output", self.outputs, out)
        tensors.check_outputs(self.outputs, results)
        return results

    def _run(
        self, given: list[np.ndarray], results: list[np.ndarray], seconds: np.ndarray | None = None
    ) -> None:
        with self._lock:
            self._require_open()
            if seconds is None:
                self._library.run(given, results)
                return
            self._library.set_profile(seconds)
            try:
                self._library.run(given, results)
            finally:
                self._library.set_profile(None)

    def close(self) -> None:
        """End its threads and free its memory; a second call does nothing."""
        library = getattr(self, "_library", None)  # absent if __init__ raised
        if library is not None:
            with self._lock:
                library.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Model({str(self.path)!r}, threads={self.threads})"


class Binding:
    """A model with its inputs and outputs in place.

    Attributes:
        inputs: Array of each input by name, 64-byte aligned; write into them between runs.
        outputs: Array of each output by name; a run overwrites them.
    """

    def __init__(self, model: Model, given: list[np.ndarray], results: list[np.ndarray]) -> None:
        """Keep the arrays; see ``Model.bind``."""
        self.inputs = {i.name: array for i, array in zip(model.inputs, given, strict=True)}
        self.outputs = {o.name: array for o, array in zip(model.outputs, results, strict=True)}
        self._model = model
        self._given, self._results = Buffers(len(given)), Buffers(len(results))
        self._given.fill(given)
        self._results.fill(results)
        self._call = model.bound_call(self._given, self._results)

    def run(self) -> None:
        """Run once.

        Raises:
            ArtifactError: The model is closed, or a kernel fails.
        """
        self._model.run_bound(self._call)


def _infos(entries: list[dict[str, Any]]) -> tuple[TensorInfo, ...]:
    return tuple(
        TensorInfo(name=entry["name"], dtype=entry["dtype"], shape=tuple(entry["shape"]))
        for entry in entries
    )


def open(path: str | os.PathLike[str], threads: int = 1) -> Model:  # noqa: A001 - runtime.open
    """Open an artefact.

    Args:
        path: What ``tvmopt compile`` wrote.
        threads: How many may run a kernel, the caller's included; 1 starts none.

    Raises:
        OptionError: ``threads`` is outside [1, 1024].
        ArtifactError: The file is no artefact, is damaged, or is for another machine.
    """
    return Model(path, threads)
