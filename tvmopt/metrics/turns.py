"""Time several engines fairly: each in a process of its own, on the same CPUs, taking turns.

Engines keep pools of threads that spin for a while after a run: in one process, or at the same
time, they would take each other's CPUs. So one engine at a time runs a burst, warm-up included,
while all others are stopped (SIGSTOP); the order turns round by round, and each round yields one
ratio per pair, so that a slow spell of the machine hits both sides of it.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tvmopt.errors import OptionError
from tvmopt.metrics import cpus
from tvmopt.metrics.engines import EngineSpec, require
from tvmopt.metrics.latency_ms import LatencyMs, latency_ms
from tvmopt.metrics.process import Burst, EngineProcess
from tvmopt.metrics.speedup import Speedup, speedup


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """How long each engine is timed.

    Attributes:
        seconds: Timed seconds of each engine, over all rounds; each round has at least one run.
        repeat: Timed runs of each engine at most, over all rounds; None leaves it to ``seconds``.
        rounds: How often each engine gets its turn.
        warm_share: Untimed share before each turn's timed runs, of the turn's seconds.
        pause_seconds: Rest between turns.
    """

    seconds: float = 3.0
    repeat: int | None = None
    rounds: int = 10
    warm_share: float = 0.2
    pause_seconds: float = 0.02

    def __post_init__(self) -> None:
        if not 0 < self.seconds < math.inf:
            raise OptionError(f"seconds must be above 0, got {self.seconds!r}")
        if self.rounds < 1:
            raise OptionError(f"rounds must be at least 1, got {self.rounds!r}")
        if self.repeat is not None and self.repeat < 1:
            raise OptionError(f"repeat must be at least 1, got {self.repeat!r}")

    @property
    def turns(self) -> int:
        """Rounds that are held: no more than there are runs."""
        return self.rounds if self.repeat is None else min(self.rounds, self.repeat)

    def burst(self, turn: int) -> Burst:
        """Return what an engine does in its turn number ``turn``."""
        seconds = self.seconds / self.turns
        most = Burst.UNLIMITED
        if self.repeat is not None:
            most = self.repeat // self.turns + (turn < self.repeat % self.turns)
            seconds = math.inf
        warm = self.warm_share * self.seconds / self.turns
        return Burst(seconds=seconds, warm_seconds=warm, most=most)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EngineResult:
    """What was measured of one engine.

    Attributes:
        spec: The engine and its file.
        version: The engine's, or that of the tvmopt that compiled the artefact.
        threads: Of each stream.
        streams: Processes that ran at the same time.
        load_ms: Opening the model, without importing the engine; the slowest stream's.
        first_ms: The first inference; the slowest stream's.
        rounds: Seconds of each run of each round, all streams together.
        inferences: Of all streams, per second: the median round's.
        outputs: Of the first inference, by name, in order.
    """

    spec: EngineSpec
    version: str
    threads: int
    streams: int
    load_ms: float
    first_ms: float
    rounds: tuple[np.ndarray, ...] = field(repr=False)
    inferences: float
    outputs: Mapping[str, np.ndarray] = field(repr=False)

    @property
    def latency(self) -> LatencyMs:
        """Percentiles over all rounds."""
        return latency_ms(np.concatenate(self.rounds))

    def speedup_over(self, old: EngineResult) -> Speedup:
        """Return ``old``'s time / this one's; both must be of one ``compare``."""
        return speedup(old.rounds, self.rounds)


Progress = Callable[[int, int], None]


def compare(
    engines: Sequence[EngineSpec],
    inputs: Mapping[str, np.ndarray] | Sequence[Mapping[str, np.ndarray]],
    *,
    threads: int = 1,
    streams: int = 1,
    schedule: Schedule | None = None,
    progress: Progress | None = None,
) -> list[EngineResult]:
    """Measure engines on the same inputs, taking turns.

    Args:
        engines: At least one; the same model may occur more than once.
        inputs: One batch of the model's inputs, by name, or one for each engine; engines with open
            shapes get these.
        threads: Of each stream; its process is pinned to as many CPUs.
        streams: Processes of each engine that run at the same time, for throughput.
        schedule: How long; None is the default one.
        progress: Is told (turns done, turns in all) between turns, never during one.

    Returns:
        A result for each engine, in order.

    Raises:
        OptionError: A rival is not installed, or there are too few CPUs.
        TvmoptError: A model cannot be opened or run; its reason.
    """
    schedule = schedule or Schedule()
    places = cpus.shares(threads, streams)
    for spec in engines:
        require(spec)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tvmopt-bench-")))
        each = [inputs] * len(engines) if isinstance(inputs, Mapping) else inputs
        groups = []
        for i, (spec, given) in enumerate(zip(engines, each, strict=True)):
            np.savez(folder / f"inputs_{i}.npz", *given.values())
            group = _Group(spec)
            stack.callback(group.close)
            group.open(folder, i, list(given), threads, places)
            groups.append(group)
        _take_turns(groups, schedule, progress)
        return [group.result(threads) for group in groups]


def _take_turns(groups: list[_Group], schedule: Schedule, progress: Progress | None) -> None:
    total = schedule.turns * len(groups)
    for turn in range(schedule.turns):
        for i in range(len(groups)):
            if progress:
                progress(turn * len(groups) + i, total)
            time.sleep(schedule.pause_seconds)
            groups[(turn + i) % len(groups)].burst(schedule.burst(turn))
    if progress:
        progress(total, total)


class _Group:
    """The processes of one engine."""

    def __init__(self, spec: EngineSpec) -> None:
        self.spec = spec
        self.processes: list[EngineProcess] = []
        self.rounds: list[np.ndarray] = []
        self.rates: list[float] = []
        self.outputs: dict[str, np.ndarray] = {}

    def open(
        self, folder: Path, number: int, names: list[str], threads: int, places: list[list[int]]
    ) -> None:
        for place in places:
            path = None if self.processes else folder / f"outputs_{number}.npz"
            process = EngineProcess(self.spec)
            self.processes.append(process)
            process.open(folder / f"inputs_{number}.npz", names, path, threads, place)
            if path:
                with np.load(path, allow_pickle=False) as file:
                    arrays = [file[f"arr_{i}"] for i in range(len(process.output_names))]
                self.outputs = dict(zip(process.output_names, arrays, strict=True))
            process.stop()

    def burst(self, burst: Burst) -> None:
        for process in self.processes:
            process.resume()
        for process in self.processes:
            process.ask(burst)
        times = [process.answer() for process in self.processes]
        for process in self.processes:
            process.stop()
        self.rounds.append(np.concatenate(times))
        self.rates.append(sum(len(t) / float(t.sum()) for t in times))

    def result(self, threads: int) -> EngineResult:
        return EngineResult(
            spec=self.spec,
            version=self.processes[0].version,
            threads=threads,
            streams=len(self.processes),
            load_ms=max(p.load_seconds for p in self.processes) * 1e3,
            first_ms=max(p.first_seconds for p in self.processes) * 1e3,
            rounds=tuple(self.rounds),
            inferences=float(np.median(self.rates)),
            outputs=self.outputs,
        )

    def close(self) -> None:
        for process in self.processes:
            process.close()
