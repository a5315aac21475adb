"""What the demo prints, and its HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from tvmopt import __version__
from tvmopt.cli import plots, show, units
from tvmopt.cli.demo_compressed import print_compressed
from tvmopt.cli.files import save_text
from tvmopt.cli.timings import print_timings, spelled_speedup
from tvmopt.metrics.engines import PACKAGES, TITLES


def print_demo(described: Mapping[str, Any]) -> None:
    """Print what ``run_demo`` returns."""
    compiled, output = described["compiled"], Path(described["output"])
    show.heading("Fashion-MNIST classifier, compiled for this machine")
    profile = described["profile"]
    show.facts((
        ("target", compiled["target"]),
        ("compiled in", f"{units.digits(compiled['seconds'])} s"),
        ("model.so", f"{units.bytes_(compiled['bytes'])}, "
                     f"of it {units.bytes_(compiled['weights_bytes'])} weights; "
                     f"the ONNX file has {units.bytes_(compiled['model_bytes'])}"),
        ("arena", units.bytes_(compiled["arena_bytes"])),
        ("MACs", units.scaled(compiled["macs"])),
        ("arithmetic", f"{units.percent(profile['peak_share'], 0)} of the FMA peak of "
                       f"{units.digits(profile['peak_gflops'], 4)} GFLOP/s a core, measured now; "
                       "Winograd kernels save multiplications"),
    ))  # fmt: skip
    _print_quality(described["quality"])
    print_timings(described["timing"])
    print_compressed(described["compressed"], floats_row(described))
    for name in described["not_installed"]:
        show.line(f"{TITLES[name]} is not installed; 'pip install {PACKAGES[name]}' adds it here")
    smaller = [one["file"] for one in described["compressed"]]
    names = ", ".join(str(output / name) for name in ("model.so", *smaller, "report.html"))
    show.line(f"wrote {names}, and headers")


def floats_row(described: Mapping[str, Any]) -> dict[str, Any]:
    """Return what compressed artefacts are compared with."""
    compiled = described["compiled"]
    return {
        "bytes": compiled["bytes"],
        "weights_bytes": compiled["weights_bytes"],
        "accuracy": described["quality"][0]["accuracy"],
        "p50": described["timing"]["engines"][0]["latency_ms"]["p50"],
    }


def _print_quality(quality: list[Mapping[str, Any]]) -> None:
    rows = [
        (
            one["title"],
            *(units.percent(one[name]) for name in ("accuracy", "precision", "recall", "f1")),
            f"{one['max_error']:.0e}" if i else "",
            units.bytes_(one["deployed_bytes"]),
        )
        for i, one in enumerate(quality)
    ]
    columns = (
        f"{quality[0]['images']} images",
        ">accuracy",
        ">precision",
        ">recall",
        ">F1",
        ">largest difference",
        ">to deploy",
    )
    show.table(columns, rows)


def write_report(path: Path, described: Mapping[str, Any]) -> None:
    """Draw the page and write it; it needs no other file and no network.

    Raises:
        ArtifactError: It cannot be written.
    """
    import jinja2

    template = resources.files("tvmopt.cli") / "templates" / "report.html.j2"
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals.update(
        digits=units.digits,
        scaled=units.scaled,
        bytes=units.bytes_,
        percent=units.percent,
        speedup=spelled_speedup,
        version=__version__,
    )
    page = environment.from_string(template.read_text()).render(
        demo=described,
        latency_plot=plots.latency(described["timing"]["engines"]),
        quality_plot=plots.quality(described["quality"]),
        profile_plot=plots.layers(described["profile"]),
        confusion_plot=plots.confusion(described["quality"][0], described["classes"]),
    )
    save_text(path, page)
