"""ONNX's own node cases: the list of those that pass must not shrink."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from onnx import helper

from tvmopt.errors import TvmoptError

# Compiling costs about as much for one case as for ten; a batch is cut no smaller than an error
# message can be read.
BATCH = 40
PASSING = Path(__file__).with_name("passing.txt").read_text().split()


def _load(name: str) -> ModuleType:
    """Import a file beside this one: the tests are files, not a package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


batch = _load("batch")


@pytest.fixture(scope="module")
def node_cases() -> dict[str, object]:
    """Return ONNX's node cases by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own overflows and divisions by zero
        from onnx.backend.test.loader import load_node_model_tests

        return {case.name: case for case in load_node_model_tests()}


@pytest.mark.slow
@pytest.mark.parametrize("start", range(0, len(PASSING), BATCH))
def test_listed_cases_pass(node_cases: dict[str, object], start: int) -> None:
    prepared, wrong = [], {}
    for name in PASSING[start : start + BATCH]:
        if name not in node_cases:
            continue  # another release of ONNX has other cases
        try:
            prepared.append(batch.prepare(node_cases[name]))
        except TvmoptError as err:
            wrong[name] = str(err)
    for cases in batch.batches(prepared, BATCH):
        wrong |= batch.run(cases)
    assert not wrong


def test_list_is_sorted_and_long() -> None:
    # TVM 0.27's own importer passes 734 of the cases of onnx 1.20.
    assert sorted(set(PASSING)) == PASSING
    assert len(PASSING) > 734


def test_wrong_values_are_seen() -> None:
    graph = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", 1, [2])],
        [helper.make_tensor_value_info("y", 1, [2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    x = np.array([1.0, 2.0], np.float32)
    cases = [
        batch.Prepared(
            name=name, model=model, feeds={"x": x}, expected=[expected], rtol=1e-3, atol=1e-7
        )
        for name, expected in (("right", -x), ("wrong", x), ("other type", -x.astype(np.float64)))
    ]
    assert batch.run(cases).keys() == {"wrong", "other type"}
    (direct,) = batch.adapter.TvmoptBackend.prepare(model).run([x])
    np.testing.assert_array_equal(direct, -x)


def test_other_devices_are_refused() -> None:
    with pytest.raises(TvmoptError, match="the device must be CPU, got 'CUDA'"):
        batch.adapter.TvmoptBackend.prepare(None, device="CUDA")
