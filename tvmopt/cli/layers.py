"""What ``profile`` and ``demo`` say of an artefact's layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tvmopt.cli import show, units
from tvmopt.cli.machine import cpu_name
from tvmopt.metrics.layer_times import TOLERANCE, Profile


def describe_profile(profile: Profile, source: str) -> dict[str, Any]:
    """Return a profile as JSON can hold it."""
    return {
        "cpu": cpu_name(),
        "threads": profile.threads,
        "runs": profile.runs,
        "inputs": source,
        "peak_gflops": profile.peak_gflops,
        "total_ms": profile.total_ms,
        "macs": profile.macs,
        "peak_share": profile.peak_share,
        "predicted_share": profile.predicted_share,
        "layers": [
            {
                "layer": layer.step.layer,
                "kernel": layer.step.kernel,
                "parallel": layer.step.parallel,
                "macs": layer.step.macs,
                "median_ms": layer.median_ms,
                "least_ms": layer.least_ms,
                "predicted_ms": layer.predicted_ms,
                "share": layer.share,
                "gflops": layer.gflops,
                "peak_share": layer.peak_share,
            }
            for layer in profile.layers
        ],
    }


def print_profile(described: Mapping[str, Any]) -> None:
    """Print what ``describe_profile`` returns."""
    threads = described["threads"]
    show.heading(
        f"{described['cpu']}: {threads} thread{'s' * (threads > 1)}, "
        f"inputs {described['inputs']}, {described['runs']} runs"
    )
    rows = [
        (
            layer["layer"],
            layer["kernel"],
            f"{layer['median_ms']:.4f}",
            "" if layer["predicted_ms"] is None else f"{layer['predicted_ms']:.4f}",
            units.percent(layer["share"], 1),
            units.scaled(layer["macs"]) if layer["macs"] else "",
            "" if layer["peak_share"] is None else units.percent(layer["peak_share"], 0),
        )
        for layer in described["layers"]
    ]
    total = (
        "all",
        "",
        f"{described['total_ms']:.4f}",
        "",
        units.percent(1.0, 1),
        units.scaled(described["macs"]),
        units.percent(described["peak_share"], 0),
    )
    columns = ("+layer", "+kernel", ">ms", ">predicted", ">share", ">MACs", ">of peak")
    show.table(columns, [*rows, total])
    times = f" x {threads} cores" if threads > 1 else ""
    show.line(
        f"peak: {units.digits(described['peak_gflops'], 4)} GFLOP/s a core{times}, measured just "
        "before; one MAC is two FLOPs; Winograd kernels multiply less than their MACs say"
    )
    near = units.percent(described["predicted_share"], 0)
    show.line(
        f"layers of {near} of the time are predicted within {units.percent(TOLERANCE, 0)} of their "
        "fastest run"
    )
