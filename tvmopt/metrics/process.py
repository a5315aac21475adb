"""The parent's side of an engine's process; ``worker.py`` is the child's."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tvmopt import errors
from tvmopt.errors import ArtifactError, TvmoptError
from tvmopt.metrics.engines import EngineSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Burst:
    """What an engine does in one turn.

    Attributes:
        seconds: Timed runs go on for so long; infinity leaves it to ``most``.
        warm_seconds: Untimed runs before them.
        most: Timed runs at most.
    """

    UNLIMITED: ClassVar[int] = 2**31

    seconds: float
    warm_seconds: float
    most: int


class EngineProcess:
    """A process that runs one engine, pinned to its CPUs; close it."""

    def __init__(self, spec: EngineSpec) -> None:
        """Start the process; nothing is imported or opened yet."""
        self.spec = spec
        self.version = ""
        self.load_seconds = self.first_seconds = float("nan")
        self.output_names: list[str] = []
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (close() closes it)
        # -P: the working directory must not stand in for the installed package.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tvmopt.metrics.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def open(
        self, inputs: Path, names: list[str], outputs: Path | None, threads: int, cpus: list[int]
    ) -> None:
        """Open the model and run it once.

        Args:
            inputs: An ``.npz`` file of the inputs, ``arr_0`` and so on.
            names: The inputs' names, in that order.
            outputs: Where to write the outputs, likewise; None: nowhere.
            threads: Of the engine.
            cpus: What the process may use.

        Raises:
            TvmoptError: The engine refuses, with its reason.
        """
        self._send({
            "engine": self.spec.engine,
            "path": str(self.spec.path.resolve()),
            "inputs": str(inputs),
            "names": names,
            "outputs": str(outputs) if outputs else None,
            "threads": threads,
            "cpus": cpus,
        })  # fmt: skip
        reply = self._receive()
        self.version = reply["version"]
        self.load_seconds = reply["load_seconds"]
        self.first_seconds = reply["first_seconds"]
        self.output_names = reply["outputs"]

    def ask(self, burst: Burst) -> None:
        """Start a turn."""
        self._send(asdict(burst))

    def answer(self) -> np.ndarray:
        """Wait for the turn's end and return its times, (runs,), seconds."""
        return np.array(self._receive()["nanoseconds"], np.float64) * 1e-9

    def stop(self) -> None:
        """Take the CPU away from all its threads, spinning ones too."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Give the CPU back."""
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # what was not sent yet has no reader any more
                pipe and pipe.close()
        self._process.wait()
        self._log.close()

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as err:
            raise self._death() from err

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._death()
        reply = json.loads(line)
        if "error" in reply:
            raise self._error(reply["error"], reply["message"])
        return reply

    def _error(self, name: str, message: str) -> TvmoptError:
        kind = getattr(errors, name, None)
        if isinstance(kind, type) and issubclass(kind, TvmoptError):
            return kind(message)
        return ArtifactError(f"{self.spec.label}: {self.spec.title} fails: {name}: {message}")

    def _death(self) -> ArtifactError:
        status = self._process.wait()
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"exited {status}"
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - 4096))
        said = self._log.read().decode(errors="replace").strip().splitlines()
        return ArtifactError(
            f"{self.spec.label}: the process of {self.spec.title} must answer, it {how}"
            + (f": {said[-1]}" if said else "")
        )
