"""The artefact's description of itself: JSON, read by ``inspect`` without loading code."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

from tvmopt.codegen.plan import Plan, Port
from tvmopt.targets.description import CpuTarget

FORMAT_VERSION = 1
_VERSIONED = ("tvmopt", "apache-tvm", "apache-tvm-ffi", "numpy", "onnx", "onnxscript")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # a build from source may have no metadata
        return None


def _ports(ports: Sequence[Port]) -> list[dict[str, Any]]:
    return [{"name": p.name, "dtype": p.dtype, "shape": list(p.shape)} for p in ports]


def _layers(plan: Plan) -> list[dict[str, Any]]:
    kernels = [plan.kernels[step.kernel] for step in plan.steps]
    return [
        {
            "layer": step.layer,
            "kernel": k.name,
            "macs": k.macs,
            "cycles": k.cycles,
            "parallel": k.parallel,
        }
        for step, k in zip(plan.steps, kernels, strict=True)
    ]


def make(
    plan: Plan,
    target: CpuTarget,
    *,
    name: str,
    model_sha256: str | None,
    recipe: Mapping[str, Any] | None,
    options: Mapping[str, Any],
    compiler: str,
) -> dict[str, Any]:
    """Return the manifest; "glibc", the least version that loads it, is for the linker to add."""
    return {
        "format_version": FORMAT_VERSION,
        "name": name,
        "versions": {package: _version(package) for package in _VERSIONED} | {"compiler": compiler},
        # Lists, as JSON reads back: the manifest in memory and in the file are equal.
        "target": {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(target).items()
        },
        "inputs": _ports(plan.inputs),
        "outputs": _ports(plan.outputs),
        "arena_bytes": plan.arena_bytes,
        "scratch_bytes": plan.scratch_bytes,
        "weights_bytes": len(plan.constants),
        "required_features": list(target.required),
        "layers": _layers(plan),
        "model_sha256": model_sha256,
        "recipe": dict(recipe) if recipe is not None else None,
        "options": dict(options),
        "glibc": None,
    }


def encode(manifest: Mapping[str, Any]) -> bytes:
    """Return the manifest as it lies in the artefact: ASCII JSON, keys in the order given."""
    return json.dumps(manifest, indent=1).encode("ascii")
