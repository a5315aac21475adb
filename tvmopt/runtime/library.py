"""The artefact's C interface by ctypes."""

from __future__ import annotations

import _ctypes
import ctypes
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tvmopt.errors import ArtifactError
from tvmopt.runtime.tensors import address


class Buffers:
    """An array of tvmopt_buffer, kept between runs; filling an array of words is the fast way."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._words = (ctypes.c_size_t * (2 * count))()  # data, bytes, data, bytes, ...
        self.pointer = ctypes.addressof(self._words)

    def fill(self, arrays: Sequence[np.ndarray]) -> None:
        """Point the buffers to ``arrays``, one each."""
        words = self._words
        for i, array in enumerate(arrays):
            words[2 * i] = address(array)
            words[2 * i + 1] = array.nbytes


def _unique_path(path: Path) -> bytes:
    """Spell ``path`` in a way that only this very file has.

    glibc compares names before it looks at files: while an artefact is open, a newer one at the
    same path would be taken for it. "/" and "/./" between folder and name write the file's identity
    in binary.
    """
    info = path.stat()
    identity = (info.st_ino << 64) | (info.st_mtime_ns & (1 << 64) - 1)
    spelled = "".join("/." if bit == "1" else "/" for bit in f"{identity:b}")
    return os.fsencode(f"{path.resolve().parent}{spelled}/{path.name}")


class Library:
    """The functions of one loaded artefact, and one instance of it.

    ``close`` may be called more than once; nothing else may follow it.
    """

    def __init__(self, path: Path, name: str, threads: int) -> None:
        """Load ``path``, whose functions start with ``name``, and create an instance.

        Raises:
            ArtifactError: The loader or the artefact refuses, with its reason.
        """
        self._instance: int | None = None
        self._handle: int | None = None
        try:
            self._handle = _ctypes.dlopen(_unique_path(path), os.RTLD_NOW | os.RTLD_LOCAL)
        except OSError as err:
            raise ArtifactError(f"{path}: cannot be loaded: {_after_path(str(err))}") from err
        self._library = ctypes.CDLL(None, handle=self._handle)
        try:
            self._create(path, name, threads)
        except BaseException:
            self.close()
            raise

    def _create(self, path: Path, name: str, threads: int) -> None:
        pointer, integer = ctypes.c_void_p, ctypes.c_int32
        try:
            create = self._function(f"{name}_create", pointer, integer)
            self._destroy = self._function(f"{name}_destroy", None, pointer)
            self._last_error = self._function(f"{name}_last_error", ctypes.c_char_p, pointer)
            self._profile = self._function(f"{name}_profile", None, pointer, pointer)
            self._peak = self._function(f"{name}_peak_gflops", ctypes.c_double)
            ports = (pointer, integer)
            self._run = self._function(f"{name}_run", integer, pointer, *ports, *ports)
            self._run_as_given = self._library[f"{name}_run"]  # an object of its own
            inputs = self._function(f"{name}_input_count", integer)
            outputs = self._function(f"{name}_output_count", integer)
        except AttributeError as err:
            raise ArtifactError(
                f"{path}: lacks a function of its interface: {_after_path(str(err))}"
            ) from err
        self._inputs, self._outputs = Buffers(inputs()), Buffers(outputs())
        self._instance = create(threads)
        if not self._instance:
            raise ArtifactError(f"{path}: {self._error(None)}")

    def _function(self, name: str, result: type | None, *arguments: type) -> Callable[..., Any]:
        function = getattr(self._library, name)
        function.restype, function.argtypes = result, arguments
        return function

    def _error(self, instance: int | None) -> str:
        return self._last_error(instance).decode("utf-8", "replace")

    def run(self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> None:
        """Run once; the arrays are dense, and as many and as large as the model wants.

        Not for several threads at a time.

        Raises:
            ArtifactError: The artefact reports a failure.
        """
        self._inputs.fill(inputs)
        self._outputs.fill(outputs)
        given, wanted = self._inputs, self._outputs
        status = self._run(self._instance, given.pointer, given.count, wanted.pointer, wanted.count)
        if status != 0:
            raise self.failure()

    def bind(self, inputs: Buffers, outputs: Buffers) -> Callable[[], int]:
        """Return a call that runs once on filled buffers and returns the artefact's status.

        Its arguments are C values already: converting five integers takes as long as the executor
        does. The buffers must be kept as long as the call.
        """
        values = [
            ctypes.c_void_p(self._instance),
            *(ctypes.c_void_p(inputs.pointer), ctypes.c_int32(inputs.count)),
            *(ctypes.c_void_p(outputs.pointer), ctypes.c_int32(outputs.count)),
        ]
        return functools.partial(self._run_as_given, *values)

    def failure(self) -> ArtifactError:
        """Return the error that the last run's status stands for."""
        return ArtifactError(self._error(self._instance))

    def set_profile(self, seconds: np.ndarray | None) -> None:
        """Have each run store its steps' times in ``seconds``, float64, one a step, or nowhere."""
        self._profile(self._instance, None if seconds is None else address(seconds))

    def peak_gflops(self) -> float:
        """Measure what this core does at most, GFLOP/s."""
        return self._peak()

    @property
    def closed(self) -> bool:
        """Whether ``close`` has been called."""
        return self._handle is None

    def close(self) -> None:
        """Destroy the instance and unload the artefact."""
        instance, self._instance = self._instance, None
        handle, self._handle = self._handle, None
        if instance:
            self._destroy(instance)
        if handle:
            _ctypes.dlclose(handle)


def _after_path(text: str) -> str:
    """Drop the path that the loader puts before its reason, for ours reads better."""
    return text.rsplit(": ", maxsplit=1)[-1]
