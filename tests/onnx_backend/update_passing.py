"""Write passing.txt: the names of ONNX's node cases that tvmopt passes.

Run it after an operator was added, and read the diff: a line that goes is a step back.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
import warnings
from collections import Counter
from pathlib import Path
from types import ModuleType

from onnx.backend.test.loader import load_node_model_tests

from tvmopt.errors import TvmoptError

logger = logging.getLogger(__name__)
BATCH = 40


def _load_batch() -> ModuleType:
    spec = importlib.util.spec_from_file_location("batch", Path(__file__).with_name("batch.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["batch"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


batch = _load_batch()


def _survivors(cases: list, failures: dict[str, str]) -> list[str]:
    """Return the names of the cases that pass; a batch that does not compile is cut in two."""
    try:
        wrong = batch.run(cases)
    except Exception as err:  # whatever it is, it names a case that does not pass
        if len(cases) == 1:
            failures[cases[0].name] = f"{type(err).__name__}: {err}".splitlines()[0][:200]
            return []
        half = len(cases) // 2
        return _survivors(cases[:half], failures) + _survivors(cases[half:], failures)
    failures.update(wrong)
    return [case.name for case in cases if case.name not in wrong]


def main() -> None:
    """Try every node case and write those that pass."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("tvmopt").setLevel(logging.WARNING)
    warnings.simplefilter("ignore")
    prepared, failures = [], {}
    for case in sorted(load_node_model_tests(), key=lambda c: c.name):
        try:
            prepared.append(batch.prepare(case))
        except TvmoptError as err:
            failures[case.name] = f"unsupported: {err}"
        except Exception as err:
            failures[case.name] = f"escaped: {type(err).__name__}: {err}"
    logger.info("%d cases load, %d do not", len(prepared), len(failures))
    passing: list[str] = []
    for cases in batch.batches(prepared, BATCH):
        passing += _survivors(cases, failures)
        logger.info("%d of %d pass", len(passing), len(prepared))
    for name, reason in sorted(failures.items()):
        logger.info("%s: %s", name, reason)
    kinds = Counter(reason.split(":")[0].split(" ")[0] for reason in failures.values())
    logger.info("%d pass; %s", len(passing), dict(kinds.most_common(5)))
    Path(__file__).with_name("passing.txt").write_text("\n".join(sorted(passing)) + "\n")


if __name__ == "__main__":
    main()
