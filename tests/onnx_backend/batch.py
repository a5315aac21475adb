"""Run many of ONNX's node cases as one model: compiling each by itself takes too long."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
from onnx import compose


def _load_adapter() -> ModuleType:
    """Import the adapter beside this file: the tests are files, not a package."""
    spec = importlib.util.spec_from_file_location("adapter", Path(__file__).with_name("adapter.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


adapter = _load_adapter()


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A case as tvmopt takes it.

    Attributes:
        name: ONNX's name for it.
        model: The model.
        feeds: Its inputs.
        expected: Its outputs, in order.
        rtol: Relative tolerance that ONNX allows.
        atol: Absolute tolerance that ONNX allows.
    """

    name: str
    model: onnx.ModelProto
    feeds: Mapping[str, np.ndarray]
    expected: Sequence[np.ndarray]
    rtol: float
    atol: float


def prepare(case: Any) -> Prepared:
    """Return a case of ``onnx.backend.test`` as tvmopt takes it.

    Raises:
        TvmoptError: It does not.
    """
    inputs, outputs = case.data_sets[0]
    names = [value.name for value in case.model.graph.input]
    feeds = dict(zip(names, map(adapter.array, inputs), strict=True))
    model, feeds = adapter.specialize(case.model, feeds)
    return Prepared(
        name=case.name,
        model=model,
        feeds=feeds,
        expected=[adapter.array(value) for value in outputs],
        rtol=case.rtol,
        atol=case.atol,
    )


def batches(cases: Sequence[Prepared], size: int) -> Iterator[list[Prepared]]:
    """Yield the cases in groups of at most ``size`` that use the same operator sets."""
    groups: dict[tuple[tuple[str, int], ...], list[Prepared]] = {}
    for case in cases:
        key = tuple(sorted((o.domain, o.version) for o in case.model.opset_import))
        groups.setdefault(key, []).append(case)
    for group in groups.values():
        for start in range(0, len(group), size):
            yield group[start : start + size]


def run(cases: Sequence[Prepared]) -> dict[str, str]:
    """Compile the cases as one model, run it, and compare.

    Returns:
        Case name to what is wrong, for each case whose values, shapes or types are not those that
        ONNX expects.
    """
    merged, feeds, sizes = onnx.ModelProto(), {}, []
    merged.ir_version = max(case.model.ir_version for case in cases)
    merged.opset_import.extend(cases[0].model.opset_import)
    merged.graph.name = "batch"
    for i, case in enumerate(cases):
        part = compose.add_prefix(case.model, f"case{i}_")
        merged.graph.node.extend(part.graph.node)
        merged.graph.initializer.extend(part.graph.initializer)
        merged.graph.input.extend(part.graph.input)
        merged.graph.output.extend(part.graph.output)
        merged.functions.extend(part.functions)
        feeds |= {f"case{i}_{name}": value for name, value in case.feeds.items()}
        sizes.append(len(part.graph.output))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "batch.onnx"
        path.write_bytes(merged.SerializeToString())
        results = iter(adapter.compile_and_run(path, feeds))
    wrong = {}
    for case, size in zip(cases, sizes, strict=True):
        got = [next(results) for _ in range(size)]
        problem = _difference(case, got)
        if problem:
            wrong[case.name] = problem
    return wrong


def _difference(case: Prepared, got: Sequence[np.ndarray]) -> str:
    for ours, theirs in zip(got, case.expected, strict=True):
        if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
            return f"{ours.dtype}{ours.shape} is not {theirs.dtype}{theirs.shape}"
        exact = theirs.dtype.kind != "f"
        a, b = (v if exact else v.astype(np.float64) for v in (ours, theirs))
        if not (
            np.array_equal(a, b)
            if exact
            else np.allclose(a, b, rtol=case.rtol, atol=case.atol, equal_nan=True)
        ):
            return f"{ours.ravel()[:4]}... is not {theirs.ravel()[:4]}..."
    return ""
