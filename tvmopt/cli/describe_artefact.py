"""What ``inspect`` says of an artefact."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tvmopt.cli import show, units
from tvmopt.cli.compressing import print_compression
from tvmopt.runtime import read_manifest


def describe_artefact(path: Path) -> dict[str, Any]:
    """Return the manifest of an artefact for any machine, its path and its size."""
    manifest = read_manifest(path)
    macs = sum(layer["macs"] or 0 for layer in manifest["layers"])
    return {"file": str(path), "bytes": path.stat().st_size, "macs": macs, **manifest}


def print_artefact(described: Mapping[str, Any]) -> None:
    """Print what ``describe_artefact`` returns."""
    target = described["target"]
    show.heading(f"{described['file']}: artefact {described['name']!r}")
    show.facts((
        ("target", f"{target['name']} ({target['triple']}, {target['cpu']})"),
        ("needs", ", ".join(described["required_features"]) or "no CPU feature beyond the triple"),
        ("least glibc", str(described["glibc"])),
        ("size", units.bytes_(described["bytes"])),
        ("weights", units.bytes_(described["weights_bytes"])),
        ("arena", f"{units.bytes_(described['arena_bytes'])} an instance"),
        ("scratch", f"{units.bytes_(described['scratch_bytes'])} a thread"),
        ("MACs", units.scaled(described["macs"])),
        ("model sha256", str(described["model_sha256"])),
        ("compiled by", _versions(described["versions"])),
    ))  # fmt: skip
    print_ports(described)
    rows = (
        (
            layer["layer"],
            layer["kernel"],
            "" if layer["macs"] is None else units.scaled(layer["macs"]),
            "yes" if layer["parallel"] else "",
        )
        for layer in described["layers"]
    )
    show.table(("+layer", "+kernel", ">MACs", "parallel"), rows)
    if described["recipe"] is not None:
        print_compression(described["recipe"])


def print_ports(described: Mapping[str, Any]) -> None:
    """Print the tables "inputs" and "outputs" of a description."""
    rows = [
        (role, port["name"], port["dtype"], units.shape(port["shape"]))
        for role in ("input", "output")
        for port in described[f"{role}s"]
    ]
    show.table(("", "+name", "dtype", "shape"), rows)


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
