"""What ``inspect`` says of an ONNX file."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tvmopt
from tvmopt.cli import show, units
from tvmopt.cli.describe_artefact import print_ports


def describe_onnx(path: Path, shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Return what an ONNX file holds, as JSON can hold it."""
    model = tvmopt.describe(path, shapes)
    summary, layers = model.summary, [asdict(layer) for layer in model.layers]
    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        "sha256": summary.sha256,
        "opset": summary.opset,
        "ir_version": summary.ir_version,
        "producer": summary.producer,
        "inputs": _ports(summary.inputs),
        "outputs": _ports(summary.outputs),
        "open_shapes": model.open_shapes,
        "problem": model.problem,
        "parameters": summary.parameters,
        "parameter_bytes": summary.parameter_bytes,
        "sparsity": model.sparsity,
        "macs": model.macs,
        "operators": _operators(summary.operators, layers, model.unsupported),
        "unsupported": {name: list(nodes) for name, nodes in model.unsupported.items()},
        "layers": layers,
    }


def _ports(declared: Mapping[str, tuple[str, Any]]) -> list[dict[str, Any]]:
    numpy_names = {"float": "float32", "double": "float64"}
    return [
        {
            "name": name,
            "dtype": numpy_names.get(dtype, dtype),
            "shape": None if dims is None else list(dims),
        }
        for name, (dtype, dims) in declared.items()
    ]


def _operators(
    counts: Mapping[str, int], layers: Sequence[Mapping[str, Any]], missing: Mapping[str, object]
) -> list[dict[str, Any]]:
    """Return a row for each operator: in the file, after folding, its work and its weights."""
    folded: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for layer in layers:
        folded[layer["operator"]].append(layer)
    names = dict.fromkeys([*counts, *folded])
    return [
        {
            "operator": name,
            "nodes": counts.get(name, 0),
            "nodes_after_folding": len(folded[name]) if layers else None,
            "macs": _sum([layer["macs"] for layer in folded[name]]) if layers else None,
            "parameters": sum(layer["parameters"] for layer in folded[name]) if layers else None,
            "supported": name not in missing,
        }
        for name in names
    ]


def _sum(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def print_onnx(described: Mapping[str, Any], *, layers: bool) -> None:
    """Print what ``describe_onnx`` returns."""
    show.heading(f"{described['file']}: ONNX model, opset {described['opset']}")
    size = units.bytes_(described["parameter_bytes"])
    show.facts((
        ("producer", described["producer"] or "not stated"),
        ("size", units.bytes_(described["bytes"])),
        ("parameters", f"{units.scaled(described['parameters'])} ({size})"),
        ("sparsity", f"{units.percent(described['sparsity'])} of the weights are zero"
                     f"{_structures(described['layers'])}"),
        ("MACs", _count(described["macs"], "known once all shapes are fixed")),
        ("sha256", described["sha256"]),
    ))  # fmt: skip
    print_ports(described)
    rows = (
        (
            row["operator"],
            str(row["nodes"]),
            _count(row["nodes_after_folding"]),
            _count(row["macs"]),
            _count(row["parameters"]),
            "" if row["supported"] else "not supported",
        )
        for row in described["operators"]
    )
    show.table(("operator", ">nodes", ">folded", ">MACs", ">parameters", ""), rows)
    if layers:
        _print_layers(described["layers"])
    _print_obstacles(described)


def _structures(layers: Sequence[Mapping[str, Any]]) -> str:
    """Return in which structures zeros are, and in how many layers each."""
    counts = Counter(layer["zeros"] for layer in layers if layer["zeros"])
    listed = ", ".join(f"{name} in {count}" for name, count in counts.most_common())
    return f"; by layers: {listed}" if listed else ""


def _print_layers(layers: Sequence[Mapping[str, Any]]) -> None:
    rows = (
        (
            layer["name"],
            layer["operator"],
            units.shape(layer["shape"]) if layer["shape"] is not None else "open",
            _count(layer["macs"]),
            _count(layer["parameters"]),
            "" if layer["sparsity"] is None else units.percent(layer["sparsity"], 1),
            layer["zeros"] or "",
            *_ranks(layer["ranks"]),
        )
        for layer in layers
    )
    heads = ("+layer", "operator", "output", ">MACs", ">parameters", ">sparsity", "zeros in")
    show.table((*heads, ">rank, 90 %", ">99 %", ">of"), rows)


def _ranks(ranks: Sequence[int] | None) -> list[str]:
    return [""] * 3 if ranks is None else [str(rank) for rank in ranks]


def _print_obstacles(described: Mapping[str, Any]) -> None:
    """Say all that keeps the model from being compiled, at once."""
    missing = described["unsupported"]
    if missing:
        listed = "; ".join(f"{name} ({_nodes(nodes)})" for name, nodes in missing.items())
        show.line(f"not supported: {listed}")
    for key in ("open_shapes", "problem"):
        if described[key]:
            show.line(described[key])
    if not missing and not described["open_shapes"] and not described["problem"]:
        show.line("every operator is supported")


def _nodes(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more


def _count(value: int | None, unknown: str = "") -> str:
    return unknown if value is None else units.scaled(value)
