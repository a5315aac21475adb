"""What ``bench`` and ``demo`` say of engines that were timed side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from tvmopt.cli import show, units
from tvmopt.cli.machine import cpu_name
from tvmopt.metrics.turns import EngineResult


def describe_timings(results: Sequence[EngineResult], source: str) -> dict[str, Any]:
    """Return the results as JSON can hold them; ratios are the rival's time over the first's."""
    ours = results[0]
    return {
        "cpu": cpu_name(),
        "threads": ours.threads,
        "streams": ours.streams,
        "rounds": len(ours.rounds),
        "inputs": source,
        "engines": [_engine(result, ours) for result in results],
    }


def _engine(result: EngineResult, ours: EngineResult) -> dict[str, Any]:
    rival = result is not ours
    return {
        "engine": result.spec.engine,
        "title": result.spec.title,
        "file": str(result.spec.path),
        "version": result.version,
        "latency_ms": asdict(result.latency),
        "inferences_per_second": result.inferences,
        "load_ms": result.load_ms,
        "first_ms": result.first_ms,
        "speedup": asdict(ours.speedup_over(result)) if rival else None,
        "max_difference": _difference(result, ours) if rival else None,
    }


def _difference(result: EngineResult, ours: EngineResult) -> float | None:
    """Return the largest difference of the outputs over the peak; None for other shapes."""
    pairs = list(zip(result.outputs.values(), ours.outputs.values(), strict=False))
    if len(result.outputs) != len(ours.outputs) or any(a.shape != b.shape for a, b in pairs):
        return None
    worst = 0.0
    for theirs, mine in pairs:
        a, b = theirs.astype(np.float64), mine.astype(np.float64)
        peak = float(np.max(np.abs(a), initial=0.0)) or 1.0
        worst = max(worst, float(np.max(np.abs(a - b), initial=0.0)) / peak)
    return worst


def print_timings(described: Mapping[str, Any]) -> None:
    """Print what ``describe_timings`` returns."""
    threads, streams = described["threads"], described["streams"]
    how = f"{threads} thread{'s' * (threads > 1)}"
    how += f", {streams} streams" if streams > 1 else ""
    show.heading(f"{described['cpu']}: {how}, inputs {described['inputs']}")
    engines = described["engines"]
    show.table(
        (
            "+engine",
            ">p50 ms",
            ">p90 ms",
            ">p99 ms",
            ">runs/s",
            ">load ms",
            ">first ms",
            "+speed-up over it",
        ),
        [_row(engine) for engine in engines],
    )
    if len(engines) > 1:
        show.line(
            "speed-up: its median time / that of the first row, and the quartiles of the "
            f"{described['rounds']} rounds' ratios"
        )
    for engine in engines[1:]:
        show.line(f"{engine['title']}: {_agreement(engine)}")


def _row(engine: Mapping[str, Any]) -> tuple[str, ...]:
    latency = engine["latency_ms"]
    numbers = (
        *(latency[key] for key in ("p50", "p90", "p99")),
        engine["inferences_per_second"],
        engine["load_ms"],
        engine["first_ms"],
    )
    return (
        f"{engine['title']} {engine['version']}",
        *map(units.digits, numbers),
        spelled_speedup(engine["speedup"]),
    )


def spelled_speedup(speedup: Mapping[str, float] | None) -> str:
    """Return ``1.26x (1.25 to 1.27)``."""
    if speedup is None:
        return ""
    return f"{speedup['ratio']:.2f}x ({speedup['q1']:.2f} to {speedup['q3']:.2f})"


def _agreement(engine: Mapping[str, Any]) -> str:
    difference = engine["max_difference"]
    if difference is None:
        return "its outputs have other shapes"
    return f"its outputs differ by at most {difference:.1e} of the peak"
